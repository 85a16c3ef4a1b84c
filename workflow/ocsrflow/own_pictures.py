"""Pictures of molecules from anywhere, made to look like those that the models were trained with."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError, visible
from .images import Picture
from .picture_folder import FORMATS, LONGEST_SIDE, MOST_PIXELS, too_large
from .settings.depiction import Depiction
from .tables import FORMULA

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".gif", ".webp", ".bmp")
KINDS = "PNG, JPEG, TIFF, GIF, WebP, BMP"
NOTHING = "blank: nothing is drawn on it; give a picture with a molecule"
NO_PICTURE = f"no picture in this folder ({KINDS}); subfolders are not looked into"
KEPT_PIXELS = 4_000_000  # what is larger is made smaller before anything else, for the sake of memory
LEAST = 8  # pixels of the drawing's longer side
TILES = 8  # rows and columns of the estimate of uneven light
INKED = 0.3  # share of the darkest ink from which on a pixel counts as drawn: above JPEG's ringing
PALE = 0.85  # ink, of 1, that is darkened
BLANK = 0.12  # darkest ink, of 1, of a picture that has nothing on it

GREY = np.full(3, 1 / 3, np.float32)

Levels = NDArray[np.float32]  # 0 (black) to 1 (white)
Number = TypeVar("Number", np.uint8, np.float32)


@dataclass(frozen=True)
class Found:
    """The picture files that some paths lead to."""

    files: dict[str, Path]  # by id
    refused: dict[str, str]  # paths that lead to none, and why
    notes: list[str]  # what was passed over

    def __len__(self) -> int:
        return len(self.files) + len(self.refused)


def find(paths: Sequence[Path]) -> Found:
    """The pictures in folders and among files.

    Of a folder the files with a picture's suffix are taken, in the order of their names; hidden files and subfolders
    are not, and what is passed over is counted. A file is taken whatever its suffix, a file given twice once.

    A picture's id is its file's name; where several have the same name, the path as it was given. A path that is not
    there, and a folder without a picture, are refused by themselves.

    Raises
    ------
    UserError
        Where there is no picture at all.
    """
    found: list[Path] = []
    refused: dict[str, str] = {}
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            pictures = [p for p in inside if p.is_file() and p.suffix.lower() in SUFFIXES]
            found += pictures
            if not pictures:
                is_model = (path / "model.json").exists()
                why = "a trained model: give each one after a --models of its own" if is_model else NO_PICTURE
                refused[_printable(path.as_posix())] = why
            elif len(inside) > len(pictures):
                notes.append(_passed_over(path, [p for p in inside if p not in pictures]))
        elif os.path.exists(path):  # False, too, for what can be no path
            found.append(path)
        else:
            refused[_printable(path.as_posix())] = "no such file or folder"
    if not found:
        listed = "; ".join(f"{path}: {why}" for path, why in refused.items())
        raise UserError(listed or "no picture: give files or folders of pictures")
    different = {path.resolve(): path for path in reversed(found)}  # as it was given first
    in_order = [different.pop(resolved) for path in found if (resolved := path.resolve()) in different]
    times = Counter(path.name for path in in_order)
    twice = len(found) - len(in_order)
    if twice:
        notes.append(f"{twice} given more than once, or by a link too: each is read once")
    return Found({_printable(p.name if times[p.name] == 1 else p.as_posix()): p for p in in_order}, refused, notes)


def _printable(name: str) -> str:
    """A file's name as one line of text: names may hold any bytes.

    One that a spreadsheet would take for a formula is given as the same file's path from its folder.
    """
    text = visible(os.fsencode(name).decode("utf-8", "backslashreplace")).replace("\n", "\\n")
    return f"./{text}" if text.startswith(FORMULA) else text


def _passed_over(folder: Path, others: list[Path]) -> str:
    kinds = Counter("folder" if p.is_dir() else p.suffix.lower() or "no suffix" for p in others)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return visible(f"{folder}: passed over {len(others)} that are no pictures by their names ({listed})")


def load_all(found: Found, depiction: Depiction) -> Iterator[tuple[str, Picture | str]]:
    """Each picture's id with the picture, made to fit; or with the reason why it cannot be read, in one line.

    What was passed over, and which files have more than one picture, is said on standard error.
    """
    for note in found.notes:
        print(note, file=sys.stderr)
    yield from found.refused.items()
    for name, path in found.files.items():
        try:
            yield name, load(path, depiction)
        except ValueError as error:
            yield name, visible(str(error))


def load(source: Path | BinaryIO, depiction: Depiction, name: str | None = None) -> Picture:
    """A picture from a file, made to look like those that the models were trained with.

    As :func:`read_pixels` and :func:`fit_drawing` say.
    """
    return fit_drawing(read_pixels(source, name), depiction)


def read_pixels(source: Path | BinaryIO, name: str | None = None) -> NDArray[np.uint8]:
    """A picture from a file: (height, width, 3) uint8 RGB, upright and on white.

    Parameters
    ----------
    source
        A file: PNG, JPEG, TIFF, GIF, WebP or BMP by its content, whatever it is called. Of several frames or pages
        the first is read, and a line on standard error says so.
    name
        What to call it in that line; by default its path.

    Raises
    ------
    ValueError
        Where it cannot be read, with the reason and how to mend it, in one line without the name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and of slightly damaged pictures: the checks are here
            with Image.open(source, formats=FORMATS) as image:
                pixels = _pixels(image)
                several = _several(image)
    except UnidentifiedImageError:
        raise ValueError(_unidentified(source)) from None
    except (Image.DecompressionBombError, _TooLarge):
        most = f"{MOST_PIXELS // 1_000_000} million pixels, or {LONGEST_SIDE} in a row"
        raise ValueError(f"more than {most}; cut the molecule out, or scale it down") from None
    except Exception as error:  # noqa: BLE001  (decoders raise all kinds)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"damaged or cut off ({reason}); get the file again or save it as PNG") from None
    if several:
        print(visible(f"{name or source}: the first of its pictures is read"), file=sys.stderr)
    return pixels


