"""Pictures from anywhere: all kinds of files come out alike, and refusals are one clear line."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.pictures.picture_files import Found, find, load
from ocsrflow.pictures.redraw_distance import distance
from ocsrflow.reader.load_pictures import load_all
from ocsrflow.runtime.errors import UserError
from PIL import Image, ImageOps
from support.drawings import sheet

GREY = Depiction(size=96, palette="black_and_white")
COLOUR = Depiction(size=200)

Change = Callable[[Image.Image], Image.Image]


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    file.seek(0)
    return file


def grey_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def light_on_transparent(image: Image.Image) -> Image.Image:
    return Image.merge("LA", (Image.new("L", image.size, 255), ImageOps.invert(image.convert("L"))))


def dark_on_transparent(image: Image.Image) -> Image.Image:
    return Image.merge("RGBA", (*Image.new("RGB", image.size).split(), ImageOps.invert(image.convert("L"))))


def scanned(image: Image.Image) -> Image.Image:
    """Paper that is yellowish, darker on one side, and noisy; pale ink."""
    levels = 255 - 0.6 * (255 - np.asarray(image, np.float64))
    shade = np.linspace(0.7, 0.95, image.width)[None, :, None] * np.array([1, 0.97, 0.85])
    noise = np.random.default_rng(0).normal(0, 5, levels.shape)
    return Image.fromarray((levels * shade + noise).clip(0, 255).astype(np.uint8))


KINDS: dict[str, tuple[Change, str, dict[str, object]]] = {
    "jpeg": (lambda i: i, "JPEG", {"quality": 30}),
    "tiff": (lambda i: i, "TIFF", {"compression": "tiff_lzw"}),
    "gif": (lambda i: i, "GIF", {}),
    "webp": (lambda i: i, "WEBP", {"quality": 60}),
    "bmp": (lambda i: i, "BMP", {}),
    "1 bit": (lambda i: i.convert("1", dither=Image.Dither.NONE), "TIFF", {}),
    "16 bit": (grey_16_bit, "PNG", {}),
    "palette": (lambda i: i.quantize(16), "PNG", {}),
    "cmyk": (lambda i: i.convert("CMYK"), "JPEG", {"quality": 90}),
    "transparent": (dark_on_transparent, "PNG", {}),
    "light on transparent": (light_on_transparent, "PNG", {}),
    "light on dark": (ImageOps.invert, "PNG", {}),
    "scanned": (scanned, "PNG", {}),
    "turned by EXIF": (lambda i: i.transpose(Image.Transpose.ROTATE_90), "JPEG", {"exif": {0x0112: 6}, "quality": 95}),
}


@pytest.mark.parametrize("depiction", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_files_come_out_alike(kind: str, depiction: Depiction) -> None:
    plain = load(stored(sheet()), depiction)
    change, suffix, options = KINDS[kind]
    if "exif" in options:
        exif = Image.Exif()
        exif.update(options["exif"])  # type: ignore[call-overload]
        options = options | {"exif": exif}
    found = load(stored(change(sheet()), suffix, **options), depiction)
    assert found.shape == (depiction.size, depiction.size, depiction.channels)
    assert np.abs(found.astype(int) - plain).mean() < 3.5  # JPEG's dirt and a scan's noise
    assert distance(found, plain) < 0.01
    assert found[0].min() == 255  # white paper


def png(levels: np.ndarray, bits: int, transparent: int) -> io.BytesIO:
    """A PNG of whole numbers, (height, width) or (height, width, 3), one of which stands for transparency (tRNS)."""
    height, width = levels.shape[:2]
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((levels[..., None] >> shifts & 1).astype(np.uint8).reshape(height, -1), axis=1)
    rgb = levels.ndim == 3

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2 if rgb else 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    colour = struct.pack(">H", transparent) * (3 if rgb else 1)
    chunks = (chunk(b"IHDR", header), chunk(b"tRNS", colour), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("rgb", [False, True], ids=["grey", "rgb"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_colour_of_a_png_is_white(bits: int, rgb: bool) -> None:
    """Of any depth: a black drawing on black paper that is transparent shows; so does a white one on white."""
    if rgb and bits < 8:
        return  # there are no such PNGs
    drawn = np.asarray(sheet().convert("L")) < 128
    plain = load(stored(Image.fromarray(np.where(drawn, 0, 255).astype(np.uint8))), GREY)
    most = 2**bits - 1
    papers = {0: most, most: 0} | ({300: 0, 0x1234: 0x1300} if bits == 16 else {})
    for paper, ink in papers.items():
        levels = np.where(drawn, ink, paper)
        found = load(png(np.repeat(levels[..., None], 3, -1) if rgb else levels, bits, paper), GREY)
        assert distance(found, plain) < 0.01, paper


def test_pictures_of_sixteen_bits_are_put_upright() -> None:
    upright = grey_16_bit(sheet())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = stored(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(load(turned, GREY), load(stored(upright), GREY))


def refusal(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the callers look at the text)
        load(folder / name, GREY)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals_say_what_is_wrong(tmp_path: Path) -> None:
    png = stored(sheet()).getvalue()
    assert "empty file" in refusal(tmp_path, "empty.png", b"")
    assert "not a picture" in refusal(tmp_path, "text.png", b"CCO ethanol\n")
    assert "not a picture" in refusal(tmp_path, "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "cut off" in refusal(tmp_path, "cut.png", png[: len(png) // 2])
    assert "cut off" in refusal(tmp_path, "cut.jpg", stored(sheet(), "JPEG").getvalue()[:3000])
    assert "blank" in refusal(tmp_path, "white.png", stored(Image.new("RGB", (300, 200), "white")).getvalue())
    assert "blank" in refusal(tmp_path, "clear.png", stored(Image.new("RGBA", (300, 200))).getvalue())
    dot = Image.new("L", (300, 200), 255)
    dot.paste(0, (100, 100, 104, 104))
    assert "speck of 4 pixels" in refusal(tmp_path, "dot.png", stored(dot).getvalue())
    # 400 million pixels: the header alone is read.
    assert "million pixels" in refusal(tmp_path, "huge.png", stored(Image.new("1", (20_000, 20_000), 1)).getvalue())
    assert "million pixels" in refusal(tmp_path, "large.gif", stored(Image.new("L", (9_100, 9_100), 255)).getvalue())


def test_a_wrong_suffix_does_not_matter_and_the_first_frame_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "png.jpg"
    path.write_bytes(stored(sheet()).getvalue())
    plain = load(path, GREY)
    frames = stored(sheet(), "TIFF", save_all=True, append_images=[sheet(smiles="CCO")])
    np.testing.assert_array_equal(load(frames, GREY, "pages.tif"), plain)
    assert capsys.readouterr().err == "pages.tif: the first of its pictures is read\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders with pictures and other things."""
    for name in ("one/b.png", "one/a.PNG", "two/b.png", "one/.hidden.png", "one/inner/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        sheet().save(tmp_path / name, "PNG")
    (tmp_path / "one" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "one" / "notes.txt").write_text("text")
    (tmp_path / "none").mkdir()
    return tmp_path


def test_pictures_are_found_in_folders_and_named_without_ambiguity(folder: Path) -> None:
    one, two = folder / "one", folder / "two"
    found = find([one])
    assert list(found.files) == ["a.PNG", "b.png", "broken.png"]
    assert "passed over 2" in found.notes[0]
    assert "1 .txt, 1 folder" in found.notes[0]
    both = find([one, two / "b.png", one / "b.png", folder / "none", folder / "gone.png"])
    assert list(both.files) == ["a.PNG", str(one / "b.png"), "broken.png", str(two / "b.png")]
    assert "no picture" in both.refused[str(folder / "none")]
    assert both.refused[str(folder / "gone.png")] == "no such file or folder"
    assert len(both) == 6


def test_what_cannot_be_read_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = {each.id: each.picture for each in load_all(find([folder / "one", folder / "none"]), GREY)}
    assert {name for name, got in outcomes.items() if isinstance(got, str)} == {str(folder / "none"), "broken.png"}
    assert isinstance(outcomes["a.PNG"], np.ndarray)
    assert "passed over" in capsys.readouterr().err
    assert list(load_all(Found({}, {}, []), GREY)) == []


@pytest.mark.parametrize("paths", [["none"], ["gone"], []])
def test_no_picture_at_all_is_an_error(folder: Path, paths: list[str]) -> None:
    with pytest.raises(UserError, match=r"no picture|no such file"):
        find([folder / name for name in paths])
