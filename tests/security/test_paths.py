"""Nothing that a configuration or a table says leads out of the folders that a run may use."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.config import experiment as configuration
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.picture_folder import PictureFolder
from ocsrflow.pictures.benchmark_set import benchmark_set
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.reader.find_models import find_models
from ocsrflow.reader.read import map_path
from ocsrflow.runtime.errors import UserError
from PIL import Image, ImageDraw
from support.checkout import CONFIG, REPOSITORY

NO_NAMES = ("../up", "/etc", "a/b", "a\\b", ".", "..", "", "-x", "a.b", "a\0b", "a\n", "~", "$(x)", "é", "a" * 300)
SECTIONS = ("sources", "datasets", "models", "test_sets", "benchmarks", "drawings", "ensembles")
NO_PATHS = ("", "a\0b", "a\nb", "\x1b[2J", "-x", "--out=x", "a" * 300, "a/" * 3000)


def refused(config: Any) -> str:
    """What is said of a configuration."""
    with pytest.raises(UserError) as caught:
        configuration.load(config)
    text = str(caught.value)
    assert text.startswith("the configuration is not valid:\n  ")
    assert "\x1b" not in text
    assert "\0" not in text
    assert max(map(len, text.splitlines())) < 1000
    return text


@pytest.fixture
def toy_config() -> Any:
    return yaml.safe_load((REPOSITORY / CONFIG).read_text())


@pytest.mark.parametrize("section", SECTIONS)
def test_a_name_that_would_be_another_path_is_refused(toy_config: Any, section: str) -> None:
    configuration.load(toy_config)
    for name in NO_NAMES:
        config = copy.deepcopy(toy_config)
        config[section][0]["name"] = name
        assert f"{section}.0.name: " in refused(config), repr(name)


def test_a_path_that_would_be_an_option_or_no_path_is_refused(toy_config: Any) -> None:
    places = [("results",), ("weights_folder",), ("benchmarks", 0, "images"), ("benchmarks", 0, "references")]
    toy_config["sources"] += [
        {"name": "local", "kind": "file", "path": "x"},
        {"name": "drawn", "kind": "pictures", "csv": "x", "pictures": "x"},
    ]
    places += [("sources", 1, "path"), ("sources", 2, "csv"), ("sources", 2, "pictures")]
    configuration.load(toy_config)
    for place in places:
        taken = "{a}", "<a>", "a?b", "a#b", "a%41"  # by Snakemake and MLflow, in what a run makes
        for path in NO_PATHS + (taken if place == ("results",) else ()):
            config = copy.deepcopy(toy_config)
            part = config
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = path
            assert ".".join(map(str, place)) in refused(config), repr(path)


def test_the_refusal_is_a_line_on_the_command_line(toy_config: Any, tmp_path: Path) -> None:
    toy_config["datasets"][0]["name"] = "../up"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(toy_config))
    command = [sys.executable, "-m", "ocsrflow", "config", str(tmp_path / "config.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "datasets.0.name: String should match pattern" in run.stderr
    assert "Traceback" not in run.stderr


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (80, 80), "white")
    ImageDraw.Draw(image).line((10, 60, 40, 20, 70, 60), fill="black", width=2)
    image.save(path)


def test_a_table_names_no_picture_outside_its_folder(tmp_path: Path) -> None:
    draw(tmp_path / "secret.png")
    draw(tmp_path / "pictures/one.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "./../secret.png", "x/../../secret.png"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            PictureFolder(tmp_path / "pictures").open(name)
        (tmp_path / "t.csv").write_text(f"file_name,SMILES\none.png,CCO\n{name},CCN\n")
        with pytest.raises(UserError, match=r"t\.csv, line 3: no picture '.*secret\.png' in"):
            filter_corpus(
                tmp_path / "t.csv", form="pictures", max_length=9, pictures=tmp_path / "pictures",
                kept=tmp_path / "k", lengths=tmp_path / "l", rejects=tmp_path / "r",
            )  # fmt: skip
        benchmark_set(
            tmp_path / "pictures", tmp_path / "t.csv", name="b", out=tmp_path / "b.h5", originals=tmp_path / "b.zip",
            rejects=tmp_path / "b.csv", id_column="file_name", smiles_column="SMILES", depiction=Depiction(size=64),
        )  # fmt: skip
        packed = Packed(tmp_path / "b.h5")
        assert list(packed.ids(np.arange(len(packed.cid)))) == ["one.png"]
        assert "no_picture" in (tmp_path / "b.csv").read_text()


def test_an_ensemble_names_no_model_outside_its_results(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / "elsewhere" / name
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        (folder / "weights.safetensors").touch()
    (tmp_path / "results/ensembles").mkdir(parents=True)
    file = tmp_path / "results/ensembles/e.json"
    for names in (["../../elsewhere/one", "../../elsewhere/two"], [str(tmp_path / "elsewhere/one"), ".."]):
        file.write_text(json.dumps({"members": names}))
        with pytest.raises(UserError, match="not the members of an ensemble"):
            find_models([file])


@given(st.text(st.sampled_from("./\\ab~-"), min_size=1))
def test_pictures_of_the_attention_stay_in_their_folder(name: str) -> None:
    """Pictures of one name are told apart by the paths they were given with, which may lead up or begin at the root."""
    assert Path(os.path.normpath(map_path(Path("/data/maps"), name))).is_relative_to("/data/maps")
