"""Pictures of several molecules are noticed; salts, solvates, captions and loose letters are no other molecules."""

import importlib.util
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.pictures.picture_files import find
from ocsrflow.reader.load_pictures import load_all
from ocsrflow.reader.several_molecules import GRID, REACTION, note_on
from PIL import Image, ImageDraw, ImageOps
from rdkit import Chem
from rdkit.Chem import Draw
from rdkit.Chem.rdChemReactions import ReactionFromSmarts

DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "Clc1ccccc1C(=O)NCCO"]
SALTS = ["C[N+](C)(C)CC(O)CC(=O)[O-].OC(=O)C(O)C(O)C(=O)O", "O.O.[Na+].CC(=O)[O-]", "Cc1ccccc1[N+](C)(C)C.[Br-]"]
SMALL = ["C", "N#N", "CC", "[Na+].[Cl-]"]


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """The benchmark."""
    path = Path(__file__).parents[2] / "benchmarks/several.py"
    spec = importlib.util.spec_from_file_location("several_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def molecules(measured: ModuleType) -> tuple[list[str], list[str]]:
    one, several = measured.molecules(measured.PUBLIC)
    return one, several


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("one component", 0.0, 0.0),
        ("one component, with a legend", 0.0, 0.0),
        ("several components", 0.0, 0.025),
        ("grid of 2 × 2", 0.95, 1.0),
        ("grid of 2 × 2 with legends", 0.95, 1.0),
        ("reaction", 0.9, 1.0),
        ("two in a row", 0.95, 1.0),
    ],
)
def test_grids_are_noticed_and_salts_are_not(
    measured: ModuleType, molecules: tuple[list[str], list[str]], kind: str, least: float, most: float
) -> None:
    """The benchmark, for forty pictures of each kind."""
    noted, _ = measured.share(kind, 40, *molecules)
    assert least <= noted <= most


def grid(count: int, row: int, side: int = 200) -> Image.Image:
    molecules = [Chem.MolFromSmiles(text) for text in (DRUGS * 3)[:count]]
    image: Image.Image = Draw.MolsToGridImage(molecules, molsPerRow=row, subImgSize=(side, side)).convert("RGB")
    return image


def reaction(smiles: str) -> Image.Image:
    image: Image.Image = Draw.ReactionToImage(ReactionFromSmarts(smiles, useSmiles=True), subImgSize=(250, 250))
    return image.convert("RGB")


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return Image.open(file).convert("RGB")


def enlarged(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 3, image.height * 3))


@pytest.mark.parametrize("change", [Image.Image.copy, ImageOps.invert, compressed, enlarged])
def test_several_molecules_in_any_kind_of_picture(change: Callable[[Image.Image], Image.Image]) -> None:
    for image in (grid(4, 2), grid(6, 3), grid(9, 3, 150)):
        assert note_on(np.asarray(change(image))) == GRID
    for smiles in (f"{DRUGS[0]}>>{DRUGS[1]}", f"{DRUGS[2]}.{DRUGS[3]}>>{DRUGS[1]}", f"{DRUGS[0]}>CCO>{DRUGS[3]}"):
        assert note_on(np.asarray(change(reaction(smiles)))) in (REACTION, GRID), smiles
    for smiles in (*DRUGS, *SALTS, *SMALL):
        single = Draw.MolToImage(Chem.MolFromSmiles(smiles)).convert("RGB")
        assert note_on(np.asarray(change(single))) == "", smiles


def framed(image: Image.Image, rows: int = 1, columns: int = 1) -> Image.Image:
    """A picture on a page, with a frame around it and around each of its cells."""
    page = image.copy()
    draw = ImageDraw.Draw(page)
    for row, column in itertools.product(range(rows), range(columns)):
        width, height = image.width // columns, image.height // rows
        corner = column * width, row * height
        draw.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), outline="black")
    return ImageOps.expand(page, 20, "white")


