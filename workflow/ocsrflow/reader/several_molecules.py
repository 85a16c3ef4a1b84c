"""Whether a picture shows several molecules, as grids and reactions do, where one is to be read.

It stands here and not with the pictures, because no stage's results depend on it.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..depiction.plain import Picture
from ..pictures.box import EIGHT, Mask
from ..pictures.normalise import drawn

SIDE = 1000  # pixels of the longer side in which it is looked at; in fewer an arrow loses its head
TOGETHER = 60  # cells along the longer side; ink in neighbouring ones is closer together than molecules are
ANGLES = 30  # directions in which lines are followed
APART = 2.0  # bond lengths between molecules; RDKit puts the ions of a salt closer together
MOLECULE = 1.6  # bond lengths of a molecule's largest connected piece; letters have less
REACTANT = 0.7  # bond lengths of the largest piece of what an arrow leads from or to, which may be a single bond
LINES = 0.5  # of the largest piece's size: smaller pieces may be letters, which say nothing about bonds
BESIDE = 0.5  # bond lengths between what belongs together, on one side of an arrow or in a caption
CAPTION = 1.0  # bond lengths of a caption, in height
ARROW = 60  # a part of the picture's longer side, which arrows have at least
FLAT, HEAD = 0.35, 0.35  # of an arrow's length: its height at most, and the part that has the head
THIN = 0.2  # bond lengths of a single line's height or width, which is no molecule
RULE = 0.95  # of the whole height or width of what is drawn: the length of a frame's lines
CELLS = 4  # rows and columns at most of a grid whose molecules are close together
FILLED = 0.85  # of a cell's height or width, by one at least: two like ions that are drawn as one picture fill 0.8
OFF = 0.02  # of a cell's side, by which the places of molecules in their cells differ at most

GRID = "several molecules: cut the picture into one for each"
REACTION = "a reaction: cut the picture into one for each molecule"

Box = tuple[slice, ...]


def note_on(pixels: Picture) -> str:
    """The note on a picture with more than one molecule; "" for any other.

    Molecules are pieces that are far apart in comparison with bond lengths, or in equal cells of a grid, or on either
    side of an arrow. Ions and solvents beside a molecule, captions, frames, and bonds or letters that nothing
    touches are none.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB, or (height, width), grey.

    Raises
    ------
    ValueError
        Where nothing is drawn.
    """
    inked = _without_rules(_reduced(drawn(pixels)))
    pieces, _ = ndimage.label(inked, EIGHT)
    boxes = ndimage.find_objects(pieces)
    least = max(inked.shape) / ARROW
    arrows = [at for at, box in enumerate(boxes, 1) if max(_size(box)) >= least and _is_arrow(pieces[box] == at)]
    if not arrows and _is_together(inked):  # nearly always, and without a look at bonds
        return ""
    sizes = [max(_size(box)) for box in boxes]
    lines = [at for at, size in enumerate(sizes, 1) if size >= LINES * max(sizes)]
    bond = _bond_length(np.isin(pieces, lines))
    large = [
        at
        for at, box in enumerate(boxes, 1)
        if max(_size(box)) >= MOLECULE * bond and (at in arrows or min(_size(box)) >= THIN * bond)
    ]
    if len(large) > 1:
        molecules = _without_captions(inked, pieces, large, bond)
        if len(_groups(molecules, pieces, large, APART * bond)) > 1 or _is_grid(np.where(molecules, pieces, 0), large):
            return GRID
    for at in arrows:
        others = [other for other, size in enumerate(sizes, 1) if other != at and size >= REACTANT * bond]
        if (
            sizes[at - 1] >= bond
            and len(others) > 1
            and _on_both_sides(boxes, at, _groups(inked & (pieces != at), pieces, others, BESIDE * bond))
        ):
            return REACTION
    return ""


def _reduced(inked: Mask) -> Mask:
    """A mask that is no larger than is needed; a pixel has ink where any of its own had."""
    factor = math.ceil(max(inked.shape) / SIDE)
    return inked if factor == 1 else _in_cells(inked, factor)


def _in_cells(inked: Mask, cell: int) -> Mask:
    rows = np.logical_or.reduceat(inked, range(0, inked.shape[0], cell), axis=0)
    cells: Mask = np.logical_or.reduceat(rows, range(0, inked.shape[1], cell), axis=1)
    return cells


def _without_rules(inked: Mask) -> Mask:
    """A mask without the lines of a table, cut to the frame where there is one."""
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    level, upright = inked[:, box[1]].mean(axis=1) >= RULE, inked[box[0]].mean(axis=0) >= RULE
    left = inked & ~level[:, None] & ~upright
    if not left.any():  # a bond alone
        return inked
    framed: Mask = left[box] if level[rows[0]] and upright[columns[0]] else left
    return framed


def _is_together(inked: Mask) -> bool:
    """Whether no part of the ink is far away from the rest, measured by the size of all of it."""
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    part = inked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cells = _in_cells(part, max(1, max(part.shape) // TOGETHER))
    return bool(ndimage.label(cells, EIGHT)[1] == 1)


def _size(box: Box) -> tuple[int, int]:
    rows, columns = box
    return rows.stop - rows.start, columns.stop - columns.start


def _bond_length(inked: Mask) -> float:
    """Length of most bonds, in pixels: the median, over the ink, of the longest straight line through each pixel.

    For each direction the pixels are sorted along parallel rows, two pixels wide; a line is a run without a gap.
    """
    y, x = np.nonzero(inked)
    longest = np.zeros(len(x))
    for angle in np.arange(ANGLES) * math.pi / ANGLES:
        along = x * math.cos(angle) + y * math.sin(angle)
        row = np.round((y * math.cos(angle) - x * math.sin(angle)) / 2).astype(int)
        order = np.lexsort((along, row))
        along, row = along[order], row[order]
        starts = np.flatnonzero((np.diff(row, prepend=row[0] - 1) != 0) | (np.diff(along, prepend=along[0]) > 1.6))
        ends = np.append(starts[1:], len(along))
        lengths = np.repeat(along[ends - 1] - along[starts] + 1, ends - starts)
        longest[order] = np.maximum(longest[order], lengths)
    return float(np.median(longest))


def _groups(inked: Mask, pieces: NDArray[np.int32], large: list[int], gap: float) -> dict[int, list[int]]:
    """The large pieces by group, ink that is closer together than ``gap`` being one group."""
    groups, _ = ndimage.label(ndimage.distance_transform_edt(~inked) <= gap / 2, EIGHT)
    found: dict[int, list[int]] = {}
    for piece, group in zip(large, ndimage.maximum(groups, pieces, large), strict=True):
        found.setdefault(int(group), []).append(piece)
    return found


def _without_captions(inked: Mask, pieces: NDArray[np.int32], large: list[int], bond: float) -> Mask:
    """The ink without lines of letters that nothing else is close to: a legend is no bridge between two molecules."""
    groups, _ = ndimage.label(ndimage.distance_transform_edt(~inked) <= BESIDE * bond / 2, EIGHT)
    with_large = set(np.asarray(ndimage.maximum(groups, pieces, large)).tolist())
    left = inked.copy()
    for group, box in enumerate(ndimage.find_objects(np.where(inked, groups, 0)), 1):
        if group not in with_large and box is not None and _size(box)[0] <= CAPTION * bond:
            left[box] &= groups[box] != group
    return left


def _is_grid(pieces: NDArray[np.int32], large: list[int]) -> bool:
    """Whether large pieces are at the same place of equal cells each, as in RDKit's grids, however close they are."""
    for rows, columns in itertools.product(range(1, CELLS + 1), repeat=2):
        cells = [cell for row in np.array_split(pieces, rows) for cell in np.array_split(row, columns, axis=1)]
        filled = [cell for cell in cells if cell.any()]
        spans = np.array([_span(cell) for cell in filled])  # (cell, axis, start and end)
        if len(filled) == 1 or spans.min() == 0 or spans.max() == 1:  # ink in one cell, or across an edge
            continue
        at_one_place = np.ptp(spans.mean(axis=2), axis=0).max() <= OFF
        is_filled = np.ptp(spans, axis=2).max() >= FILLED
        if at_one_place and is_filled and all(np.isin(cell, large).any() for cell in filled):
            return True
    return False


