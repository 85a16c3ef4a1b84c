"""What printing, copying and scanning do to a drawing."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .paper import darkest

WIPED_OUT = 0.01  # of the ink of a drawing that a scan may leave without a trace
FAINT = 0.75  # of white: what is darker is ink

Grey = NDArray[np.float32]  # (height, width), 0 black to 1 white


def scan(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """A drawing as it looks once it was printed and scanned.

    The effects follow the order in which they happen: the sheet lies a little askew, ink spreads or thins, the optics
    blur, paper and sensor add noise, light falls off, dust falls on it; then most scans are made black and white by a
    threshold, which breaks and joins strokes, and some are saved as JPEG. Strengths are in relation to the width of
    the drawing's own strokes. Where they would wipe out more than a speck of it, such as a letter that is thinner than
    the bonds, ink and threshold are as they should be: what cannot be read by eye is no picture to learn from.

    Parameters
    ----------
    pixels
        (height, width, 3) uint8 RGB or (height, width) grey, dark on white.
    random
        Decides which effects, and how strong.

    Returns
    -------
    (height, width) uint8, grey.
    """
    grey: Grey = (darkest(pixels) if pixels.ndim == 3 else pixels).astype(np.float32) * np.float32(1 / 255)
    stroke = _stroke_width(grey)
    if random.random() < 0.3:
        grey = _askew(grey, float(random.normal(0, 0.8)))
    drawn = grey
    grey = _low_resolution(grey, stroke, random)
    if random.random() < 0.5:
        grey = _spread_ink(grey, stroke, random)
    if random.random() < 0.8:
        grey = ndimage.gaussian_filter(grey, float(random.uniform(0.1, 0.25)) * stroke)
    grey = _black_and_white(grey, stroke, random) if random.random() < 0.85 else _grey_levels(grey, random)
    if _wiped_out(drawn, grey) > WIPED_OUT:
        grey = np.where(drawn < FAINT, np.float32(0), np.float32(1))
    if random.random() < 0.3:
        _add_dust(grey, stroke, random)
    result = (grey.clip(0, 1) * 255).astype(np.uint8)
    if random.random() < 0.2:
        result = _jpeg(result, int(random.integers(25, 80)))
    return result


def _stroke_width(grey: Grey) -> float:
    """About how wide the strokes are, in pixels: twice the area of the ink over the length of its outline."""
    ink = grey < 0.5
    outline = np.count_nonzero(ink[1:] != ink[:-1]) + np.count_nonzero(ink[:, 1:] != ink[:, :-1])
    # The number of edges between pixels is 4/π of the length of an outline of any direction.
    return float(np.clip(2 * ink.sum() / max(1.0, outline * np.pi / 4), 1.0, 12.0)) if outline else 1.0


def _wiped_out(before: Grey, after: Grey) -> float:
    """The share of a drawing's ink that has no ink left within a pixel of it."""
    ink = before < 0.5
    left = after < (np.float32(after.min()) + np.float32(after.max())) / 2
    near = ndimage.maximum_filter(left, 3)
    lost, all_ink = int(np.count_nonzero(ink & ~near)), int(np.count_nonzero(ink))
    return lost / max(1, all_ink)


def _low_resolution(grey: Grey, stroke: float, random: np.random.Generator) -> Grey:
    """Now and then as if scanned at fewer dots an inch, then enlarged; strokes keep a pixel and a half or more."""
    most = stroke / 1.5
    if most <= 1.1 or random.random() > 0.3:
        return grey
    factor = float(random.uniform(1, min(most, 2.5)))
    height, width = grey.shape
    image = Image.fromarray(grey).resize(
        (max(8, round(width / factor)), max(8, round(height / factor))), Image.Resampling.BOX
    )
    resampling = Image.Resampling.NEAREST if random.random() < 0.4 else Image.Resampling.BILINEAR
    return np.asarray(image.resize((width, height), resampling), np.float32)


def _spread_ink(grey: Grey, stroke: float, random: np.random.Generator) -> Grey:
    """Strokes fattened by up to a sixth on each side, or thinned by a quarter, where that leaves a pixel or more."""
    if random.random() < 0.6:
        pixels = stroke * float(random.uniform(0.05, 0.17))
        size = 1 + 2 * max(1, round(pixels))
        other = ndimage.minimum_filter(grey, size)
        part = min(1.0, pixels)
    else:
        if stroke < 4:
            return grey
        size, part = 3, float(random.uniform(0.2, 0.7))
        other = ndimage.maximum_filter(grey, size)
    result: Grey = grey + np.float32(part) * (other - grey)
    return result


def _askew(grey: Grey, degrees: float) -> Grey:
    image = Image.fromarray(grey).rotate(degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=1.0)
    return np.asarray(image, np.float32)


def _black_and_white(grey: Grey, stroke: float, random: np.random.Generator) -> Grey:
    """A threshold over uneven ink: strokes break where it is pale, and join where it is dark."""
    height, width = grey.shape
    coarse = max(1.0, stroke * float(random.uniform(0.3, 1.0)))
    strength = float(random.choice([0.0, 0.0, 0.05, 0.1, 0.15])) * min(1.0, stroke / 4)
    if strength:
        small = random.normal(0, 1, (int(height / coarse) + 2, int(width / coarse) + 2)).astype(np.float32)
        uneven = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
        paper = float(random.choice([0.0, 0.0, 0.5, 1.0]))  # how far the paper is uneven too, which gives it a grain
        grey = grey + np.float32(strength) * uneven * np.maximum(1 - grey, paper)
    # Thin strokes are pale once they are blurred: a low threshold would wipe them out.
    level = float(random.uniform(0.55 if stroke < 2.5 else 0.4, 0.75))
    return (grey > level).astype(np.float32)


def _grey_levels(grey: Grey, random: np.random.Generator) -> Grey:
    """Grey ink on grey paper in uneven light, with noise."""
    black, white = float(random.uniform(0, 0.35)), float(random.uniform(0.75, 1))
    grey = black + (white - black) * grey
    height, width = grey.shape
    if random.random() < 0.5:
        down, right = random.uniform(-0.15, 0.15, 2)
        light = np.add.outer(np.linspace(-down, down, height), np.linspace(-right, right, width)) / 2
        grey = grey + light.astype(np.float32)
    if random.random() < 0.15:  # the shadow of an edge
        reach = max(2, round(width * float(random.uniform(0.02, 0.08))))
        shadow = np.linspace(float(random.uniform(0.1, 0.35)), 0, reach, dtype=np.float32)
        grey = grey.copy()
        grey[:, :reach] -= shadow
    noise = random.normal(0, float(random.uniform(0, 0.07)), grey.shape).astype(np.float32)
    result: Grey = grey + noise
    return result


def _add_dust(grey: Grey, stroke: float, random: np.random.Generator) -> None:
    """Specks smaller than a stroke is wide, dark anywhere and white in strokes; in place."""
    height, width = grey.shape
    for _ in range(int(random.integers(1, 25))):
        side = max(1, round(stroke * float(random.uniform(0.2, 0.7))))
        y, x = int(random.integers(0, max(1, height - side))), int(random.integers(0, max(1, width - side)))
        grey[y : y + side, x : x + side] = 0.0 if random.random() < 0.7 else 1.0


def _jpeg(grey: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image)
