"""What stands beside a molecule on a page: captions, compound numbers, arrows, remnants of neighbours."""

import string
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .style import Style, font_file

_FONTS = ("stix", "dejavu-sans", "dejavu-serif")
_WORDS = (
    "Compound Example Formula Intermediate Comparative Preparation Step Racemate Chiral acid base hydrochloride methyl "
    "phenyl ethyl chloro bromo fluoro amino pyridine amide yield mp isomer trans cis Ref. No. and or wherein Scheme"
).split()


def surround(pixels: NDArray[np.uint8], style: Style, random: np.random.Generator) -> NDArray[np.uint8]:
    """Put one thing or two beside a drawing, on a larger page; the drawing itself is left as it is.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8 RGB or (height, width) grey, dark on white.
    style
        Its size decides the size of letters.
    random
        Decides what, and where.

    Returns
    -------
    The same, (height or more, width or more).
    """
    page = Image.fromarray(pixels)
    for _ in range(1 + int(random.random() < 0.25)):
        kind = random.choice(["below", "above", "corner", "side", "arrow", "rule"], p=[0.25, 0.15, 0.3, 0.1, 0.1, 0.1])
        letters = max(9, round(style.size * random.uniform(0.025, 0.06)))
        page = (
            _with_arrow_or_rule(page, kind, random)
            if kind in ("arrow", "rule")
            else _with_text(page, kind, letters, random)
        )
    return np.asarray(page)


def _with_text(page: Image.Image, kind: str, letters: int, random: np.random.Generator) -> Image.Image:
    """A line of text below, above, at a corner or at a side, in a strip of its own."""
    text = _number(random) if kind in ("corner", "side") else _caption(random)
    font = _font(str(random.choice(_FONTS)), letters)
    left, top, right, bottom = (round(v) for v in font.getbbox(text))
    width, height = right - left, bottom - top
    gap = round(letters * random.uniform(0.3, 1.2))
    if kind == "side":
        grown = _grown(page, width + gap, 0, at_left=bool(random.random() < 0.3))
        x = 2 if grown.info["at_left"] else page.width + gap
        y = round(random.uniform(0.1, 0.8) * max(0, grown.height - height))
    else:
        above = kind == "above" or (kind == "corner" and random.random() < 0.7)
        grown = _grown(page, max(0, width + 4 - page.width), height + gap, above=bool(above))
        x = round(
            (grown.width - width) * (random.choice([0.02, 0.98]) if kind == "corner" else random.uniform(0.2, 0.8))
        )
        y = 1 if above else page.height + gap - 1
    ImageDraw.Draw(grown).text((x - left, y - top), text, font=font, fill="black")
    return grown


def _with_arrow_or_rule(page: Image.Image, kind: str, random: np.random.Generator) -> Image.Image:
    """A reaction arrow at a side, or a straight line as of a frame or a table."""
    side = round(page.width * random.uniform(0.08, 0.2))
    thick = int(random.integers(1, 4))
    if kind == "arrow":
        grown = _grown(page, side + 8, 0, at_left=bool(random.random() < 0.5))
        start = 2 if grown.info["at_left"] else page.width + 6
        y, tip = round(grown.height * random.uniform(0.3, 0.7)), max(3, side // 6)
        pen = ImageDraw.Draw(grown)
        pen.line((start, y, start + side, y), fill="black", width=thick)
        pen.polygon(
            [(start + side, y), (start + side - tip, y - tip // 2), (start + side - tip, y + tip // 2)], "black"
        )
        return grown
    above = bool(random.random() < 0.5)
    grown = _grown(page, 0, 12, above=above)
    y = 3 if above else grown.height - 4
    ends = sorted(random.uniform(0, grown.width, 2))
    ImageDraw.Draw(grown).line((ends[0], y, ends[1], y), fill="black", width=thick)
    return grown


def _grown(page: Image.Image, width: int, height: int, *, above: bool = False, at_left: bool = False) -> Image.Image:
    """A page that is wider and higher by so much, with the old one in it."""
    grown = Image.new(page.mode, (page.width + width, page.height + height), "white")
    grown.paste(page, (width if at_left else 0, height if above else 0))
    grown.info["at_left"] = at_left
    return grown


def _number(random: np.random.Generator) -> str:
    """A compound's number: (24), IIa, 3-b, No. 12."""
    number = str(random.choice([str(random.integers(1, 300)), str(random.choice(["II", "III", "IV", "VII", "XII"]))]))
    number += str(random.choice(["", "", "a", "b", "c", "'", "-1"]))
    return str(random.choice(["{}", "({})", "({})", "No. {}", "[{}]", "Chiral", "{}."])).format(number)


def _caption(random: np.random.Generator) -> str:
    """A few words, a name or a line of data."""
    words = [str(word) for word in random.choice(_WORDS, int(random.integers(1, 4)))]
    if random.random() < 0.4:
        words.append(_number(random))
    if random.random() < 0.2:
        words.append("".join(random.choice(list(string.ascii_lowercase), int(random.integers(4, 11)))))
    return " ".join(words)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(name), size)
