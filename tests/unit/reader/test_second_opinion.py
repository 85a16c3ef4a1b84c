"""OSRA is asked where the models are not sure; a stand-in says what it reads."""

import csv
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.ensemble.voting_methods import Decision
from ocsrflow.reader.ensemble_reader import Answer
from ocsrflow.reader.read import read
from ocsrflow.reader.second_opinion import SecondOpinion
from ocsrflow.runtime.errors import UserError
from PIL import Image
from rdkit import Chem
from support.data import make_model
from support.needs import need
from support.processes import program

# Its answer is written below the picture's grey: 10 crashes it, 20 finds nothing, others read a molecule.
STAND_IN = """
case $({python} -c 'import sys; from PIL import Image; print(Image.open(sys.argv[1]).getpixel((0, 0)))' "$1") in
  10) kill -SEGV $$ ;; 20) ;; 30) echo OCC ;; 40) echo not-a-smiles ;; *) echo 'CCN 0.5' ;;
esac"""


def picture(folder: Path, grey: int) -> Path:
    path = folder / f"{grey}.png"
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(path)
    return path


def answer(confidence: float, text: str = "CCO") -> Answer:
    return Answer(Decision(text, 0, 1.0, -0.5, 0.2), True, confidence, [(text, -0.5)], {"a": text})


def test_it_answers_where_the_models_are_not_sure_and_it_finds_another_molecule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "bin/osra", STAND_IN.format(python=sys.executable))
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    of = {grey: picture(tmp_path, grey) for grey in (10, 20, 30, 40, 50, 60)}
    given = {path: answer(0.9 if grey == 60 else 0.7) for grey, path in of.items()}
    found = SecondOpinion(2).on(given)
    assert list(found) == list(given)
    texts = {grey: found[path].decision.text for grey, path in of.items()}
    assert texts == {10: "CCO", 20: "CCO", 30: "CCO", 40: "CCO", 50: "CCN", 60: "CCO"}
    osra = {grey: found[path].members.get("osra") for grey, path in of.items()}
    assert osra == {10: "", 20: "", 30: "OCC", 40: "not-a-smiles", 50: "CCN", 60: None}  # the sure one was not asked
    assert [found[of[grey]].confidence for grey in (30, 40, 60)] == [0.7, 0.7, 0.9]
    assert math.isnan(found[of[50]].confidence)
    assert 0.5 < found[of[50]].decision.agreement < 1  # with itself and the model
    assert found[of[50]].candidates == [("CCO", -0.5)]


def test_where_it_is_not_installed_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="osra is not installed: apt install osra"):
        read([tmp_path], out=tmp_path / "out.csv", with_=["osra"])


def test_the_program_itself_helps_a_model_that_reads_nothing(dataset: Path, tmp_path: Path) -> None:
    need("osra")
    model = make_model(dataset, tmp_path / "models/random", 0)
    (tmp_path / "in").mkdir()
    Image.fromarray(draw(Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1"), Depiction(size=500))).save(tmp_path / "in/a.png")
    read([tmp_path / "in"], out=tmp_path / "out.csv", models=[model], with_=["osra"], gpus=0)
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert Chem.CanonSmiles(row["smiles"]) == Chem.CanonSmiles("CC(=O)Nc1ccc(O)cc1")
    assert (row["confidence"], row["valid"]) == ("", "true")
