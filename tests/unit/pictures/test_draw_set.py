"""Named drawings: the same molecules in another style, through the same frame as pictures from elsewhere."""

import csv
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ocsrflow.config.styles import Styles
from ocsrflow.pictures import draw_set as stage
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.picture_files import load
from ocsrflow.runtime.errors import UserError
from rdkit import Chem


def drawn(dataset: Path, folder: Path, **options: object) -> tuple[Packed, dict[str, tuple[int, str]]]:
    out, rejects = folder / "images.h5", folder / "rejects.csv"
    places = {"out": out, "originals": folder / "originals.zip", "rejects": rejects}
    stage.draw_set(dataset / "images.h5", **places, **{"name": "large", **options})  # type: ignore[arg-type]
    with open(rejects, encoding="utf-8", newline="") as file:
        return Packed(out), {row["reason"]: (int(row["count"]), row["example"]) for row in csv.DictReader(file)}


def test_the_molecules_of_the_test_split_are_drawn_and_brought_to_the_frame(dataset: Path, tmp_path: Path) -> None:
    test_set = Packed(dataset / "images.h5")
    members = test_set.first("test", 5)
    data, rejects = drawn(dataset, tmp_path, style=Styles(size=400), size=5)
    assert rejects == {}
    assert data.cid.tolist() == test_set.cid[members].tolist()
    assert data.members("test").tolist() == list(range(5))
    for column in ("smiles", "canonical"):
        assert data.text(column, range(5)) == test_set.text(column, members)
    assert [data.tokens_of(i).tolist() for i in range(5)] == [test_set.tokens_of(at).tolist() for at in members]
    assert data.depiction == test_set.depiction
    assert data.vocabulary == test_set.vocabulary
    # Each is its original as any picture from elsewhere would be read.
    with zipfile.ZipFile(tmp_path / "originals.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{cid}.png" for cid in data.cid)
        for i, cid in enumerate(data.cid):
            with archive.open(f"{cid}.png") as file:
                np.testing.assert_array_equal(data.picture(i), load(file, data.depiction))


def test_the_same_drawing_is_made_again_and_another_name_gives_other_values(dataset: Path, tmp_path: Path) -> None:
    style = Styles(size=(100, 400))
    first, _ = drawn(dataset, tmp_path, style=style, size=4)
    (tmp_path / "originals.zip").rename(tmp_path / "first.zip")
    again, _ = drawn(dataset, tmp_path, style=style, size=4, processes=2)
    assert again.digest == first.digest
    assert (tmp_path / "originals.zip").read_bytes() == (tmp_path / "first.zip").read_bytes()
    other, _ = drawn(dataset, tmp_path, style=style, size=4, name="other")
    assert other.digest != first.digest


# RDKit can hang and crash, but not when asked to: these stand in for it in the process that draws.
def spoil(drawing: Callable[[int], np.ndarray], molecules: list[str], *arguments: object) -> None:
    """Prepare the process as the stage does, and draw these molecules otherwise, by their place in the list."""
    real = stage.draw_styled

    def draw_styled(parsed: Chem.Mol, styles: Styles, seed: int) -> np.ndarray:
        text = Chem.MolToSmiles(parsed)
        return drawing(molecules.index(text)) if text in molecules else real(parsed, styles, seed)

    stage.draw_styled = draw_styled  # type: ignore[assignment]
    PREPARE(*arguments)  # type: ignore[arg-type]


PREPARE = stage._prepare


def three_ways(place: int) -> np.ndarray:
    if place == 0:
        raise ValueError("no style can draw it")
    if place == 1:
        time.sleep(60)
    return np.full((100, 100, 3), 255, np.uint8)


def refuse(place: int) -> np.ndarray:
    raise ValueError(f"no style can draw number {place}")


def no_font(place: int) -> np.ndarray:
    raise UserError(f"no font for number {place}")


def test_molecules_that_cannot_be_drawn_are_counted_and_the_others_stay(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set = Packed(dataset / "images.h5")
    members = test_set.first("test", 5)
    spoiled = test_set.text("canonical", members[:3])
    monkeypatch.setattr(stage, "_prepare", partial(spoil, three_ways, spoiled))
    data, rejects = drawn(dataset, tmp_path, size=5, time_limit=2.0)
    assert data.cid.tolist() == test_set.cid[members[3:]].tolist()
    smiles = test_set.text("smiles", members[:3])
    assert rejects == {
        "not_drawn": (1, f"{smiles[0]}: no style can draw it"),
        "too_slow": (1, f"{smiles[1]}: not done in 2 s"),
        "no_picture": (1, f"{smiles[2]}: blank: nothing is drawn on it; give a picture with a molecule"),
    }
    with zipfile.ZipFile(tmp_path / "originals.zip") as archive:
        assert archive.namelist() == [f"{cid}.png" for cid in data.cid]
    assert f"large: 1 left out (too_slow), for example {smiles[1]}: not done in 2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (refuse, r"large: no molecule of .*images\.h5 can be drawn in this style; see .*rejects\.csv"),
        (no_font, "no font for number 0"),
    ],
)
def test_a_style_that_draws_nothing_stops_the_stage(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: Callable[[int], np.ndarray], message: str
) -> None:
    test_set = Packed(dataset / "images.h5")
    everything = test_set.text("canonical", test_set.first("test", 3))
    monkeypatch.setattr(stage, "_prepare", partial(spoil, drawing, everything))
    with pytest.raises(UserError, match=message):
        drawn(dataset, tmp_path, size=3)
    assert not (tmp_path / "images.h5").exists()
    assert not (tmp_path / "originals.zip").exists()
