"""The door: any picture of a molecule becomes what the models read, whether they learn from it or read it."""

import numpy as np
from PIL import Image

from ..config.depiction import Depiction
from ..depiction.paper import BLANK, NOTHING, BlankError, dark_on_white, darkest, histogram
from ..depiction.plain import Picture
from .box import Box, Mask, box_of, pieces_of

LEAST = 8  # pixels of the drawing's longer side
INKED = 0.3  # share of the darkest ink from which on a pixel counts as drawn: above JPEG's ringing
PALE = 0.85  # ink, of 1, that is darkened
LINE_WIDTH = 1.2  # pixels in the frame; lines that would be thinner are made darker instead
LETTERS = (26, 36)  # height in pixels of capitals that are as large as RDKit draws them
GRAIN = 3.5  # standard deviations of the paper's noise beyond which a pixel counts as drawn


def normalise(pixels: Picture, depiction: Depiction) -> Picture:
    """A drawing as the models know it: dark on white, cut to what is drawn, and in the frame that RDKit would fill.

    Light on dark is inverted; highlights behind atoms and bonds, uneven light and noise of the paper are taken out;
    pale ink is darkened. The drawing is scaled by one factor, as large as the frame inside the padding (of a range its
    middle); lines that are thinner than a pixel then are darkened in proportion. Specks away from the drawing and a
    number in the corner do not count for its size. A picture that is as RDKit draws it already stays as it is.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB, or (height, width), grey.
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
    drawing = dark_on_white(pixels, depiction.channels)
    grey = darkest(drawing)
    noise = _noise(grey)
    threshold = _threshold(grey, noise)
    inked = grey < threshold
    box = box_of(inked)
    top, bottom, left, right = box
    longer = max(bottom - top, right - left)
    if longer < LEAST:
        raise ValueError(f"nothing but a speck of {longer} pixels is drawn on it; give a larger picture")
    black = _black(grey, threshold)
    if _fills(inked, box, depiction):
        frame = _toned(drawing, black, noisy=noise > 0)
    else:
        frame = _framed(drawing, inked, box, black, noise > 0, depiction)
    if frame.ndim == 2:
        return frame[..., None]
    return np.ascontiguousarray(frame[..., ::-1]) if depiction.channel_order == "bgr" else frame


def in_frame(pixels: Picture, depiction: Depiction) -> bool:
    """Whether a picture is one of the depiction's kind already: of its size and colours, drawn on white.

    ``pixels`` are (height, width, 3) uint8.
    """
    size = depiction.size
    on_white = 2 * np.count_nonzero(pixels == 255) > pixels.size
    if pixels.shape[:2] != (size, size) or not on_white or 255 - int(pixels.min()) <= BLANK * 255:
        return False
    return depiction.channels == 3 or bool((pixels == pixels[..., :1]).all())


def drawn(pixels: Picture) -> Mask:
    """Where a picture, (height, width, 3) or (height, width) uint8, is drawn on, as :func:`normalise` has it.

    Raises
    ------
    ValueError
        Where nothing is drawn.
    """
    grey = dark_on_white(pixels, 1)
    return grey < _threshold(grey, _noise(grey))


def _threshold(grey: Picture, noise: float) -> float:
    """The level below which a pixel counts as drawn."""
    ink = 255 - int(grey.min())
    if ink <= BLANK * 255:
        raise BlankError(NOTHING)
    return 255 - max(INKED * ink, min(GRAIN * noise, 0.6 * ink))


def _noise(grey: Picture) -> float:
    """Standard deviation of the paper's grain, in levels, from the differences of neighbours, of which most are paper.

    0 where half of them are 0, as in drawings and in what has been compressed. Of a normal grain whose upper half is
    cut off at white, the median difference is 0.39 standard deviations.
    """
    rows = grey[:: max(1, grey.shape[0] // 64)].astype(np.int16)
    differences = np.abs(np.diff(rows, axis=1))
    if 2 * np.count_nonzero(differences) <= differences.size:
        return 0.0
    return float(np.median(differences)) / 0.39


def _black(grey: Picture, threshold: float) -> float:
    """Darkness of most of the ink, of 1."""
    counts = histogram(grey)[: int(np.ceil(threshold))].cumsum()
    black = 1 - int(np.searchsorted(counts, 0.1 * counts[-1])) / 255
    return black if black < PALE else 1.0


def _fills(inked: Mask, box: Box, depiction: Depiction) -> bool:
    """Whether a drawing is centred in a frame of the right size and as large in it as RDKit's are."""
    size = depiction.size
    if inked.shape != (size, size):
        return False
    top, bottom, left, right = box
    off = max(abs(top + bottom - size), abs(left + right - size))
    padding = depiction.padding[1] if isinstance(depiction.padding, tuple) else depiction.padding
    # RDKit counts the middles of lines and leaves some room for labels.
    if max(bottom - top, right - left) >= size * (0.95 - 2 * padding):
        return off <= 3 + size / 100
    return off <= 10 + size / 100 and _is_at_rdkits_limit(inked[top:bottom, left:right], size)


