"""Where a model looks while it writes: the attention over the picture, token by token."""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..depiction.plain import Picture

COLUMNS = 8
PANEL = 1.35  # inches
ORANGE = (0.90, 0.38, 0.0)
STRONGEST = 0.85  # opacity where the attention is greatest
LINE = 90  # characters of a SMILES on one line


def draw_attention(
    picture: Picture,
    tokens: Sequence[str],
    attention: NDArray[np.float32],
    *,
    title: str = "",
    probabilities: Sequence[float] | None = None,
    channel_order: str = "rgb",
) -> Image.Image:
    """One panel for each token and one for the end: the picture, orange where the decoder looked.

    The orange means the same in all panels: attention that is spread out is pale everywhere.

    Parameters
    ----------
    picture
        (size, size, channels) uint8.
    tokens
        The tokens of the text, without the end.
    attention
        (tokens + 1, grid, grid), of each token and then the end; sums to 1 over the cells.
    title
        What stands on top, above the text.
    probabilities
        Of each token given those before it, and of the end, where they are known.
    channel_order
        ``bgr`` where a colour picture's red and blue are swapped.

    Raises
    ------
    ValueError
        Where there is not one map for each token and the end.
    """
    if len(attention) != len(tokens) + 1:
        raise ValueError(f"{len(attention)} maps for {len(tokens)} tokens and the end")
    labels = [*tokens, "end"]
    rows = math.ceil(len(labels) / COLUMNS)
    columns = min(COLUMNS, len(labels))
    # The text above takes at least the width of a few panels.
    text = textwrap.fill("".join(tokens) or "(empty)", LINE * max(columns, 4) // COLUMNS)
    above = 0.35 + 0.2 * (text.count("\n") + 1)
    figure = Figure(figsize=(PANEL * max(columns, 4), (PANEL + 0.2) * rows + above), dpi=120)
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, title, va="top", fontsize=9, color="0.35", parse_math=False)
    figure.text(0.01, 1 - 0.28 / height, text, va="top", fontsize=10, family="monospace", parse_math=False)
    panels = figure.subplots(rows, max(columns, 4), squeeze=False).ravel()
    for axes in panels[len(labels) :]:
        axes.set_axis_off()
    shown = picture[..., ::-1] if channel_order == "bgr" else picture
    full = float(np.quantile(attention.max(axis=(1, 2)), 0.9))  # a single cell that has it all makes no others pale
    for at, (axes, label) in enumerate(zip(panels, labels, strict=False)):
        axes.imshow(_overlaid(shown, attention[at] / full))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.85")
        certain = "" if probabilities is None or at >= len(probabilities) else f"  {probabilities[at]:.2f}"
        axes.set_title(label + certain, fontsize=9, family="monospace", pad=2, parse_math=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - (above + 0.2) / height, wspace=0.06, hspace=0.2)
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in scripts that the font lacks
        figure.savefig(data, format="png")
    return Image.open(data)


def _overlaid(picture: Picture, strength: NDArray[np.float32]) -> NDArray[np.float64]:
    """The picture under a veil of orange, (size, size, 3) in 0 to 1, the more opaque the stronger, 1 the strongest."""
    size = picture.shape[0]
    smooth = Image.fromarray(strength.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    opacity = (np.asarray(smooth, np.float64).clip(0, 1) * STRONGEST)[:, :, None]
    below = np.broadcast_to(picture / 255.0, (size, size, 3))
    # Multiplied, so that the lines stay black under it.
    veiled: NDArray[np.float64] = below * (1 - opacity + opacity * np.array(ORANGE))
    return veiled
