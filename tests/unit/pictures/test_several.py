"""Pictures of several molecules are noticed; salts, solvates, captions and loose letters are no other molecules."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.pictures.picture_files import find, load_all
from ocsrflow.pictures.several import GRID, REACTION, note_on
from PIL import Image, ImageOps
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


def test_it_is_said_once_for_each_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid(4, 2).save(tmp_path / "grid.png")
    Draw.MolToImage(Chem.MolFromSmiles(DRUGS[0])).save(tmp_path / "one.png")
    loaded = {each.id: each for each in load_all(find([tmp_path]), Depiction())}
    assert (loaded["grid.png"].note, loaded["one.png"].note) == (GRID, "")
    assert isinstance(loaded["grid.png"].picture, np.ndarray)  # and it is read all the same
    assert capsys.readouterr().err.splitlines() == [f"grid.png: {GRID}"]