def test_molecules_that_are_close_together_and_frames() -> None:
    assert note_on(np.asarray(grid(2, 2))) == GRID
    assert note_on(np.asarray(grid(2, 1))) == GRID
    for count, columns in ((2, 2), (4, 2), (9, 3)):
        rows = -(-count // columns)
        assert note_on(np.asarray(framed(grid(count, columns), rows, columns))) == GRID, count
        assert note_on(np.asarray(framed(grid(count, columns)))) == GRID, count
    for smiles in (*DRUGS, *SALTS, *SMALL):
        single = Draw.MolToImage(Chem.MolFromSmiles(smiles)).convert("RGB")
        assert note_on(np.asarray(framed(single))) == "", smiles


@pytest.mark.parametrize("size", [(300, 300), (600, 600), (400, 200), (200, 400)])
def test_two_like_ions_are_no_grid(size: tuple[int, int]) -> None:
    for smiles in ("[CH-]1C=CC=C1.[CH-]1C=CC=C1.[Fe+2]", "Nc1ccccc1.Nc1ccccc1", "CCCCCC(=O)O.CCCCCC(=O)O"):
        single = Draw.MolToImage(Chem.MolFromSmiles(smiles), size=size).convert("RGB")
        assert note_on(np.asarray(single)) == "", smiles


@pytest.mark.parametrize("smiles", ["C" * 60, "NCC(=O)" * 20 + "O", "CC#CC#CC#CC#CCO", "CC#CC#CC", "C=C"])
def test_long_and_level_molecules_are_one(smiles: str) -> None:
    for size in ((300, 300), (1000, 400), (2000, 2000)):
        single = Draw.MolToImage(Chem.MolFromSmiles(smiles), size=size).convert("RGB")
        assert note_on(np.asarray(single)) == "", size


@pytest.mark.parametrize("smiles", ["CCO>>CC=O", "C=O>>CO", "CC#N>>CC(N)=O", "CBr.CCN>>CNCC"])
def test_reactions_of_small_molecules(smiles: str) -> None:
    for side in (150, 200, 300):
        image = Draw.ReactionToImage(ReactionFromSmarts(smiles, useSmiles=True), subImgSize=(side, side))
        assert note_on(np.asarray(image.convert("RGB"))) in (REACTION, GRID), side


Point = tuple[int, int]
ARROWS: dict[str, list[list[Point]]] = {  # from (0, 0) to (100, 0)
    "open": [[(0, 0), (100, 0)], [(86, -8), (100, 0), (86, 8)]],
    "equilibrium": [[(0, -4), (100, -4), (86, -12)], [(100, 4), (0, 4), (14, 12)]],
    "retrosynthetic": [[(0, -4), (96, -4)], [(0, 4), (96, 4)], [(86, -14), (100, 0), (86, 14)]],
}


@pytest.mark.parametrize("arrow", ARROWS)
def test_arrows_of_other_kinds(arrow: str) -> None:
    page = Image.new("RGB", (620, 250), "white")
    for smiles, left in ((DRUGS[0], 0), (DRUGS[2], 370)):
        page.paste(Draw.MolToImage(Chem.MolFromSmiles(smiles), size=(250, 250)), (left, 0))
    for line in ARROWS[arrow]:
        ImageDraw.Draw(page).line([(260 + x, 125 + y) for x, y in line], "black", 2)
    assert note_on(np.asarray(page)) == REACTION


def test_the_note_is_printed_once_for_each_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid(4, 2).save(tmp_path / "grid.png")
    Draw.MolToImage(Chem.MolFromSmiles(DRUGS[0])).save(tmp_path / "one.png")
    loaded = {each.id: each for each in load_all(find([tmp_path]), Depiction())}
    assert (loaded["grid.png"].note, loaded["one.png"].note) == (GRID, "")
    assert isinstance(loaded["grid.png"].picture, np.ndarray)  # and it is read all the same
    assert capsys.readouterr().err.splitlines() == [f"grid.png: {GRID}"]
