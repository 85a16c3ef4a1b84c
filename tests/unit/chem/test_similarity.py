"""Texts parsed in guarded processes: what is found, and what becomes of texts and items that hang or crash."""

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from ocsrflow.chem.similarity import ParsedMolecule, parse_all, parse_cached, tanimoto
from ocsrflow.runtime.isolated import CHUNK, Failed, attempts, guarded
from rdkit import Chem
from support.data import GOLD, nci
from support.items import behave, halve, meet, nothing, prepare
from support.waiting import PATIENCE


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_known_is_what_rdkit_says(processes: int) -> None:
    texts = [*nci(200), "", "C(C", "not a molecule", "C", "CCO", "OCC", "CCO"]
    found = parse_all(iter(texts), processes=processes)
    assert list(found) == list(dict.fromkeys(texts))
    for text, own in found.items():
        molecule = Chem.MolFromSmiles(text) if text else None
        if molecule is None:
            assert own is None
        else:
            assert isinstance(own, ParsedMolecule)
            assert own.canonical == Chem.MolToSmiles(molecule)
            assert own == parse_cached(text)
            assert own.fingerprint == Chem.RDKFingerprint(molecule)
    assert {text for text, own in found.items() if own is None} == {"", "C(C", "not a molecule"}


def test_spellings_of_a_molecule_have_one_fingerprint() -> None:
    """On which the processes rely, which remember it by the canonical SMILES."""
    looked_at = 0
    for text in nci(300):
        molecule = Chem.MolFromSmiles(text)
        if molecule is not None:
            other = Chem.MolFromSmiles(Chem.MolToSmiles(molecule, doRandom=True))
            if Chem.MolToSmiles(other) == Chem.MolToSmiles(molecule):
                assert Chem.RDKFingerprint(other) == Chem.RDKFingerprint(molecule)
                looked_at += 1
    assert looked_at > 250


@pytest.mark.parametrize("text", ["C", "[Na+].[Cl-]", "O", "[13CH4]", "[H+]", "[Fe+2].[Cl-].[Cl-]", "CCO"])
def test_the_same_molecules_have_similarity_1(text: str) -> None:
    assert tanimoto(text, ".".join(reversed(text.split(".")))) == 1.0


@pytest.mark.parametrize(("a", "b"), [("C", "[13CH4]"), ("[Na+].[Cl-]", "[K+].[Br-]"), ("O", "S"), ("C", "C(C")])
def test_different_molecules_without_a_bond_have_similarity_0(a: str, b: str) -> None:
    assert tanimoto(a, b) == tanimoto(b, a) == 0.0


@pytest.mark.parametrize(
    "text", ["CCO ethanol", " CCO", "CCO\tx", "CCO\nCCC", "CCO |$;;a$|", "CCO\x00C", "CCO\xa0", "\ufeffCCO", "ССО"]
)
def test_a_smiles_is_printable_ascii_without_spaces(text: str) -> None:
    assert parse_all(["CCO", text])[text] is None


def test_nothing_is_known_of_no_texts() -> None:
    assert parse_all([]) == {}


def test_a_text_that_holds_rdkit_up_is_given_up_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["CCO", GOLD, "CCN"]
    found = parse_all(texts, seconds=2.0, what="candidates")
    assert found[GOLD] is None
    assert None not in (found["CCO"], found["CCN"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"candidates: counted as invalid, not done in 2 s: {GOLD[:60]}… ({len(GOLD)} characters)"


def test_a_process_cannot_take_all_memory() -> None:
    code = "from ocsrflow.chem.similarity import limit_memory\nlimit_memory()\nbytearray(1 << 20)\nbytearray(5 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("MemoryError\n")
    assert "line 4" in done.stderr


def test_processes_work_at_the_same_time(tmp_path: Path) -> None:
    found = list(guarded(meet, [tmp_path] * (2 * CHUNK), seconds=PATIENCE, prepare=nothing, processes=2))
    assert len(found) == 2 * CHUNK
    assert len(set(found)) == 2


def test_processes_lose_only_what_hangs_or_dies() -> None:
    items: list[int | str] = list(range(12 * CHUNK))
    bad = {3: "hang", 5 * CHUNK: "die"}
    for place, word in bad.items():
        items[place] = word
    results = list(guarded(behave, items, seconds=4.0, prepare=prepare, arguments=("hello",), processes=3))
    assert len(results) == len(items)
    for place, result in enumerate(results):
        if place in bad:
            assert isinstance(result, Failed)
            assert result.reason == {"hang": "too_slow", "die": "crashed"}[bad[place]]
        else:
            assert not isinstance(result, Failed)
            assert result == f"hello {place}"


def test_an_exception_costs_only_its_item() -> None:
    found = list(guarded(partial(attempts, halve), [1, 0, 2, 3], seconds=5.0, prepare=nothing))
    assert (found[0], found[2]) == (1.0, 0.5)
    assert isinstance(found[1], Failed)
    assert str(found[1]) == "ZeroDivisionError: division by zero"
    assert isinstance(found[3], Failed)
    assert str(found[3]) == "it needs too much memory"
    again = pickle.loads(pickle.dumps(found[1]))
    assert (again.reason, str(again)) == ("crashed", str(found[1]))
