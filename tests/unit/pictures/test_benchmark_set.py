"""Pictures from elsewhere with references: which row belongs to which picture, and what is left out and counted."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.pictures.benchmark_set import benchmark_set
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.picture_files import load
from ocsrflow.runtime.errors import UserError
from PIL import Image
from rdkit import Chem

DEPICTION = Depiction(size=64, palette="black_and_white")


def drawn(path: Path, smiles: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw(Chem.MolFromSmiles(smiles), Depiction(size=120))
    Image.fromarray(picture).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in folders, and things that are no pictures."""
    pictures = tmp_path / "pictures"
    for name, smiles in {"a.png": "CCO", "b.jpg": "CCN", "one/c.png": "CCCC", "two/c.png": "CCC=O"}.items():
        drawn(pictures / name, smiles)
    drawn(pictures / "lone.gif", "CCCl")
    drawn(pictures / "__MACOSX" / "a.png", "CCO")
    drawn(pictures / ".hidden.png", "CCO")
    (pictures / "notes.txt").write_text("text")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("L", (50, 50), 255).save(pictures / "white.png")
    return pictures


def packed(tmp_path: Path, images: Path, text: str, *, name: str = "r.csv", **columns: str) -> tuple[Packed, dict]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    out, rejects = tmp_path / "images.h5", tmp_path / "rejects.csv"
    places = {"out": out, "originals": tmp_path / "originals.zip", "rejects": rejects}
    benchmark_set(images, tmp_path / name, **places, name="bench", depiction=DEPICTION, **columns)  # type: ignore[arg-type]
    with open(rejects, encoding="utf-8", newline="") as file:
        return Packed(out), {row["reason"]: (int(row["count"]), row["example"]) for row in csv.DictReader(file)}


def test_rows_find_their_pictures_and_what_is_left_out_is_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        "id,smiles,year",
        "a,CCO,1",  # without its suffix
        "b.jpg,CCN,2",
        "one/c,CCCC,3",
        "c.png,CCC=O,4",  # two are called that
        "gone,CC,5",
        "a.png,CCO,6",  # the first row's
        "broken,CC,7",
        "white,CC,8",
        "two/c.png,,9",
    ]
    data, rejects = packed(tmp_path, folder, "\ufeff" + "\n".join(rows) + "\n")
    assert data.ids(np.arange(3)) == ["a", "b.jpg", "one/c"]
    assert data.text("smiles", np.arange(3)) == ["CCO", "CCN", "CCCC"]
    assert data.cid[:].tolist() == [1, 2, 3]
    assert data.members("test").tolist() == [0, 1, 2]
    assert data.depiction == DEPICTION
    np.testing.assert_array_equal(data.picture(0), load(folder / "a.png", DEPICTION))
    with zipfile.ZipFile(tmp_path / "originals.zip") as archive:
        assert archive.namelist() == ["1.png", "2.png", "3.png"]
        with archive.open("1.png") as kept, Image.open(kept) as image, Image.open(folder / "a.png") as given:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(given.convert("RGB")))
    assert {reason: count for reason, (count, _) in rejects.items()} == {
        "ambiguous_picture": 1,
        "no_picture": 1,
        "duplicate_id": 1,
        "empty_reference": 1,
        "unreadable": 2,
        "no_reference": 1,
    }
    assert rejects["no_reference"][1] == "lone.gif"
    assert rejects["ambiguous_picture"][1] == "c.png"
    message = capsys.readouterr().err
    assert "bench: 2 pictures that cannot be read, for example broken.png: " in message
    assert "several pictures fit: give the id with its suffix or folder, for example c.png" in message


def test_a_table_of_several_folders_serves_each_of_them(folder: Path, tmp_path: Path) -> None:
    text = "id,smiles\none/c.png,CCCC\ntwo/c,CCC=O\nthree/c.png,CC\n"
    data, rejects = packed(tmp_path, folder / "two", text)
    assert data.ids(np.arange(len(data))) == ["two/c"]
    assert rejects == {"no_picture": (2, "one/c.png")}
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(folder / "two/c.png", "c.png")
    data, rejects = packed(tmp_path, tmp_path / "two.zip", text)
    assert data.ids(np.arange(len(data))) == ["two/c"]


def test_zip_archives_tabs_and_other_columns(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder).as_posix())
    text = "file\tSMILES\na\tCCO\ntwo/c\tCCC=O\n"
    columns = {"id_column": "file", "smiles_column": "SMILES"}
    data, _ = packed(tmp_path, tmp_path / "pictures.zip", text, name="r.tsv", **columns)
    assert data.ids(np.arange(2)) == ["a", "two/c"]
    np.testing.assert_array_equal(data.picture(1), load(folder / "two/c.png", DEPICTION))


def test_references_that_are_no_smiles_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    data, _ = packed(tmp_path, folder, "id,smiles\na,Ⓐ\nb,not a molecule\none/c,CCCC\n")
    assert data.text("smiles", np.arange(2)) == ["Ⓐ", "not a molecule"]
    assert data.text("canonical", np.arange(3)) == ["", "", "CCCC"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,smiles\na,CCO\n", "no column 'id'; set id_column to one of these: name, smiles"),
        ("id,SMILES\na,CCO\n", "no column 'smiles'; set smiles_column to one of these: id, SMILES"),
        ("", "not a CSV table in UTF-8"),
        ('id,smiles\na,"CCO\n', "not a CSV table in UTF-8"),
        ("id,smiles\nz,CCO\n", "no picture of"),
        ("id,smiles\na,ethanol\n", "RDKit parses none of its SMILES; set smiles_column"),
    ],
)
def test_tables_of_no_use_are_reported(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        packed(tmp_path, folder, text)
    assert not (tmp_path / "images.h5").exists()


def test_what_is_neither_folder_nor_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "pictures.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"pictures\.rar: neither a folder nor a zip archive"):
        packed(tmp_path, tmp_path / "pictures.rar", "id,smiles\na,CCO\n")
