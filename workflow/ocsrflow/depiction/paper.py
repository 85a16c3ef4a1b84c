"""The paper of a picture: drawings come out dark on white, whatever they were drawn on."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .highlights import without_highlights
from .plain import Picture

BLANK = 0.12  # darkest ink, of 1, of a picture that has nothing on it
NOTHING = "blank: nothing is drawn on it; give a picture with a molecule"
TILES = 8  # rows and columns of the estimate of uneven light
SAMPLES = 16  # rows and columns of pixels that are looked at in each tile
SAME = 0.85  # of the lightness around: what is darker is no paper in weaker light
LEAST = 0.02  # lightness, of 1, that paper has at least


class BlankError(ValueError):
    """Nothing is drawn on a picture."""


def dark_on_white(pixels: Picture, channels: int) -> Picture:
    """The drawing dark on white: light on dark inverted, highlights taken out, uneven light evened out.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8, RGB, or (height, width), grey.
    channels
        3 for colours. 1 for the darkest channel of each pixel: a label that is yellow here is black there.

    Returns
    -------
    (height, width) uint8 for one channel, (height, width, 3) for three.

    Raises
    ------
    BlankError
        Where all of the picture has nearly the same colour.
    """
    lightness = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
    counts = histogram(lightness)
    lowest = darkest(pixels)
    if int(np.flatnonzero(counts)[-1]) - int(lowest.min()) <= BLANK * 255:
        raise BlankError(NOTHING)
    inverted = _is_light_on_dark(counts)
    if pixels.ndim == 3:
        cleaned = 255 - without_highlights(255 - pixels) if inverted else without_highlights(pixels)
        pixels, lowest = cleaned, darkest(cleaned)
    if channels == 1:
        drawing = 255 - lightest(pixels) if inverted else lowest
    else:
        drawing = np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels
        if inverted:  # The lightness is inverted and the hue stays.
            drawing = drawing + (255 - lightest(pixels) - lowest)[..., None]  # modulo 256, and never beyond it
    return _evened(drawing)


def histogram(grey: Picture) -> NDArray[np.int64]:
    """How many pixels have each of the 256 levels."""
    return np.array(Image.fromarray(grey).histogram())  # several times faster than bincount


def darkest(pixels: Picture) -> Picture:
    """The minimum of the channels, (height, width): in pairs, several times faster than along the axis."""
    return pixels if pixels.ndim == 2 else _over_channels(np.minimum, pixels)


def lightest(pixels: Picture) -> Picture:
    """The maximum of the channels, (height, width)."""
    return pixels if pixels.ndim == 2 else _over_channels(np.maximum, pixels)


def _over_channels(extreme: np.ufunc, pixels: Picture) -> Picture:
    red, green, blue = np.moveaxis(pixels, -1, 0)
    found: Picture = extreme(extreme(red, green), blue)
    return found


def _is_light_on_dark(counts: NDArray[np.int64]) -> bool:
    """Whether what differs from the most of the picture, its background, is mostly lighter than it."""
    level = int(np.searchsorted(counts.cumsum(), counts.sum() / 2))
    squares = counts * (np.arange(256) - level) ** 2
    return int(squares[level:].sum()) > int(squares[:level].sum())


def _evened(drawing: Picture) -> Picture:
    """The drawing divided by what the paper is like at each place, so that paper is white."""
    planes = drawing[..., None] if drawing.ndim == 2 else drawing
    papers = [_paper(plane) for plane in np.moveaxis(planes, -1, 0)]
    if all((paper == 255).all() for paper in papers):
        return drawing
    evened = [_divided(plane, paper) for plane, paper in zip(np.moveaxis(planes, -1, 0), papers, strict=True)]
    return evened[0] if drawing.ndim == 2 else np.stack(evened, axis=-1)


def _paper(plane: Picture) -> Picture:
    """Level of the background in each tile, (TILES, TILES), or in all of the picture, (1, 1).

    A tile's median is its background unless lines fill half of it, which they hardly do in all tiles around. So it is
    the highest median of the tiles around where the tile's own is much lower.
    """
    height, width = plane.shape
    if min(height, width) < 4 * TILES:
        level: Picture = np.median(plane, keepdims=True).astype(np.uint8)
        return level
    rows, columns = (np.linspace(0, side - 1, TILES * SAMPLES).astype(int) for side in (height, width))
    tiles = plane[rows][:, columns].reshape(TILES, SAMPLES, TILES, SAMPLES).swapaxes(1, 2).reshape(TILES, TILES, -1)
    middle = tiles.shape[-1] // 2
    medians = np.partition(tiles, middle, axis=-1)[..., middle]
    around: Picture = ndimage.maximum_filter(medians, 3)
    if (around == around[0, 0]).all():
        return around[:1, :1]
    return np.where(medians >= SAME * around, medians, around)


def _divided(plane: Picture, paper: Picture) -> Picture:
    factors = 255 / np.maximum(paper.astype(np.float32), LEAST * 255)
    if (paper == paper[0, 0]).all():
        lookup: Picture = (np.arange(256) * factors[0, 0]).clip(0, 255).round().astype(np.uint8)
        return lookup.take(plane)
    size = plane.shape[1], plane.shape[0]
    levels = np.array(Image.fromarray(factors).resize(size, Image.Resampling.BILINEAR))
    levels *= plane
    levels += 0.5
    divided: Picture = np.minimum(levels, 255, out=levels).astype(np.uint8)
    return divided
