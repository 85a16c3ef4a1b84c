"""Highlights behind a drawing, as RDKit's ``highlightAtoms`` and ``highlightBonds``: they are paper, not ink."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .plain import Picture

SAMPLES = 100  # rows and columns that are looked at for the paper
FLAT = 8  # levels by which paper of one colour may differ
PLAIN = 0.5  # share of the picture that such paper has at least
APART = 30  # levels by which a highlight is darker than the paper, in one channel at least
WIDE = 5  # pixels that a grey highlight is wide, at least in one place: between two thin lines it is grey too
SAME = 20  # levels by which pixels of a highlight may differ
DARK = 0.5  # of the highlight's lightness: what is darker on it is drawn
DRAWN = 0.25  # length of the lines on a highlight, at least, in its half width: of a disc, a line to the middle has 1
COLOURS = 12  # at most
EIGHT = np.ones((3, 3), bool)

Mask = NDArray[np.bool_]
Colour = NDArray[np.int16]  # of three channels


def without_highlights(pixels: Picture) -> Picture:
    """The picture with its highlights in the colour of the paper.

    A highlight is an area of one colour, wider than lines are, on which something darker is drawn. So coloured letters,
    bonds and wedges stay, on which nothing is. What is drawn on a highlight keeps its darkness, as grey.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB, dark on light. Left as they are.

    Returns
    -------
    (height, width, 3) uint8; ``pixels`` themselves where there is no highlight, or the paper is uneven.
    """
    paper = _paper(pixels)
    if paper is None:
        return pixels
    for colour in _colours(pixels, paper):
        mask = (np.abs(pixels - colour) <= SAME).all(axis=-1)
        if np.ptp(paper - colour) < APART and not ndimage.binary_erosion(mask, EIGHT, iterations=WIDE // 2).any():
            continue
        pixels = _without(pixels, mask, colour, paper)
    return pixels


def _paper(pixels: Picture) -> Colour | None:
    """The paper's colour, where it has one."""
    rows, columns = (np.linspace(0, side - 1, min(side, SAMPLES)).astype(int) for side in pixels.shape[:2])
    sample = pixels[rows][:, columns].reshape(-1, 3).astype(np.int16)
    paper = np.median(sample, axis=0).astype(np.int16)
    return paper if (np.abs(sample - paper) <= FLAT).all(axis=1).mean() >= PLAIN else None


def _colours(pixels: Picture, paper: Colour) -> list[Colour]:
    """The colours of areas that are wider than two pixels: neither paper nor black."""
    flat: Mask | None = None
    off_paper: Mask | None = None
    not_black: Mask | None = None
    for plane, level in zip(np.moveaxis(pixels, -1, 0), paper.tolist(), strict=True):
        middle = plane[1:-1, 1:-1]
        own = _around(np.maximum, plane) - _around(np.minimum, plane) <= SAME
        darker, light = middle < level - APART, middle > DARK * level
        flat = own if flat is None else flat & own
        off_paper = darker if off_paper is None else off_paper | darker
        not_black = light if not_black is None else not_black | light
    assert flat is not None
    assert off_paper is not None
    assert not_black is not None
    other = pixels[1:-1, 1:-1][flat & off_paper & not_black].astype(np.int16)
    found: list[Colour] = []
    while len(other) and len(found) < COLOURS:
        bins = (other >> 4) @ np.array([256, 16, 1], np.int16)
        colour = np.median(other[bins == np.bincount(bins).argmax()], axis=0).astype(np.int16)
        found.append(colour)
        other = other[~(np.abs(other - colour) <= SAME).all(axis=1)]
    return found


def _around(extreme: np.ufunc, plane: Picture) -> Picture:
    """The maximum or minimum of 3 × 3 pixels around each, without the outermost ones."""
    rows = extreme(extreme(plane[:-2], plane[1:-1]), plane[2:])
    found: Picture = extreme(extreme(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return found


def _without(pixels: Picture, mask: Mask, colour: Colour, paper: Colour) -> Picture:
    """The picture without highlights of a colour, of which ``mask`` says where they are not drawn on."""
    channel = int(colour.argmax())  # in which the highlight is lightest, and what is black on it shows best
    light = pixels[..., channel]
    dark = light < DARK * colour[channel]
    width = _line_width(dark)
    labels, _ = ndimage.label(_closed(mask, 2 * width + 3), EIGHT)  # over a double bond's lines
    found = np.zeros_like(mask)
    for label, part in enumerate(ndimage.find_objects(labels), 1):
        own = labels[part] == label
        half = _half_width(own)
        if half > width and _half_width(mask[part] & own) >= width / 2 + 1:  # wider than a line
            whole = _closed(own, 2 * int(half) + 1)  # over a wedge
            if np.count_nonzero(whole & dark[part]) >= DRAWN * half * width:
                found[part] |= whole
    if not found.any():
        return pixels
    zone = ndimage.binary_dilation(found, EIGHT, iterations=2)
    darkest = int(colour.argmin())
    # With the soft edge, a mixture with the paper, and without a label of a purer colour.
    pure = pixels[..., darkest] < (colour[darkest] / max(int(colour[channel]), 1) - 0.1) * light
    zone &= mask | ~pure
    lightness = (light[zone] / float(colour[channel])).clip(0, 1)
    cleaned = pixels.copy()
    cleaned[zone] = (lightness[:, None] * paper).round().astype(np.uint8)
    return cleaned


def _half_width(mask: Mask) -> float:
    """Radius of the largest disc in a mask, in pixels."""
    return float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())


def _closed(mask: Mask, size: int) -> Mask:
    """A mask without gaps narrower than so many pixels."""
    grown = ndimage.maximum_filter(np.pad(mask, size).view(np.uint8), size)  # by rows and columns, so fast at any size
    closed: Mask = ndimage.minimum_filter(grown, size)[size:-size, size:-size].view(bool)
    return closed


def _line_width(dark: Mask) -> int:
    """Width of most lines, in pixels: twice the ink over its perimeter."""
    crossings = np.count_nonzero(dark[1:] != dark[:-1]) + np.count_nonzero(dark[:, 1:] != dark[:, :-1])
    return max(1, round(2 * np.count_nonzero(dark) / max(np.pi / 4 * crossings, 1)))
