"""Highlights behind a drawing, as RDKit's ``highlightAtoms`` and ``highlightBonds``: they are paper, not ink."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from .plain import Picture

SAMPLES = 100  # rows and columns that are looked at for the paper
FLAT = 8  # levels by which paper of one colour may differ
PLAIN = 0.5  # share of the picture that such paper has at least
APART = 30  # levels by which a highlight is darker than the paper, in one channel at least
WIDE = 5  # pixels that a grey highlight is wide, at least in one place: between two thin lines it is grey too
SAME = 20  # levels by which pixels of a highlight may differ
UNSEEN = 25  # level of a highlight's channel in which nothing can be seen on it
DARK = 0.5  # of the highlight's lightness: what is darker on it is drawn
DRAWN = 0.25  # length of the lines on a highlight, at least, in its half width: of a disc, a line to the middle has 1
SECTOR = 0.4  # of a disc's half width: that of each colour of a disc in up to three; wedges beside it have less
DISC = 0.7  # of the half width of the widest: what is thinner is a band or a line between discs
BESIDE = 0.4  # share of a bond in a highlight's colour that is next to ink, at most: a band has it on all its length
COLOURS = 24  # at most
LUMA = np.array([0.299, 0.587, 0.114])
EIGHT = np.ones((3, 3), bool)

Mask = NDArray[np.bool_]
Colour = NDArray[np.int16]  # of three channels


class Line(NamedTuple):
    """A straight line, from (row, column) to (row, column), and its width in pixels."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    width: int


