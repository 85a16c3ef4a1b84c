"""The stage browse: what its page says of a data set, and that the page stands alone."""

import base64
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ocsrflow.chem.tokenizer import INDEX, tokenize
from ocsrflow.pictures.packed_file import SPLITS, Packed
from ocsrflow.report.browse import browse
from ocsrflow.runtime.errors import UserError
from PIL import Image
from rdkit import Chem
from support.pages import Page


def copied(dataset: Path, folder: Path, change: Callable[[h5py.File], None] = lambda file: None) -> Path:
    """A copy of the data set's file in another folder, changed."""
    folder.mkdir(parents=True)
    shutil.copy(dataset / "images.h5", folder / "images.h5")
    with h5py.File(folder / "images.h5", "r+") as file:
        change(file)
    return folder / "images.h5"


def packed_rows(dataset: Path) -> pd.DataFrame:
    """What the file holds beside pictures and tokens."""
    with h5py.File(dataset / "images.h5") as file:
        texts = {column: file[column].asstr()[:].tolist() for column in ("smiles", "canonical")}
        split = [SPLITS[number] for number in file["split"][:]]
        return pd.DataFrame({"cid": file["cid"][:], "split": split, **texts})


@pytest.fixture(scope="module")
def page(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("browse") / "page" / "index.html"
    browse(
        dataset / "images.h5",
        out=out,
        lengths=dataset / "lengths.csv",
        rejects=(dataset / "rejects.csv", dataset / "pack.csv"),
        shown=12,
    )
    return Page(out)


def test_the_page_needs_no_other_file_and_no_script(page: Page) -> None:
    assert page.all("script") == []
    assert page.all("link") == []
    assert page.all("iframe") == []
    targets = [a[n] for _, a in page.elements for n in ("src", "href", "xlink:href", "srcset", "data") if n in a]
    assert targets
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert all(match.startswith("#") for match in re.findall(r"url\(([^)]*)", page.html))
    assert "@import" not in page.html
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_page_can_be_read_out(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in cell for cell in page.all("th"))


def test_the_page_tells_how_many_there_are(page: Page, dataset: Path) -> None:
    rows = packed_rows(dataset)
    low, high = rows["smiles"].str.len().agg(["min", "max"])
    assert f"{len(rows)} pictures of 64 × 64 pixels, black and white" in page.text
    assert f"{low} to {high} characters" in page.text
    counts = rows["split"].value_counts()
    assert all(f"{split} {counts[split]} " in page.text for split in SPLITS)
    assert Packed(dataset / "images.h5").digest in page.text
    assert "No molecule of any split is in a different split" in page.text
    assert "is of all of them" in page.text


def test_the_contact_sheet_is_spread_over_the_lengths(page: Page, dataset: Path) -> None:
    rows = packed_rows(dataset)
    images = page.all("img")
    shown = [len(image["alt"]) for image in images]
    assert len(shown) == 12
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == tuple(rows["smiles"].str.len().agg(["min", "max"]))
    packed = Packed(dataset / "images.h5")
    at = {smiles: i for i, smiles in enumerate(rows["smiles"])}
    for image in images:
        data = base64.b64decode(image["src"].split(",")[1])
        picture = Image.open(io.BytesIO(data))
        np.testing.assert_array_equal(np.asarray(picture), packed.picture(at[image["alt"]])[:, :, 0])
        chunks = set(re.findall(rb"tEXt|zTXt|iTXt|eXIf|tIME", data))
        assert not chunks
        assert not picture.text
        assert image["loading"] == "lazy"


def test_a_molecule_in_two_splits_of_one_data_set_is_named(dataset: Path, tmp_path: Path) -> None:
    split = Packed(dataset / "images.h5").split
    first, second = (int(np.flatnonzero(split == number)[0]) for number in (0, 2))
    text = Packed(dataset / "images.h5").text("canonical", [first])[0]

    def change(file: h5py.File) -> None:
        file["canonical"][second] = text

    browse(copied(dataset, tmp_path / "set", change), out=tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Wrong: molecules are in two different splits." in page.text
    assert "set train and set test: 1 in common" in page.text
    cid = packed_rows(dataset)["cid"][first]
    assert re.search(rf"CID {cid}: {re.escape(text)} ", page.text)
    assert page.text.count("must be none") == 2
    # The same molecule has two pictures.
    assert re.search(rf"set {len(split)} {len(split) - 1} 1: right for supplied pictures only; CID \d+: ", page.text)


def test_a_molecule_in_another_split_of_another_data_set_is_counted(dataset: Path, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["split"][np.flatnonzero(file["split"][:] == 1)[:2]] = 0

    other = copied(dataset, tmp_path / "other", change)
    browse(dataset / "images.h5", others=(dataset / "images.h5", other), out=tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    name = dataset.name
    assert f"{name} validation and other train: 2 in common" in page.text
    assert page.text.count("must be none") == 2
    counts = packed_rows(dataset)["split"].value_counts()
    assert page.text.count(f"{counts['test']} same split") == 2  # both ways, and the data set itself only once


def test_a_token_that_training_lacks_is_named(dataset: Path, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        at = int(np.flatnonzero(file["split"][:] == 2)[0])
        file["tokens"][file["offsets"][at]] = INDEX["Og"]

    browse(copied(dataset, tmp_path / "set", change), out=tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    found = re.search(r"No: (\d+) tokens? of validation or test never occurs? in training", text)
    assert found
    assert re.search(r"token validation test .*\bOg 0 1 ", text)


def test_the_tokens_are_counted(page: Page, dataset: Path) -> None:
    rows = packed_rows(dataset)
    counts = {split: Counter() for split in SPLITS}
    for smiles, split in zip(rows["smiles"], rows["split"], strict=True):
        counts[split].update(tokenize(smiles))
    every = counts["train"] + counts["validation"] + counts["test"]
    assert f"All {len(every)} tokens that occur" in page.text
    share = f"{100 * every['C'] / every.total():.3g}"
    assert f"C {counts['train']['C']} {counts['validation']['C']} {counts['test']['C']} {share} % " in page.text


def test_what_molecules_have_is_counted(page: Page, dataset: Path) -> None:
    molecules = [Chem.MolFromSmiles(s) for s in packed_rows(dataset)["smiles"]]
    rings = 100 * np.mean([molecule.GetRingInfo().NumRings() > 0 for molecule in molecules])
    assert f"a ring {rings:.2g} %; an aromatic atom " in page.text


def test_only_so_many_molecules_are_given_to_rdkit(dataset: Path, tmp_path: Path) -> None:
    browse(dataset / "images.h5", out=tmp_path / "page.html", molecules=7)
    assert "is of 7 of them, spread evenly over the file" in Page(tmp_path / "page.html").text


def test_what_others_wrote_is_text_and_no_markup(dataset: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)<"  # no slash in the name of a folder
    text = "C\"'><script>alert(2)</script>"

    def change(file: h5py.File) -> None:
        file["canonical"][:2] = [text, text]
        file["smiles"][:] = np.array(["CCO"] + [f"{text}{i}" for i in range(1, len(file["cid"]))], object)
        file["split"][:2] = [0, 1]

    packed = copied(dataset, tmp_path / evil, change)
    lengths, rejects = tmp_path / evil / "lengths.csv", tmp_path / evil / "rejects.csv"
    table = {"length": [3], "available": [5], "wanted": [5], "got": [4], "why": ["1 <script>alert(3)</script>"]}
    pd.DataFrame(table).to_csv(lengths, index=False)
    pd.DataFrame({"reason": ["<script>"], "count": [1], "example": [text]}).to_csv(rejects, index=False)
    browse(packed, out=tmp_path / "page.html", lengths=lengths, rejects=(rejects,))
    page = Page(tmp_path / "page.html")
    assert "<script" not in page.html
    assert page.all("script") == []
    assert f"Data set {evil}" in page.text
    assert text in page.text
    assert any(text in image["alt"] for image in page.all("img"))
    assert "1 <script>alert(3)</script>" in page.text
    assert f"{len(packed_rows(dataset)) - 1} more RDKit cannot parse" in page.text


def test_the_counts_by_length_are_shown(dataset: Path, tmp_path: Path) -> None:
    table = {"length": [7, 8], "available": [1234, 9], "wanted": [11, 9], "got": [11, 7], "why": ["", "2 not parsed"]}
    pd.DataFrame(table).to_csv(tmp_path / "lengths.csv", index=False)
    browse(dataset / "images.h5", out=tmp_path / "page.html", lengths=tmp_path / "lengths.csv")
    text = Page(tmp_path / "page.html").text
    assert "length available wanted got why 7 1234 11 11 8 9 9 7 2 not parsed" in text
    assert "Rejects" not in text


def test_the_page_is_the_same_twice(page: Page, dataset: Path, tmp_path: Path) -> None:
    browse(
        dataset / "images.h5",
        out=tmp_path / "page.html",
        lengths=dataset / "lengths.csv",
        rejects=(dataset / "rejects.csv", dataset / "pack.csv"),
        shown=12,
    )
    assert (tmp_path / "page.html").read_text() == page.html


def test_bad_files_are_reported_in_one_line(dataset: Path, tmp_path: Path) -> None:
    packed, out = dataset / "images.h5", tmp_path / "page.html"
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(packed.read_bytes()[:5000])
    (tmp_path / "short.csv").write_text("length,got\n1,2\n")
    (tmp_path / "empty.csv").write_bytes(b"")

    def change(file: h5py.File) -> None:
        file["tokens"][0] = 60000

    strange = copied(dataset, tmp_path / "strange", change)
    for wrong, words in (
        ({"packed": damaged}, "not a whole packed data set"),
        ({"packed": strange}, "tokens that cannot be"),
        ({"packed": tmp_path / "none.h5"}, "no such packed data set"),
        ({"others": (tmp_path / "none.h5",)}, "no such packed data set"),
        ({"others": (damaged,)}, "not a whole packed data set"),
        ({"lengths": tmp_path / "none.csv"}, "no such table"),
        ({"lengths": tmp_path / "short.csv"}, "no column 'available'"),
        ({"rejects": (tmp_path / "empty.csv",)}, "not a table"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            browse(**({"packed": packed, "out": out} | wrong))
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_the_command_line_takes_several_files_and_none(dataset: Path, tmp_path: Path) -> None:
    other = copied(dataset, tmp_path / "other")
    packed, out = str(dataset / "images.h5"), str(tmp_path / "page.html")
    command = [sys.executable, "-m", "ocsrflow", "browse", packed, "--others", packed, str(other), "--out", out]
    rejects = ["--rejects", str(dataset / "rejects.csv"), str(dataset / "pack.csv")]
    run = subprocess.run([*command, *rejects, "--molecules", "5"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "other validation" in Page(tmp_path / "page.html").text
    run = subprocess.run([*command[:5], "--others", "--out", out, "--rejects"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
