"""The door: what RDKit drew stays as it is; all else comes out dark on white, as large as it can be, and whole."""

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import Picture, draw
from ocsrflow.pictures.normalise import normalise
from ocsrflow.pictures.redraw_distance import distance
from PIL import Image, ImageFilter
from rdkit import Chem
from support.data import nci
from support.drawings import sheet

NCI = nci()
CHAIN = "CC(C)(C)OC(=O)N1CCN(c2ccc(CN)cc2)CC1"
GREY = Depiction(size=128, palette="black_and_white")
COLOUR = Depiction(size=200)


@pytest.mark.parametrize(
    "depiction",
    [GREY, Depiction(), Depiction(channel_order="bgr"), Depiction(size=128, padding=(0.02, 0.2), line_width=1.0)],
    ids=["grey", "colour", "bgr", "padding"],
)
def test_what_the_renderer_drew_stays_as_it_is(depiction: Depiction) -> None:
    kept = 0
    for cid, line in enumerate(NCI[::60]):
        picture = draw(Chem.MolFromSmiles(line), depiction, cid)
        rgb = picture[..., ::-1] if depiction.channel_order == "bgr" else picture
        kept += np.array_equal(
            normalise(np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3))), depiction), picture
        )
    # Of single atoms and the like RDKit does not fill the frame.
    assert kept >= 0.98 * len(NCI[::60])


@pytest.mark.parametrize("depiction", [GREY, Depiction(), Depiction(channel_order="bgr")], ids=["128", "300", "bgr"])
def test_one_and_two_atoms_stay_as_rdkit_draws_them(depiction: Depiction) -> None:
    texts = "O C N S [H+] [Na+] Cl [Fe+3] [He] CC C=C C#C N#N CO O=O [H][H] ClCl [Na+].[Cl-] [K+].[Br-] "
    for text in (texts + "[13CH4] [2H]O[2H] C=O C#N [C-]#[O+] [Li]C [OH-].[Na+]").split():
        picture = draw(Chem.MolFromSmiles(text), depiction)
        rgb = picture[..., ::-1] if depiction.channel_order == "bgr" else picture
        pixels = np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))
        np.testing.assert_array_equal(normalise(pixels, depiction), picture, text)


@pytest.mark.parametrize("smiles", ["C1CCCCC1", "c1ccccc1O", "CCCCCCO", CHAIN])
def test_what_is_small_in_the_frame_is_enlarged(smiles: str) -> None:
    pixels = np.full((300, 300), 255, np.uint8)
    pixels[90:210, 90:210] = draw(Chem.MolFromSmiles(smiles), Depiction(size=120, palette="black_and_white"))[..., 0]
    top, bottom, left, right = extent(normalise(pixels, Depiction(palette="black_and_white")))
    assert max(bottom - top, right - left) > 260


def extent(picture: Picture) -> tuple[int, int, int, int]:
    inked = picture.min(axis=-1) < 128
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize(("size", "margin", "line"), [(90, 3, 1), (300, 200, 1), (2400, 100, 2), (2400, 600, 12)])
def test_a_drawing_of_any_size_fills_the_frame_and_its_lines_survive(size: int, margin: int, line: float) -> None:
    picture = normalise(np.asarray(sheet(size, margin, line, "c1ccc2cc3ccccc3cc2c1")), COLOUR)
    drawn = draw(Chem.MolFromSmiles("c1ccc2cc3ccccc3cc2c1"), COLOUR)
    assert np.abs(np.subtract(extent(picture), extent(drawn))).max() <= 3
    assert distance(picture, drawn) < 0.05
    assert np.quantile(picture[picture < 200], 0.5) < 130  # black lines, not a pale grey


def test_the_share_of_width_and_height_is_kept_and_the_padding_is_the_middle_of_its_range() -> None:
    bar = Image.new("RGB", (500, 300), "white")
    bar.paste("black", (100, 120, 400, 180))  # 300 × 60
    top, bottom, left, right = extent(normalise(np.asarray(bar), Depiction(size=100, padding=(0.0, 0.2))))
    assert (left, right) == pytest.approx((10, 89), abs=1)
    assert (top, bottom) == pytest.approx((42, 57), abs=1)


def test_colours_keep_their_hue_and_their_order() -> None:
    drawing = np.full((80, 80, 3), 255, np.uint8)
    drawing[34:46, 10:40], drawing[34:46, 40:70] = (200, 0, 0), (0, 0, 200)
    for order, red in (("rgb", 0), ("bgr", 2)):
        found = normalise(drawing, Depiction(size=64, channel_order=order))
        assert found[32, 20].argmax() == red
        assert found[32, 44].argmax() == 2 - red
    dark = np.zeros((80, 80, 3), np.uint8)
    dark[30:34, 10:70] = (255, 120, 120)  # light red on black
    found = normalise(dark, Depiction(size=64))
    middle = found[found.min(axis=-1) < 128][0].astype(int)
    assert middle[0] > middle[1] + 50
    yellow = np.full((80, 80, 3), 255, np.uint8)
    yellow[30:34, 10:70] = (255, 255, 0)
    assert normalise(yellow, GREY).min() < 30  # black, as a yellow label is drawn in black and white