def _span(cell: NDArray[np.int32]) -> list[tuple[float, float]]:
    """Start and end of the ink in the height and in the width of a cell, as parts of them."""
    inked = [np.flatnonzero(cell.any(axis=axis)) for axis in (1, 0)]
    return [(at[0] / side, (at[-1] + 1) / side) for at, side in zip(inked, cell.shape, strict=True)]


def _is_arrow(piece: Mask) -> bool:
    """Whether a connected piece of ink, in its box, is a level or upright line with a head, or half of one, at an end.

    A line may be double, as of a retrosynthetic arrow.
    """
    piece = piece if piece.shape[0] <= piece.shape[1] else piece.T
    height, length = piece.shape
    if height > FLAT * length:
        return False
    top, bottom = piece.argmax(axis=0), height - piece[::-1].argmax(axis=0)
    line = float(np.median(bottom - top))
    head = bottom - top >= 1.5 * line + 1
    if height < 2.5 * line or not head.any() or line > 0.12 * length:
        return False
    if np.ptp((top + bottom)[~head]) > line + 2:  # not level
        return False
    wide = np.flatnonzero(head)
    return bool(wide[-1] < HEAD * length or wide[0] >= (1 - HEAD) * length)


def _on_both_sides(boxes: list[Box], arrow: int, groups: dict[int, list[int]]) -> bool:
    """Whether there is a molecule before and one behind an arrow, which nothing but the arrow is between."""
    axis = int(np.argmax(_size(boxes[arrow - 1])))
    start, stop = boxes[arrow - 1][axis].start, boxes[arrow - 1][axis].stop
    before = behind = False
    for pieces in groups.values():
        middles = [(boxes[piece - 1][axis].start + boxes[piece - 1][axis].stop) / 2 for piece in pieces]
        before |= max(middles) < start
        behind |= min(middles) > stop
    return before and behind
