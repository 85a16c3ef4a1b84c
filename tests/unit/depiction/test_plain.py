"""Drawn pictures: RDKit's own pixels, every option, and ranges that give each molecule its own picture for good."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction import plain as images
from ocsrflow.depiction.plain import draw
from PIL import Image
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import Draw
from support.data import nci

NCI = nci()
# Wide, tall when turned, very small, of several fragments, with wedges, charges, isotopes, atoms on top of each other.
ODD = [
    "CCCCCCCCCCCCCCCCCC(=O)O",
    "C",
    "[Na+].[Cl-]",
    "CC(C)=O",
    "C1CS1",
    "NC1=NC(N)=C(C2=CC(Cl)=C(Cl)C=C2)C(CCCCC2=CC=C(NC(=O)C3=CC(S(=O)(=O)F)=CC=C3)C=C2)=N1.O=S(=O)(O)O",
    "C[C@H](N)[C@@H](O)/C=C/c1ccc([N+](=O)[O-])cc1",
    "[2H]C([2H])([2H])[15NH2+][13CH3]",
    "C1CC2CCC1CC2",
    "COC1=C(S(=O)(=O)N2CCOCC2)C=C(C=CC(=O)OCC2=CC=C(C(C)(C)C)C=C2)C=C1",
]
EXAMPLE = "C[C@H](N)c1ccc(/C=C/C(=O)O)cc1Cl"  # aromatic, a stereocentre, a stereo bond, labels of three colours


def some(count: int) -> list[Chem.Mol]:
    parsed = (Chem.MolFromSmiles(line) for line in NCI[:: len(NCI) // (count + 50)])
    return [molecule for molecule in parsed if molecule is not None and molecule.GetNumAtoms()][:count]


def of(smiles: str) -> Chem.Mol:
    return Chem.MolFromSmiles(smiles)


def by_rdkit(molecule: Chem.Mol, depiction: Depiction) -> NDArray[np.uint8]:
    """What ``Draw.MolToImage`` draws, given the same options."""
    options = Draw.MolDrawOptions()
    options.bondLineWidth = depiction.line_width
    options.fixedFontSize = depiction.font_size or -1
    options.rotate = depiction.rotation
    options.padding = depiction.padding
    options.addStereoAnnotation = depiction.stereo_labels
    if depiction.palette == "black_and_white":
        options.useBWAtomPalette()
    size = (depiction.size, depiction.size)
    image = Draw.MolToImage(molecule, size=size, kekulize=depiction.kekulize, options=options)
    array = np.asarray(image.convert("RGB" if depiction.channels == 3 else "L")).reshape(*size, depiction.channels)
    return array[..., ::-1] if depiction.channel_order == "bgr" else array  # of one channel, the same


def test_by_default_hundreds_of_pictures_are_rdkits_pixel_by_pixel() -> None:
    molecules = some(400)
    assert len(molecules) == 400
    for molecule in molecules:
        expected = np.asarray(Draw.MolToImage(molecule, size=(300, 300)))
        np.testing.assert_array_equal(draw(molecule, Depiction()), expected, Chem.MolToSmiles(molecule))


@pytest.mark.parametrize(
    "depiction",
    [
        Depiction(),
        Depiction(size=96, palette="black_and_white", channel_order="bgr"),
        Depiction(size=299, rotation=90, channel_order="bgr"),
        Depiction(size=200, font_size=30, padding=0),
        Depiction(size=128, kekulize=False, line_width=4, padding=0.3),
        Depiction(stereo_labels=True, rotation=-37.5, font_size=9),
    ],
    ids=lambda depiction: depiction.model_dump_json(exclude_defaults=True),
)
def test_with_options_too_pictures_are_rdkits(depiction: Depiction) -> None:
    for molecule in [*some(25), *map(of, ODD)]:
        expected = by_rdkit(molecule, depiction)
        np.testing.assert_array_equal(draw(molecule, depiction), expected, Chem.MolToSmiles(molecule))


def test_a_drawing_that_is_not_where_it_was_foretold_is_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # Were the window too small, the picture would still be RDKit's.
    molecule, expected = of(EXAMPLE), draw(of(EXAMPLE), Depiction())
    monkeypatch.setattr(images, "_window", lambda *_: images.Window(200, 120, 1))
    np.testing.assert_array_equal(draw(molecule, Depiction()), expected)


def test_most_of_a_wide_pictures_white_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    pixels = images._pixels
    monkeypatch.setattr(images, "_pixels", lambda *given: drawn.append(given[-1]) or pixels(*given))
    draw(of("CCCCCCCCCCCCCCCCCC(=O)O"), Depiction())
    [window] = drawn
    assert window.height < 200
    assert window.width < 300


def test_the_molecule_is_left_as_it_is() -> None:
    molecule = of(EXAMPLE)
    before = molecule.ToBinary(int(Chem.PropertyPickleOptions.AllProps))
    draw(molecule, Depiction(stereo_labels=True, rotation=10))
    assert molecule.ToBinary(int(Chem.PropertyPickleOptions.AllProps)) == before
    assert molecule.GetNumConformers() == 0


def test_what_rdkit_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="RDKit cannot draw it"):
        draw(None, Depiction())  # type: ignore[arg-type]


def test_what_cannot_be_kekulized_is_drawn_as_it_is() -> None:
    molecule = Chem.MolFromSmiles("c1ccccc1c", sanitize=False)
    molecule.UpdatePropertyCache(False)
    np.testing.assert_array_equal(draw(molecule, Depiction()), by_rdkit(molecule, Depiction()))


def example(**options: object) -> NDArray[np.uint8]:
    return draw(of(EXAMPLE), Depiction(**options))


def test_pictures_lie_in_memory_as_they_are_stored() -> None:
    assert example().transpose(2, 0, 1).flags.c_contiguous


def test_rotation_is_clockwise() -> None:
    # A chain with its only label at the right end; turned by 90 degrees, at the lower end.
    def centre_of_red(rotation: float) -> tuple[float, float]:
        picture = draw(of("CCCCCCCCC=O"), Depiction(rotation=rotation)).astype(int)
        rows, columns = np.nonzero(picture[..., 0] - picture[..., 1] > 100)
        return float(np.mean(rows)), float(np.mean(columns))

    (row, column), (turned_row, turned_column) = centre_of_red(0), centre_of_red(90)
    # Turning (x, y) from the middle clockwise gives (-y, x) where y grows downwards.
    assert abs(turned_row - column) < 12
    assert abs(turned_column - (300 - row)) < 12


RANGES = {"line_width": (1, 4), "font_size": (8, 24), "rotation": (0, 360), "padding": (0.02, 0.3)}


@pytest.mark.parametrize("name", RANGES)
def test_in_a_range_each_molecule_has_its_own_value_for_good(name: str) -> None:
    depiction = Depiction(**{name: RANGES[name]})
    values = [images._value(depiction, name, key) for key in range(400)]
    low, high = RANGES[name]
    assert min(values) >= low
    assert max(values) <= high
    assert min(values) < low + 0.1 * (high - low)
    assert max(values) > high - 0.1 * (high - low)
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.1 * (high - low))
    assert values == [images._value(depiction, name, key) for key in range(400)]
    assert images._value(Depiction(**{name: RANGES[name]}, seed=1), name, 1) != values[1]
    fixed = Depiction(**{name: values[7]})
    np.testing.assert_array_equal(draw(of(EXAMPLE), depiction, 7), draw(of(EXAMPLE), fixed, 3))


def test_values_do_not_depend_on_the_machine() -> None:
    depiction = Depiction(**RANGES)
    values = [images._value(depiction, name, 2244) for name in RANGES]
    assert values == pytest.approx([1.70969029933693, 23, 278.258470668313, 0.29685574818544974])


def test_the_same_key_gives_the_same_picture_another_key_another_one() -> None:
    depiction = Depiction(**RANGES)
    first = draw(of(EXAMPLE), depiction, 1)
    np.testing.assert_array_equal(draw(of(EXAMPLE), depiction, 1), first)
    assert (draw(of(EXAMPLE), depiction, 2) != first).any()
    assert (draw(of(EXAMPLE), Depiction(**RANGES, seed=5), 1) != first).any()


def test_without_ranges_the_key_changes_nothing() -> None:
    np.testing.assert_array_equal(draw(of(EXAMPLE), Depiction(), 1), draw(of(EXAMPLE), Depiction(), 2))


def test_a_range_begins_with_its_lower_end() -> None:
    with pytest.raises(ValidationError, match="the lower end of the range comes first"):
        Depiction(line_width=(3, 1))


def test_no_text_is_in_the_png_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    load = images.pyspng.load
    monkeypatch.setattr(images.pyspng, "load", lambda png: seen.append(png) or load(png))
    draw(of(EXAMPLE), Depiction())
    [png] = seen
    assert Image.open(io.BytesIO(png)).info == {}