def drawing(size: int = 420, line: float = 2.0, smiles: str = CHAIN) -> Picture:
    return np.asarray(sheet(size, size // 8, line, smiles))


def with_noise(pixels: Picture, deviation: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, deviation, pixels.shape[:2])
    return (pixels + noise[..., None]).clip(0, 255).astype(np.uint8)


def paper_of(plain: Picture) -> Picture:
    """What is more than two pixels away from the ink of a picture."""
    near = Image.fromarray(plain.squeeze()).filter(ImageFilter.MinFilter(7))
    return np.asarray(near) == 255


@pytest.mark.parametrize("size", [300, 420, 700])
@pytest.mark.parametrize("deviation", [8, 20])
def test_noise_goes_inside_the_box_and_outside(size: int, deviation: float) -> None:
    plain = normalise(drawing(size), GREY)
    for paper in (1.0, 0.85):
        found = normalise(with_noise((drawing(size) * paper).astype(np.uint8), deviation), GREY)
        on_paper = found.squeeze()[paper_of(plain)]
        assert (on_paper > 250).mean() > 0.99
        assert on_paper.mean() > 254
        assert distance(found, plain) < 0.01


@pytest.mark.parametrize("ink", [1.0, 0.4])
def test_strokes_are_as_dark_whatever_the_size_of_the_source(ink: float) -> None:
    """Lines of one pixel, black and grey: in the frame they are all about as wide and as dark."""
    amounts, darkest = [], []
    for size in (150, 300, 600, 1200):
        pixels = (255 - ink * (255.0 - drawing(size, 1.0, "C1CCC2CC3CCCCC3CC2C1"))).astype(np.uint8)
        darkness = 1 - normalise(pixels, GREY) / 255
        amounts.append(float(darkness.sum()))
        darkest.append(float(np.median(darkness[darkness > 0.3])))
    assert max(amounts) < 1.4 * min(amounts)
    assert min(darkest) > 0.55


def test_specks_do_not_count_for_the_size() -> None:
    clean = drawing()
    dirty = clean.copy()
    for row, column in ((3, 5), (200, 530), (380, 20), (391, 22), (10, 300)):
        dirty[row : row + 3, column : column + 2] = 0
    np.testing.assert_array_equal(normalise(dirty, GREY), normalise(clean, GREY))


IONS = ("Cl", "[Cl-]", "[Na+]", "O", "[K+].[Br-]", "OS(=O)(=O)C(F)(F)F", "[H+]")


@pytest.mark.parametrize("ion", IONS)
@pytest.mark.parametrize("turn", [0.0, 35.0, -60.0])
def test_ions_beside_the_molecule_belong_to_it(ion: str, turn: float) -> None:
    """Nothing that is drawn is cut off: the picture's ink is that of the drawing at its own size."""
    large = Depiction(size=400, palette="black_and_white", rotation=turn)
    picture = draw(Chem.MolFromSmiles(f"C[NH2+]CCc1ccc(OCCN)cc1.{ion}"), large)
    rows, columns = (np.flatnonzero((picture.squeeze() < 128).any(axis=axis)) for axis in (1, 0))
    alone = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    found = normalise(np.pad(alone.squeeze(), 30, constant_values=255), GREY)
    scale = 128 * 0.9 / (max(alone.shape) + 2)
    top, bottom, left, right = extent(found)
    assert bottom - top + 1 == pytest.approx(alone.shape[0] * scale, abs=2)
    assert right - left + 1 == pytest.approx(alone.shape[1] * scale, abs=2)


def test_a_number_in_the_corner_does_not_count_and_a_label_above_does() -> None:
    clean = drawing(420)
    text = np.asarray(sheet(150, 0, 2.0, "[Ar]"))  # two letters
    rows, columns = (np.flatnonzero((text.min(axis=-1) < 128).any(axis=axis)) for axis in (1, 0))
    letters = np.asarray(Image.fromarray(text[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).resize((18, 14)))
    corner, above = (np.pad(clean, ((60, 0), (0, 100), (0, 0)), constant_values=255) for _ in range(2))
    corner[5:19, -24:-6] = letters
    above[5:19, 200:218] = letters
    np.testing.assert_array_equal(normalise(corner, GREY), normalise(clean, GREY))
    assert not np.array_equal(normalise(above, GREY), normalise(clean, GREY))


@pytest.mark.parametrize("deviation", [0, 15])
def test_the_same_picture_gives_the_same_whether_grey_or_rgb(deviation: float) -> None:
    pixels = with_noise(drawing(), deviation)
    found = normalise(pixels, GREY)
    np.testing.assert_array_equal(normalise(np.ascontiguousarray(pixels[..., 0]), GREY), found)
    np.testing.assert_array_equal(normalise(pixels, GREY), found)
    in_colour = normalise(pixels[..., 0], COLOUR)
    np.testing.assert_array_equal(in_colour, normalise(pixels, COLOUR))
    assert in_colour.shape == (200, 200, 3)


def test_what_is_blank_or_a_speck_is_refused() -> None:
    with pytest.raises(ValueError, match="blank"):
        normalise(np.full((90, 120, 3), 200, np.uint8), GREY)
    dot = np.full((90, 120), 255, np.uint8)
    dot[40:44, 50:55] = 0
    with pytest.raises(ValueError, match="a speck of 5 pixels"):
        normalise(dot, GREY)