def without_highlights(pixels: Picture) -> Picture:
    """The picture with its highlights in the colour of the paper.

    A highlight is an area of one or several colours, wider than lines are, on which something is drawn. So coloured
    letters, bonds and wedges stay, on which nothing is. What is drawn on a highlight keeps its darkness. Bonds that
    are drawn in the highlight's colour, instead of black on a band, stay too, and go on to the middle of the discs at
    their ends.

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
    areas = []
    for colour in _colours(pixels, paper):
        mask = (np.abs(pixels - colour) <= SAME).all(axis=-1)
        if np.ptp(paper - colour) >= APART or ndimage.binary_erosion(mask, EIGHT, iterations=WIDE // 2).any():
            areas.append((colour, mask))
    if not areas:
        return pixels
    pure = _highlighted(pixels, areas)
    if not pure.any():
        return pixels
    cleaned = _taken_out(pixels, pure, paper)
    ink: Mask = np.asarray((cleaned < DARK * 255).any(axis=-1))
    strokes, lines = _bonds(pixels, pure, ink, paper)
    if not strokes.any():
        return cleaned
    image = Image.fromarray(_taken_out(pixels, pure & ~strokes, paper))
    canvas = ImageDraw.Draw(image)
    for line in lines:
        row, column = line.start.round().astype(int)
        fill = tuple(pixels[row, column].tolist())
        canvas.line([*line.start[::-1], *line.end[::-1]], fill=fill, width=line.width)
    return np.asarray(image)


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


def _highlighted(pixels: Picture, areas: list[tuple[Colour, Mask]]) -> Mask:
    """Where highlights are seen, of some coloured areas."""
    coloured: Mask = np.logical_or.reduce([mask for _, mask in areas])
    found: Mask = np.zeros(coloured.shape, bool)
    luma = np.asarray(Image.fromarray(pixels).convert("L"))
    widths = []
    for colour, mask in areas:
        channel = int(colour.argmax())  # in which it is lightest, and what is black on it shows best
        dark = (pixels[..., channel] < DARK * colour[channel]) & (luma < LUMA @ colour)
        widths.append(width := _line_width(dark))
        for part, own, half in _spots(_closed(mask, 2 * width + 3)):  # over a double bond's lines
            if half > width and _half_width(mask[part] & own) >= width / 2 + 1:  # wider than a line
                whole = _closed(own, 2 * int(half) + 1)  # over a wedge
                if np.count_nonzero(whole & dark[part]) >= DRAWN * half * width:
                    found[part] |= mask[part] & own
    return found | _of_several(pixels, areas, found, min(widths))


def _of_several(pixels: Picture, areas: list[tuple[Colour, Mask]], single: Mask, width: int) -> Mask:
    """Where highlights of two or more colours are seen, as sectors of one disc: lines are between these too.

    A colour that is a sector somewhere is a highlight wherever it is next to others. ``single`` is where highlights of
    one colour are.
    """
    coloured: Mask = np.logical_or.reduce([mask for _, mask in areas])
    dark = (pixels < DARK * 255).all(axis=-1) & ~coloured
    spots = [spot for spot in _spots(_closed(coloured, 2 * width + 3)) if spot[2] > width]
    drawn = [np.count_nonzero(own & dark[part]) >= DRAWN * half * width for part, own, half in spots]
    known = np.zeros_like(coloured)
    for (part, own, half), inked in zip(spots, drawn, strict=True):
        widest = max(SECTOR * half, width / 2 + 1)
        sectors = [mask for _, mask in areas if inked and _half_width(mask[part] & own) >= widest]
        if len(sectors) > 1 or (sectors and (single[part] & own & ~sectors[0][part]).any()):
            known |= np.logical_or.reduce(sectors)
    found = np.zeros_like(coloured)
    for (part, own, _), inked in zip(spots, drawn, strict=True):
        seen = own & (known | single)[part]
        if known.any() and (inked or 2 * np.count_nonzero(seen) > np.count_nonzero(own)):
            found[part] |= own & known[part]
    return found


def _taken_out(pixels: Picture, highlight: Mask, paper: Colour) -> Picture:
    """The picture divided by what is behind each place: the highlight or paper that is next to it."""
    known = highlight | (np.abs(pixels - paper) <= FLAT).all(axis=-1)
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    behind = ndimage.minimum_filter(pixels[rows, columns], (3, 3, 1))  # between two colours the darker of both
    seen = behind > UNSEEN
    share = np.where(seen, pixels / np.maximum(behind, 1), 1).clip(0, 1)
    share = np.where(seen, share, share.min(axis=-1, keepdims=True))
    cleaned: Picture = (share * paper).round().astype(np.uint8)
    return cleaned


def _bonds(pixels: Picture, highlight: Mask, ink: Mask, paper: Colour) -> tuple[Mask, list[Line]]:
    """Bonds that are drawn in a highlight's colour: strokes between two discs, with nothing drawn on them.

    Returns
    -------
    Where they are, and how they go on to the middle of the discs that hide their ends, unless a label stands there.
    """
    width = _line_width(ink)
    discs, _ = ndimage.label(_discs(_closed(highlight | ink, 3)), EIGHT)
    near = ndimage.binary_dilation(discs > 0, EIGHT)
    coloured = (paper - pixels > APART).any(axis=-1) & ~ink
    strokes, _ = ndimage.label(coloured & ~near, EIGHT)
    from_ink = ndimage.distance_transform_edt(~ink)
    found = np.zeros_like(highlight)
    lines = []
    for number in set(strokes[ndimage.binary_dilation(near, EIGHT)].tolist()) - {0}:
        stroke = strokes == number
        at = np.argwhere(stroke)
        length = float(np.hypot(*np.ptp(at, axis=0)))
        thick = len(at) / max(1, length)
        ends = set(discs[ndimage.binary_dilation(stroke, EIGHT, iterations=4)].tolist()) - {0}
        if len(ends) < 2 or np.mean(from_ink[stroke] <= thick + 2) > BESIDE:
            continue
        found |= stroke
        for disc in ends:
            middle = np.argwhere(discs == disc).mean(axis=0)
            distance = np.hypot(*(at - middle).T)
            end = at[distance < distance.min() + 2].mean(axis=0)
            along = (end - at.mean(axis=0)) / max(1, float(np.hypot(*(end - at.mean(axis=0)))))
            reach = float((middle - end) @ along)
            way = end + np.arange(0, max(0, reach - width - 1))[:, None] * along
            rows, columns = way.round().astype(int).T
            if reach > 0 and length > width + 2 and not ink[rows, columns].any():
                lines.append(Line(end - 3 * along, end + reach * along, max(1, round(thick))))
    return found, lines


def _discs(mask: Mask) -> Mask:
    """Where a mask is nearly as wide as in its widest place."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    radius = DISC * depth.max()
    opened: Mask = ndimage.distance_transform_edt(depth <= radius)[1:-1, 1:-1] < radius
    return opened


def _spots(mask: Mask) -> Iterator[tuple[tuple[slice, ...], Mask, float]]:
    """The parts of a mask that hang together: the smallest window of each, where it is in that, and its half width."""
    labels, _ = ndimage.label(mask, EIGHT)
    for label, part in enumerate(ndimage.find_objects(labels), 1):
        own = labels[part] == label
        yield part, own, _half_width(own)


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
