"""Pictures of molecules from anywhere, made to look like those that the models were trained with."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..config.depiction import Depiction
from ..corpus.picture_folder import FORMATS, LONGEST_SIDE, MOST_PIXELS, too_large
from ..depiction.plain import Picture
from ..runtime.csv_tables import FORMULA
from ..runtime.errors import UserError, system_error, visible
from .normalise import in_frame, normalise

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".gif", ".webp", ".bmp")
KINDS = "PNG, JPEG, TIFF, GIF, WebP, BMP"
NO_PICTURE = f"no picture in this folder ({KINDS}); subfolders are not looked into"
KEPT_PIXELS = 4_000_000  # what is larger is made smaller before anything else, for the sake of memory


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


def load(source: Path | BinaryIO, depiction: Depiction, name: str | None = None) -> Picture:
    """A picture from a file, made to look like those that the models were trained with.

    As :func:`read_pixels` and :func:`normalise` say.
    """
    return normalise(read_pixels(source, name), depiction)


def load_supplied(source: Path | BinaryIO, depiction: Depiction, name: str | None = None) -> Picture:
    """A picture of a data set's own, from a file: as :func:`load` makes it, but one in the frame stays pixel for pixel.

    In the frame are the contest's pictures, at the size of the depiction: see
    :func:`ocsrflow.pictures.normalise.in_frame`. Colours stay in the order in which they come, that of the depiction.
    """
    pixels = read_pixels(source, name)
    if in_frame(pixels, depiction):
        return pixels[..., : depiction.channels]
    swapped = depiction.channels == 3 and depiction.channel_order == "bgr"
    return normalise(pixels[..., ::-1] if swapped else pixels, depiction)


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
        if isinstance(error, OSError) and (number := system_error(error)):
            raise ValueError(f"the system cannot read it ({os.strerror(number)})") from None
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
    colour = _transparent_colour(image)
    image.load()
    if colour is not None:
        image.info["transparency"] = colour
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
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


def _transparent_colour(image: Image.Image) -> int | tuple[int, ...] | None:
    """The colour that stands for transparency in a PNG that is not decoded yet; None where there is none.

    On the scale on which Pillow gives the pixels, while it gives the colour as it is in the file.
    """
    colour = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not isinstance(colour, int | tuple) or not tiles:
        return None
    stored = tiles[0].args
    if stored == "RGB;16B" and isinstance(colour, tuple):
        return tuple(value >> 8 for value in colour)
    factor = {"L;2": 85, "L;4": 17}.get(str(stored), 1)
    return colour * factor if isinstance(colour, int) else colour


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of more bits, or of floating-point numbers, in 8 bits: whatever is brightest is white."""
    levels = np.asarray(image).astype(np.float32)
    brightest = float(np.nanmax(levels))
    grey = Image.fromarray((np.nan_to_num(levels) * (255 / max(brightest, 1e-9))).clip(0, 255).astype(np.uint8))
    colour = image.info.get("transparency")
    if colour is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray((levels != colour).astype(np.uint8) * 255)))


def _opaque(image: Image.Image) -> Image.Image:
    """An RGBA image on white; on black where all of it that can be seen is light, as of pictures for dark pages."""
    pixels = np.asarray(image)
    seen = pixels[..., 3] > 128
    light = seen.any() and int(pixels[..., :3].max(axis=-1)[seen].min()) > 160 and not seen.all()
    page = Image.new("RGBA", image.size, "black" if light else "white")
    page.alpha_composite(image)
    return page
