"""The figures of a search's page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ..config.searches import Range, Search
from .figures import PALETTE, Drawing, legend_beside, logarithmic, painted

COLOURS = "viridis"
DROPPED = "0.7"  # a grey


def positions(search: Search, values: Mapping[Any, Any]) -> dict[str, float]:
    """Where values lie between the ends of their ranges or in their lists, from 0 to 1."""
    found = {}
    for key, own in search.space.items():
        if isinstance(own, Range):
            low, high = own.ends
            scale = np.log if own.log else float
            found[key] = float((scale(values[key]) - scale(low)) / (scale(high) - scale(low)))
        else:
            found[key] = own.index(values[key]) / max(1, len(own) - 1)
    return found


def parallel(search: Search, rows: pd.DataFrame, label: str, best: int) -> Drawing:
    """A line for each trial through its settings and its score (columns: trial, score, and one for each setting)."""
    places = pd.DataFrame([positions(search, row) for row in rows[[*search.space]].to_dict("records")])
    score = rows["score"].to_numpy(float)
    scale = Normalize(score.min(), score.max() if score.max() > score.min() else score.min() + 1)
    axis_names = [*(key.replace(".", ".\n", 1) for key in search.space), label.replace(" after", "\nafter")]

    def paint(axes: Axes) -> None:
        colours = sns.color_palette(COLOURS, as_cmap=True)
        for at in np.argsort(score, kind="stable"):
            line = [*places.iloc[at], float(scale(score[at]))]
            bold = int(rows["trial"].iloc[at]) == best
            look: dict[str, Any] = {"linewidth": 3 if bold else 1.2, "marker": "o", "markersize": 5 if bold else 3}
            axes.plot(range(len(line)), line, color=colours(scale(score[at])), **look)
        for at, key in enumerate(search.space):
            axes.axvline(at, color="0.4", linewidth=0.8)
            for height, text in _marks(search.space[key]):
                axes.annotate(text, (at, height), (4, 0), textcoords="offset points", fontsize="x-small", va="center")
        axes.axvline(len(search.space), color="0.4", linewidth=0.8)
        axes.set_xticks(range(len(axis_names)), axis_names, fontsize="small")
        axes.set(yticks=[], xlim=(-0.1, len(search.space) + 0.1), ylim=(-0.05, 1.05))
        axes.grid(visible=False)
        assert axes.figure is not None
        axes.figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=label)

    caption = (
        f"A line for each trial, from its settings to its {label}; all trials were trained as long by then. The thick "
        "line is the best trial of the whole search."
    )
    return painted("Settings and score of all trials", caption, rows, paint, (2.2 + 1.5 * len(axis_names), 3.6))


def _marks(values: Any) -> list[tuple[float, str]]:
    """Heights and texts beside an axis: the ends of a range, each of a list."""
    if isinstance(values, Range):
        return [(height, f"{end:.10g}") for height, end in enumerate(values.ends)]
    return [(at / max(1, len(values) - 1), _text(value)) for at, value in enumerate(values)]


def _text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def by_setting(search: Search, key: str, rows: pd.DataFrame, label: str) -> Drawing:
    """The score against a setting (columns: the setting, score, rung, the last one that a trial was in)."""
    values = search.space[key]
    listed = not isinstance(values, Range)

    def paint(axes: Axes) -> None:
        for colour, (rung, own) in zip(_of_rungs(search), rows.groupby("rung"), strict=False):
            across = [values.index(v) for v in own[key]] if listed else own[key]  # type: ignore[union-attr]
            axes.plot(across, own["score"], "o", color=colour, label=_reached(search, int(str(rung))), markersize=5)
        if listed:
            axes.set_xticks(range(len(values)), [_text(value) for value in values])  # type: ignore[arg-type]
            axes.set_xlim(-0.5, len(values) - 0.5)  # type: ignore[arg-type]
        elif isinstance(values, Range) and values.log:
            logarithmic(axes, "x", *values.log)
        axes.set(xlabel=key, ylabel=label)
        legend_beside(axes)

    caption = f"Each point is a trial: its {label} against {key}; the colour says how far it was trained in the end."
    return painted(key, caption, rows[["trial", key, "score", "rung"]], paint, (5, 3))


def halving(search: Search, curves: pd.DataFrame, best: int) -> Drawing:
    """The validations of all trials (columns: trial, rung, epoch, score)."""
    label = search.metric.replace("_", " ")

    def paint(axes: Axes) -> None:
        for at, epochs in enumerate(search.rungs[:-1]):
            axes.axvline(epochs, color="0.4", linewidth=0.8, linestyle=":", label="trials are dropped" * (at == 0))
        colours = dict(enumerate(_of_rungs(search)))
        for (rung, trial), own in curves.groupby(["rung", "trial"]):
            bold = trial == best
            look: dict[str, Any] = {"linewidth": 2.5 if bold else 1, "marker": "o", "markersize": 4 if bold else 3}
            axes.plot(own["epoch"], own["score"], color=colours[int(str(rung))], **look)
        for at, colour in colours.items():
            axes.plot([], [], "o-", color=colour, markersize=3, label=_reached(search, at))
        axes.set(xlabel="epochs", ylabel=label)
        legend_beside(axes)

    caption = f"The {label} of each trial at each of its validations; the thick line is the best trial."
    return painted("Rung by rung", caption, curves, paint, (6, 3.2))


def _of_rungs(search: Search) -> list[Any]:
    """A colour for each rung that may be a trial's last one; grey for the first."""
    return [DROPPED, *sns.color_palette(PALETTE)][: len(search.rungs)] if len(search.rungs) > 1 else ["C0"]


def _reached(search: Search, rung: int) -> str:
    epochs = search.rungs[rung]
    return f"{epochs} epoch{'s' * (epochs > 1)}{', the whole length' * (rung == len(search.rungs) - 1)}"