def _several(image: Image.Image) -> bool:
    """Whether there are more pictures in a file than the first."""
    if image.format == "MPO":  # the JPEGs of some cameras, whose further ones are previews and the like
        return False
    try:
        return int(getattr(image, "n_frames", 1)) > 1
    except Exception:  # noqa: BLE001  (decoders raise all kinds, where later pictures are damaged)
        return True


class _TooLarge(Exception):
    pass


def _unidentified(source: Path | BinaryIO) -> str:
    if (source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)) == 0:
        return "an empty file; get it again"
    return f"not a picture of a known kind; save it as one of {KINDS}"


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of an opened image, upright and on white; decoded here, when its size is known."""
    if too_large(image):
        raise _TooLarge
    image.load()
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: whatever is brightest is white
        levels = np.asarray(image).astype(np.float32)
        brightest = float(np.nanmax(levels))
        image = Image.fromarray((np.nan_to_num(levels) * (255 / max(brightest, 1e-9))).clip(0, 255).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    factor = int(np.ceil(np.sqrt(image.width * image.height / KEPT_PIXELS)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "CMYK":
        image = image.convert("L" if image.mode == "1" else "RGB")
    if factor > 1:
        image = image.reduce(factor)
    if image.mode == "RGBA":
        image = _opaque(image)
    return np.asarray(image.convert("RGB"))


def _opaque(image: Image.Image) -> Image.Image:
    """An RGBA image on white; on black where all of it that can be seen is light, as of pictures for dark pages."""
    pixels = np.asarray(image)
    seen = pixels[..., 3] > 128
    light = seen.any() and int(pixels[..., :3].max(axis=-1)[seen].min()) > 160 and not seen.all()
    page = Image.new("RGBA", image.size, "black" if light else "white")
    page.alpha_composite(image)
    return page


def fit_drawing(pixels: NDArray[np.uint8], depiction: Depiction) -> Picture:
    """A drawing made to look like RDKit's: dark on white, cut to what is drawn, and in the frame RDKit would fill.

    Light on dark is inverted, uneven light and noise of the paper are taken out, pale ink is darkened. The drawing is
    scaled by one factor, as large as the frame inside the padding (of a range its middle); lines that would be
    thinner than a pixel then are thickened first. A picture that is as RDKit draws it already stays as it is.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB.
    depiction
        Its size, padding, palette and order of channels are used.

    Returns
    -------
    (size, size, channels) uint8.

    Raises
    ------
    ValueError
        Where nothing is drawn, or too little.
    """
    clean = _clean(pixels)
    inked = _ink(clean)
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    longer = max(bottom - top, right - left)
    if longer < LEAST:
        raise ValueError(f"nothing but a speck of {longer} pixels is drawn on it; give a larger picture")
    if not _fills(clean.shape, (top, bottom, left, right), depiction):
        box = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)  # with its soft edges
        clean = _framed(clean[box], inked[box], depiction)
    if depiction.channels == 1:
        # Of a coloured pixel the darkest channel, since a label that is yellow here is black there.
        return _darkest(clean)[..., None]
    return np.ascontiguousarray(clean[..., ::-1]) if depiction.channel_order == "bgr" else clean


def _clean(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The drawing dark on pure white, (height, width, 3)."""
    levels: Levels = (pixels / np.float32(255)).astype(np.float32)
    if np.ptp(levels) <= BLANK:
        raise ValueError(NOTHING)
    lightness = levels @ GREY
    difference = lightness - np.median(lightness)  # most of a drawing is its background
    if (np.maximum(difference, 0) ** 2).sum() > (np.minimum(difference, 0) ** 2).sum():
        # The lightness is inverted and the hue stays: x becomes 1 - max - min + x.
        levels += 1 - levels.max(axis=-1, keepdims=True) - levels.min(axis=-1, keepdims=True)
    paper = _paper(levels)
    levels /= np.maximum(paper, 1 / 255)
    darkest_levels = _darkest(levels)
    paper_level = float(np.median(darkest_levels))
    noise = 1.4826 * float(np.median(np.abs(darkest_levels - paper_level)))  # a normal's standard deviation
    levels /= np.float32(max(paper_level - 4 * noise, 0.5))
    dark = 1 - _darkest(levels)
    darkest = float(dark.max())
    if darkest > BLANK:
        black = float(np.quantile(dark[dark > INKED * darkest], 0.9))
        if black < PALE:
            levels = 1 - (1 - levels) / np.float32(black)
    return (levels.clip(0, 1) * 255).round().astype(np.uint8)


