"""Which texts are the same molecule: one answer for scores, splits, duplicates, rewards and votes."""

import random
from pathlib import Path

import pandas as pd
import pytest
from ocsrflow.chem.molecules import canonical, parse
from ocsrflow.chem.scores import EXACT, evaluate
from ocsrflow.chem.similarity import parse_all
from ocsrflow.corpus.sample import sample
from ocsrflow.ensemble.voting_methods import METHODS, Candidates
from ocsrflow.training.rewards import reward
from rdkit import Chem, RDConfig

# Molecules whose canonical SMILES, parsed and written again, is another text, and the time after that the first one.
ALTERNATING = [
    "O=C(c1ccccc1C(=O)N1C(=O)c2ccccc2C1=O)N1C(=O)c2ccccc2C1=O",
    "N[C@]1(C(=O)O)[C@@H]2C[C@H]3C[C@@H](C2)C[C@H]1C3",
    "O[C@H]1[C@H]2C[C@H]3C[C@@H](C2)C[C@@H]1C3",
]


def again(text: str) -> str:
    return Chem.MolToSmiles(Chem.MolFromSmiles(text))


@pytest.mark.parametrize("text", ALTERNATING)
def test_a_molecule_is_the_same_as_its_own_canonical_form(text: str, tmp_path: Path) -> None:
    first = again(text)
    second = again(first)
    assert first != second
    assert again(second) == first
    assert canonical(text) == canonical(first) == canonical(second) == min(first, second)

    assert {evaluate([second], [first]).scores[name].value for name in EXACT} == {1.0}
    assert reward("exact", (first, second)) == 1.0
    answers = ("CCO", first, second)  # 0.4 and twice 0.3
    candidates = Candidates(answers, (-0.92, -1.2, -1.2))
    assert METHODS["votes"](candidates, parse_all(answers)).text == first

    texts = [first, second, *("C" * n for n in range(1, 60))]
    kept = tmp_path / "kept.parquet"
    table = pd.DataFrame({"cid": range(len(texts)), "length": list(map(len, texts)), "smiles": texts, "file": None})
    table.astype({"file": "str"}).to_parquet(kept, index=False)
    out, rejects = tmp_path / "sample.parquet", tmp_path / "rejects.csv"
    lengths = tmp_path / "lengths.csv"
    sample(kept, out=out, lengths=lengths, rejects=rejects, max_length=100, validation=0.2, test=0.2)
    assert len(pd.read_parquet(out)) == len(texts) - 1
    assert pd.read_csv(rejects)[["reason", "count"]].to_numpy().tolist() == [["duplicate_molecule", 1]]


def test_other_stereoisomers_are_other_molecules() -> None:
    texts = ["C[C@H](N)O", "C[C@@H](N)O", "C/C=C/C", "C/C=C\\C", "OC1CCC(O)CC1", "O[C@H]1CC[C@H](O)CC1"]
    assert len(set(map(canonical, texts))) == len(texts)


def test_spellings_are_one_molecule_and_a_look_at_symmetry_saves_no_round_that_is_needed() -> None:
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii").splitlines()
    generator = random.Random(0)
    compared = 0
    for text in [*ALTERNATING[:1], *(line.split("\t")[0] for line in lines[::25])]:
        molecule = parse(text)
        if molecule is None or canonical(text) is None:
            continue
        order = list(range(molecule.GetNumAtoms()))
        generator.shuffle(order)
        other = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False)
        texts = [Chem.MolToSmiles(molecule)]
        while (text := again(texts[-1])) not in texts:
            texts.append(text)
        assert canonical(other) == canonical(text) == min(texts[texts.index(text) :])
        compared += 1
    assert compared > 190
