"""Where on a picture the molecule is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CELLS = 48  # cells along the longer side of what is drawn; ink in neighbouring cells belongs together
LEAST = 4  # pixels along a cell
SPECK = 0.01  # longer side of a speck, in that of the drawing
EIGHT = np.ones((3, 3), bool)  # neighbours are connected also by their corners

Mask = NDArray[np.bool_]
Part = tuple[slice, slice]  # rows, columns
Box = tuple[int, int, int, int]  # top, bottom, left, right


class Group(NamedTuple):
    """Ink that is close together."""

    box: Box
    pieces: list[tuple[int, int]]  # height and width of what is connected


def box_of(inked: Mask) -> Box:
    """Top, bottom, left and right of what is drawn, without the specks around it and a number in the corner.

    Ink that is closer together than a cell is one group, so that a bond of dashes or a letter's dot belongs to what it
    stands by. A group without any larger connected piece of ink is specks.

    Parameters
    ----------
    inked
        (height, width), some of it true.

    Returns
    -------
    In pixels, the last row and the last column not included.
    """
    top, bottom, left, right = _extent(inked)
    cell = max(LEAST, max(bottom - top, right - left) // CELLS)
    cells, number = ndimage.label(_any_in_cells(inked[top:bottom, left:right], cell), EIGHT)
    if number == 1:
        return top, bottom, left, right
    groups: list[Group] = []
    for rows, columns in sorted(ndimage.find_objects(cells), key=_area, reverse=True):
        part = _part((rows, columns), cell, (top, left))
        # Of the largest group the box serves; the others are few pixels.
        groups.append(Group(_extent(inked, part), pieces_of(inked[part]) if groups else [inked[part].shape]))
    least = max(3.0, SPECK * max(groups[0].pieces[0]))
    drawn = [group for group in groups if max(map(max, group.pieces)) > least] or groups[:1]
    return _around([group for group in drawn if not _is_number(group, [g for g in drawn if g is not group])])


def _area(part: Part) -> int:
    rows, columns = part
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def _part(cells: Part, cell: int, corner: tuple[int, int]) -> Part:
    """The pixels of some cells, counted from a corner."""
    rows, columns = (slice(at + cell * c.start, at + cell * c.stop) for at, c in zip(corner, cells, strict=True))
    return rows, columns


def _extent(inked: Mask, part: Part = (slice(None), slice(None))) -> Box:
    """Top, bottom, left and right of the ink in a part of the picture."""
    (top, _, _), (left, _, _) = (side.indices(n) for side, n in zip(part, inked.shape, strict=True))
    rows, columns = (np.flatnonzero(inked[part].any(axis=axis)).tolist() for axis in (1, 0))
    return top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1


def _around(groups: list[Group]) -> Box:
    """The box of several boxes."""
    tops, bottoms, lefts, rights = zip(*(group.box for group in groups), strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def pieces_of(inked: Mask) -> list[tuple[int, int]]:
    """Height and width of each connected piece of ink."""
    found = ndimage.find_objects(ndimage.label(inked, EIGHT)[0])
    return [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in found]


def _is_number(group: Group, others: list[Group]) -> bool:
    """Whether a group is the compound's number, a line of letters in a corner to the right of everything else.

    The label of an ion or of a solvent is a line of letters, too; but it has a charge, which is smaller than a letter,
    or it does not stand in the corner and far away at once. Longer lines above or below, such as names, stay: they
    cannot be told from ``CF3CF2SO3``.
    """
    if not others:
        return False
    top, bottom, left, _ = group.box
    drawn = _around(others)
    whole = min(top, drawn[0]), max(bottom, drawn[1])
    height = whole[1] - whole[0]
    tallest = max(h for h, _ in group.pieces)
    letters = len(group.pieces) >= 2 and all(0.6 * tallest <= h and w <= 2 * tallest for h, w in group.pieces)
    in_line = bottom - top <= 1.5 * tallest and 6 * tallest <= height
    in_corner = top - whole[0] <= 0.02 * height or whole[1] - bottom <= 0.02 * height
    return letters and in_line and in_corner and left - drawn[3] >= 1.5 * tallest


def _any_in_cells(inked: Mask, cell: int) -> Mask:
    """Whether there is ink in each square of so many pixels."""
    rows = np.logical_or.reduceat(inked, range(0, inked.shape[0], cell), axis=0)
    cells: Mask = np.logical_or.reduceat(rows, range(0, inked.shape[1], cell), axis=1)
    return cells
