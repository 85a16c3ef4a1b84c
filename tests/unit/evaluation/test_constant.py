"""The best constant answer: found among training molecules, whatever the references are like."""

import json
from pathlib import Path

import pandas as pd
import pytest
from ocsrflow.chem.similarity import tanimoto
from ocsrflow.evaluation.constant import constant
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError


def test_no_other_training_molecule_is_nearer_to_the_references(dataset: Path, tmp_path: Path) -> None:
    data = dataset / "images.h5"
    constant(data, out=tmp_path / "c.parquet", facts=tmp_path / "c.json", processes=2)
    packed = Packed(data)
    references = packed.text("smiles", packed.members("test"))
    candidates = packed.text("smiles", packed.members("train"))
    totals = {text: sum(tanimoto(text, reference) for reference in references) for text in candidates}
    rows, facts = pd.read_parquet(tmp_path / "c.parquet"), json.loads((tmp_path / "c.json").read_text())
    assert set(rows["prediction"]) == {facts["answer"]}
    assert totals[facts["answer"]] == pytest.approx(max(totals.values()))
    assert rows["reference"].tolist() == references
    assert facts["candidates"] == len(set(candidates))


def test_without_anything_to_compare_it_is_reported(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no constant answer without a reference"):
        constant(dataset / "images.h5", out=tmp_path / "c.parquet", facts=tmp_path / "c.json", size=0)
