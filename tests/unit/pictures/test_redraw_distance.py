"""Drawing candidates again: the distance, what it tells apart, and the stage redraw."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import Picture, draw
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.redraw_distance import Redrawer, distance, ink, middle, redraw_distances, redraw_pool
from ocsrflow.prediction.redraw import redraw
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json
from PIL import Image
from rdkit import Chem
from support.data import nci

NCI = nci()
DEPICTIONS = [Depiction(size=96, palette="black_and_white"), Depiction()]
# A text and texts that a model could take for it: another label, another bond, one atom more or less, another ring.
NEAR = {
    "CCOC(=O)c1ccc(N)cc1": ["CCOC(=O)c1ccc(O)cc1", "CCNC(=O)c1ccc(N)cc1", "CCOC(=S)c1ccc(N)cc1"],
    "O=C(O)CCC1CCCC1": ["O=C(O)CCC1CCCCC1", "O=C(O)CC1CCCC1", "O=C(O)CCC1C=CCC1", "O=C(O)C=CC1CCCC1"],
    "C[C@H](N)C(=O)Nc1ccccc1Cl": ["C[C@@H](N)C(=O)Nc1ccccc1Cl", "C[C@H](N)C(=O)Nc1ccccc1Br", "CC(N)C(=O)Nc1ccccc1Cl"],
    r"C/C=C/c1ccc(F)cc1": [r"C/C=C\c1ccc(F)cc1", "CCCc1ccc(F)cc1", "C/C=C/c1cc(F)ccc1"],
}


def of(smiles: str, depiction: Depiction) -> Picture:
    return draw(Chem.MolFromSmiles(smiles), depiction)


def plain_distance(first: Picture, second: Picture) -> float:
    """The definition, pixel by pixel, of what :func:`ink` makes ready."""
    a, b = (ink(picture).strokes for picture in (first, second))  # type: ignore[union-attr]
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for y, x in np.argwhere(one > 0):
            near = other[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
            total += max(one[y, x] - near, 0) ** 2
    return total / ((a**2).sum() + (b**2).sum())


def test_the_distance_is_the_one_that_is_defined() -> None:
    for smiles, near in NEAR.items():
        pictures = [of(text, DEPICTIONS[0]) for text in (smiles, near[0])]
        assert distance(*pictures) == pytest.approx(plain_distance(*pictures))
        assert 0 < distance(*pictures) < 1


def test_it_is_0_for_the_same_picture_and_bounded_for_any() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    white, black = np.full((40, 40, 1), 255, np.uint8), np.zeros((40, 40, 1), np.uint8)
    pictures = [of("CCO", DEPICTIONS[1]), noise, white, black]
    for first in pictures:
        assert distance(first, first) == 0
        for second in pictures:
            assert 0 <= distance(first, second) <= 1
            assert distance(first, second) == pytest.approx(distance(second, first))
    assert distance(white, black) == 1


@pytest.mark.parametrize("depiction", DEPICTIONS, ids=["grey 96", "colour 300"])
def test_it_tells_near_misses_apart_in_spite_of_shift_scale_and_line_width(depiction: Depiction) -> None:
    thin = depiction.model_copy(update={"line_width": 1.5})
    for smiles, near in NEAR.items():
        picture = of(smiles, depiction)
        small = Image.fromarray(picture.squeeze()).resize((int(0.9 * depiction.size),) * 2, Image.Resampling.LANCZOS)
        moved = Image.new(small.mode, (depiction.size,) * 2, "white")
        moved.paste(small, (3, 7))
        for seen in (picture, np.roll(picture, (2, -1), (0, 1)), np.asarray(moved).reshape(picture.shape)):
            assert distance(seen, picture) < min(distance(seen, of(text, depiction)) for text in near)
        assert distance(of(smiles, thin), picture) < 0.05


def test_most_texts_of_a_molecule_fit_its_picture_whatever_their_order() -> None:
    random.seed(0)
    depiction = DEPICTIONS[0]
    redrawer = Redrawer(depiction)
    fitting = 0
    texts = NCI[::70]
    for smiles in texts:
        molecule = Chem.MolFromSmiles(smiles)
        shuffled = list(range(molecule.GetNumAtoms()))
        random.shuffle(shuffled)
        other = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, shuffled), canonical=False)
        as_it_is, reordered, wrong = redrawer.distances(draw(molecule, depiction), [smiles, other, smiles + "C"])
        assert as_it_is == 0
        fitting += reordered < 0.01
        assert wrong > as_it_is or np.isnan(wrong)
    assert fitting > 0.75 * len(texts)


def test_a_drawing_is_turned_with_letters_and_stereochemistry_as_they_were() -> None:
    redrawer = Redrawer(DEPICTIONS[1])
    smiles = "C[C@H](N)C(=O)Nc1ccccc1Cl"
    molecule = Chem.MolFromSmiles(smiles)
    Chem.rdDepictor.Compute2DCoords(molecule, canonOrient=True)
    for x, y in ((-1, 1), (1, -1), (-1, -1)):
        turned = Chem.Mol(molecule)
        Chem.rdMolTransforms.TransformConformer(turned.GetConformer(), np.diag([float(x), float(y), 1.0, 1.0]))
        right, wrong = redrawer.distances(draw(turned, DEPICTIONS[1]), [smiles, smiles.replace("@", "@@")])
        assert right < 0.01 < wrong


def test_what_rdkit_cannot_parse_has_no_distance() -> None:
    depiction = DEPICTIONS[0]
    pictures = [of("CCO", depiction), of("CCN", depiction), np.full((96, 96, 1), 255, np.uint8)]
    with redraw_pool(depiction, 2) as pool:
        found = redraw_distances(pictures, [["CCO", "C1CC", ""], ["CCN"], ["CCO"]], pool)
    assert found[0][0] == found[1][0] == 0
    assert np.isnan(found[0][1:]).all()
    assert found[2] == [1.0]


def test_ranges_are_drawn_in_their_middle() -> None:
    ranged = Depiction(line_width=(1, 3), font_size=(10, 21), padding=(0.0, 0.2))
    assert middle(ranged) == Depiction(line_width=2.0, font_size=16, padding=0.1)
    assert Redrawer(ranged).distances(draw(Chem.MolFromSmiles("CCOC(=O)c1ccc(N)cc1"), ranged, 7), ["CCO"])[0] > 0.1


def redrawn(folder: Path, data: Path, table: pd.DataFrame, **options: object) -> tuple[pd.DataFrame, dict[str, object]]:
    table.to_parquet(folder / "model.parquet", index=False)
    out, facts = folder / "out.parquet", folder / "out.json"
    redraw(data, predictions=folder / "model.parquet", out=out, facts=facts, **options)  # type: ignore[arg-type]
    return pd.read_parquet(out), read_json(facts)


def test_the_stage_compares_every_candidate(dataset: Path, tmp_path: Path) -> None:
    packed = Packed(dataset / "images.h5")
    members = packed.members("test")
    texts = [[smiles, "C1CC", "CCCCCCCC"] for smiles in packed.text("smiles", members)]
    texts[1] = []
    table = pd.DataFrame({"cid": packed.cid[members], "candidates": texts})
    rows, facts = redrawn(tmp_path, dataset / "images.h5", table[::-1].reset_index(drop=True), processes=2)
    assert rows["cid"].tolist() == table["cid"].tolist()[::-1]
    redrawer = Redrawer(packed.depiction)
    for at, own, found in zip(members, texts, rows["distances"][::-1], strict=True):
        np.testing.assert_allclose(found, redrawer.distances(packed.picture(int(at)), own))
        assert not len(found) or found[0] == 0
    assert (rows["seconds"] > 0).all()
    assert facts["name"] == "model"
    assert facts["seconds_per_image"] == pytest.approx(rows["seconds"].median())
    assert (facts["candidates"], facts["not_drawn"]) == (3 * (len(texts) - 1), len(texts) - 1)


def test_a_picture_that_takes_too_long_has_no_distances(dataset: Path, tmp_path: Path) -> None:
    packed = Packed(dataset / "images.h5")
    # A ladder that takes RDKit far longer to lay out than the time there is.
    slow = "C1" + "CC" * 3000 + "1"
    table = pd.DataFrame({"cid": packed.cid[:2], "candidates": [["CCO"], [slow, "CCO"]]})
    rows, _ = redrawn(tmp_path, dataset / "images.h5", table, seconds=0.5)
    assert np.isfinite(rows["distances"][0]).all()
    assert np.isnan(rows["distances"][1]).all()
    assert rows["seconds"][1] == 0.5


def test_predictions_of_other_pictures_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CID 987654321"):
        redrawn(tmp_path, dataset / "images.h5", pd.DataFrame({"cid": [987654321], "candidates": [["C"]]}))
    with pytest.raises(UserError, match="not the predictions of a model"):
        redrawn(tmp_path, dataset / "images.h5", pd.DataFrame({"cid": [1]}))