def _is_at_rdkits_limit(inked: Mask, size: int) -> bool:
    """Whether one or two atoms are drawn as large as RDKit draws them, which does not fill a frame.

    Its letters have 40 pixels at most, their capitals about 28; ethane is a line of two thirds of the frame.

    Parameters
    ----------
    inked
        (height, width), the part with the drawing.
    size
        Of the frame, in pixels.
    """
    pieces = pieces_of(inked)
    if len(pieces) == 1 and min(pieces[0]) <= 0.05 * max(pieces[0]):
        return 0.6 * size <= max(pieces[0]) <= 0.75 * size
    low, high = LETTERS
    bonds = [piece for piece in pieces if max(piece) > high]
    tallest = max((height for height, width in pieces if max(height, width) <= high), default=0)
    return low <= tallest and len(bonds) <= 3 and all(min(bond) <= 0.05 * max(bond) for bond in bonds)


def _framed(drawing: Picture, inked: Mask, box: Box, black: float, noisy: bool, depiction: Depiction) -> Picture:
    """A drawing scaled to the frame and centred in it, (size, size) or (size, size, 3)."""
    size = depiction.size
    padding = sum(depiction.padding) / 2 if isinstance(depiction.padding, tuple) else depiction.padding
    top, bottom, left, right = box[0] - 1, box[1] + 1, box[2] - 1, box[3] + 1  # with its soft edges
    top, left = max(top, 0), max(left, 0)
    bottom, right = min(bottom, inked.shape[0]), min(right, inked.shape[1])
    scale = size * (1 - 2 * padding) / max(bottom - top, right - left)
    width, height = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    # Both are widened by the factor where a picture is scaled down, so that every pixel counts; Hamming's filter
    # makes no pale lines beside dark ones.
    kind = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.LANCZOS
    image = Image.fromarray(drawing).resize((width, height), kind, box=(left, top, right, bottom))
    lines = scale * _line_length(inked[top:bottom, left:right])
    frame = np.full((size, size, *drawing.shape[2:]), 255, np.uint8)
    at = (size - height) // 2, (size - width) // 2
    frame[at[0] : at[0] + height, at[1] : at[1] + width] = _toned(np.asarray(image), black, noisy, lines)
    return frame


def _line_length(inked: Mask) -> float:
    """Length of all lines, in pixels: half of the perimeter.

    The perimeter by Crofton's formula from the crossings of rows and columns: π/4 times their number.
    """
    crossings = np.count_nonzero(inked[1:] != inked[:-1]) + np.count_nonzero(inked[:, 1:] != inked[:, :-1])
    return float(np.pi / 8 * crossings)


def _toned(drawing: Picture, black: float, noisy: bool, length: float = 0) -> Picture:
    """A drawing with its paper made white and its ink black.

    Parameters
    ----------
    drawing
        (height, width) or (height, width, 3) uint8, as large as in the frame.
    black
        Darkness, of 1, that becomes black.
    noisy
        Whether the paper has a grain.
    length
        That of all lines, in pixels. Their mean width is the ink over it, and where that is less than
        ``LINE_WIDTH``, the lines are darkened by the ratio.
    """
    counts = histogram(darkest(drawing))[::-1]
    darkness = np.arange(256) / 255
    if noisy:
        paper = np.repeat(darkness, np.where(darkness < INKED * black, counts, 0))
        if len(paper):
            level = float(np.median(paper))
            grain = 1.4826 * float(np.median(np.abs(paper - level)))  # a normal's standard deviation
            off = min(level + 3 * grain, 0.5)
            darkness = (darkness - off).clip(0) / (1 - off)
    darkness = darkness / black
    if length:
        width = float((darkness.clip(0, 1) * counts).sum()) / length
        darkness *= max(1, LINE_WIDTH / max(width, 0.05))
    lookup = 255 - (darkness[::-1].clip(0, 1) * 255).round().astype(np.uint8)
    return drawing if (lookup == np.arange(256)).all() else lookup[drawing]