def _darkest(pixels: NDArray[Number]) -> NDArray[Number]:
    """The minimum of the channels, (height, width): in pairs, several times faster than along the axis."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    darkest: NDArray[Number] = np.minimum(np.minimum(red, green), blue)
    return darkest


def _paper(levels: Levels) -> Levels:
    """What the background is like at each place, (height, width, 3): the lightest of the tiles around it.

    A tile's median is its background unless lines fill half of it, which they hardly do in all tiles around.
    """
    height, width, _ = levels.shape
    if min(height, width) < 4 * TILES:
        return np.median(levels, axis=(0, 1), keepdims=True).astype(np.float32)
    step = max(1, min(height, width) // (TILES * 64))  # so many pixels tell enough
    medians = np.array(
        [
            [np.median(tile, axis=(0, 1)) for tile in np.array_split(band, TILES, axis=1)]
            for band in np.array_split(levels[::step, ::step], TILES, axis=0)
        ],
        np.float32,
    )
    around = np.pad(medians, ((1, 1), (1, 1), (0, 0)), mode="edge")
    lightest: Levels = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1)).max(axis=(-2, -1))
    if (lightest == lightest[0, 0]).all():
        return lightest[:1, :1]
    channels = [Image.fromarray(lightest[..., i]) for i in range(3)]
    return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels], axis=-1)


def _ink(clean: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are drawn on, (height, width)."""
    dark = 255 - _darkest(clean)
    darkest = int(dark.max())
    if darkest <= BLANK * 255:
        raise ValueError(NOTHING)
    inked: NDArray[np.bool_] = dark > INKED * darkest
    return inked


def _fills(shape: tuple[int, ...], box: tuple[int, int, int, int], depiction: Depiction) -> bool:
    """Whether a drawing is centred in a frame of the right size and fills it, as RDKit's do."""
    size = depiction.size
    if shape[:2] != (size, size):
        return False
    top, bottom, left, right = box
    centred = max(abs(top + bottom - size), abs(left + right - size)) <= 3 + size / 100
    padding = depiction.padding[1] if isinstance(depiction.padding, tuple) else depiction.padding
    # RDKit counts the middles of lines and leaves some room for labels.
    return centred and max(bottom - top, right - left) >= size * (0.95 - 2 * padding)


def _framed(drawing: NDArray[np.uint8], inked: NDArray[np.bool_], depiction: Depiction) -> NDArray[np.uint8]:
    """A drawing scaled to the frame and centred in it, (size, size, 3)."""
    size = depiction.size
    padding = sum(depiction.padding) / 2 if isinstance(depiction.padding, tuple) else depiction.padding
    height, width = inked.shape
    scale = size * (1 - 2 * padding) / max(height, width)
    lacking = 1 / scale - _line_width(inked)
    if lacking > 0:
        drawing = _thickened(drawing, int(np.ceil(lacking / 2)))
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    frame = Image.new("RGB", (size, size), "white")
    # Lanczos' filter, widened by the factor where a picture is scaled down, takes every pixel into account.
    image = Image.fromarray(drawing).resize(scaled, Image.Resampling.LANCZOS)
    frame.paste(image, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
    return np.array(frame)


def _line_width(inked: NDArray[np.bool_]) -> float:
    """Mean width of the lines, in pixels: twice the area over the perimeter.

    The perimeter by Crofton's formula from the crossings of rows and columns: π/4 times their number.
    """
    crossings = sum(int(np.diff(inked, axis=axis, prepend=False, append=False).sum()) for axis in (0, 1))
    return float(2 * inked.sum() / (np.pi / 4 * crossings))


def _thickened(drawing: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Each pixel as dark as the darkest one up to ``by`` pixels away in its row and its column."""
    for axis in (0, 1):
        padded = np.pad(drawing, [(by, by) if a == axis else (0, 0) for a in range(3)], constant_values=255)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=axis)
        drawing = windows.min(axis=-1)
    return drawing
