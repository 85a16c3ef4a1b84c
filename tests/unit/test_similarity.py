"""Texts parsed in guarded processes: what is found, and what becomes of texts and items that hang or crash."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from ocsrflow.guarded import CHUNK, Failed, attempts, guarded
from ocsrflow.similarity import Known, known, remembered, tanimoto
from rdkit import Chem, RDConfig

# The icosahedral core of gold clusters: RDKit lists all its paths for the fingerprint, for seconds.
GOLD = (
    "[Au]12345[Au]6789[Au]1%10%11%12[Au]21%13%14[Au]32%15%16[Au]463%17[Au]746%18[Au]8%107%19"
    "[Au]%1118%10[Au]%1321%11[Au]3%1542[Au]7681[Au]59%12%17%14%16%19%18%102%11"
)


def nci(count: int) -> list[str]:
    text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
    return [line.split("\t")[0] for line in text.splitlines()[:count]]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_known_is_what_rdkit_says(processes: int) -> None:
    texts = [*nci(200), "", "C(C", "not a molecule", "C", "CCO", "OCC", "CCO"]
    found = known(iter(texts), processes=processes)
    assert list(found) == list(dict.fromkeys(texts))
    for text, own in found.items():
        molecule = Chem.MolFromSmiles(text) if text else None
        if molecule is None:
            assert own is None
        else:
            assert isinstance(own, Known)
            assert own.canonical == Chem.MolToSmiles(molecule)
            assert own == remembered(text)
            assert own.fingerprint == Chem.RDKFingerprint(molecule)
    assert {text for text, own in found.items() if own is None} == {"", "C(C", "not a molecule"}


def test_spellings_of_a_molecule_have_one_fingerprint() -> None:
    """On which the processes rely, which remember it by the canonical SMILES."""
    for text in nci(300):
        molecule = Chem.MolFromSmiles(text)
        if molecule is not None:
            other = Chem.MolFromSmiles(Chem.MolToSmiles(molecule, doRandom=True))
            if Chem.MolToSmiles(other) == Chem.MolToSmiles(molecule):
                assert Chem.RDKFingerprint(other) == Chem.RDKFingerprint(molecule)


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
    assert known(["CCO", text])[text] is None


def test_nothing_is_known_of_no_texts() -> None:
    assert known([]) == {}


def test_a_text_that_holds_rdkit_up_is_given_up_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["CCO", GOLD, "CCN"]
    found = known(texts, seconds=1.0, what="candidates")
    assert found[GOLD] is None
    assert None not in (found["CCO"], found["CCN"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"candidates: counted as invalid, not done in 1 s: {GOLD[:60]}… ({len(GOLD)} characters)"


def test_a_process_cannot_take_all_memory() -> None:
    code = "from ocsrflow.similarity import limit_memory\nlimit_memory()\nbytearray(1 << 20)\nbytearray(5 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("MemoryError\n")
    assert "line 4" in done.stderr


def prepare() -> None:
    pass


def behave(items: Sequence[int | str]) -> list[int | str]:
    found = []
    for item in items:
        if item == "hang":
            time.sleep(60)
        if item == "die":
            os.abort()
        found.append(item)
    return found


def meet(folders: Sequence[Path]) -> list[int]:
    """Wait for another process that does the same."""
    (folders[0] / str(os.getpid())).touch()
    while len(list(folders[0].iterdir())) < 2:
        time.sleep(0.01)
    return [os.getpid()] * len(folders)


def test_processes_work_at_the_same_time(tmp_path: Path) -> None:
    found = list(guarded(meet, [tmp_path] * (2 * CHUNK), seconds=30.0, prepare=prepare, processes=2))
    assert len(found) == 2 * CHUNK
    assert len(set(found)) == 2


def test_processes_lose_only_what_hangs_or_dies() -> None:
    items: list[int | str] = list(range(12 * CHUNK))
    bad = {3: "hang", 5 * CHUNK: "die"}
    for place, word in bad.items():
        items[place] = word
    results = list(guarded(behave, items, seconds=2.0, prepare=prepare, processes=3))
    assert len(results) == len(items)
    for place, result in enumerate(results):
        if place in bad:
            assert isinstance(result, Failed)
            assert result.reason == {"hang": "too_slow", "die": "crashed"}[bad[place]]
        else:
            assert not isinstance(result, Failed)
            assert result == place


def halve(item: int) -> float:
    if item == 3:
        raise MemoryError
    return 1 / item


def test_an_exception_costs_only_its_item() -> None:
    found = list(guarded(partial(attempts, halve), [1, 0, 2, 3], seconds=5.0, prepare=prepare))
    assert (found[0], found[2]) == (1.0, 0.5)
    assert isinstance(found[1], Failed)
    assert str(found[1]) == "ZeroDivisionError: division by zero"
    assert isinstance(found[3], Failed)
    assert str(found[3]) == "it needs too much memory"
    again = pickle.loads(pickle.dumps(found[1]))
    assert (again.reason, str(again)) == ("crashed", str(found[1]))
