"""The figures of the pages of report and browse, as SVG text that stands in the page."""

import io
import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..runtime.files import forget, write_text

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "ocsrflow",  # the same figure gives the same bytes
        "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
        "font.family": "sans-serif",
        "text.parse_math": False,  # a '$' in a name is a '$'
    }
)
PALETTE = "colorblind"
BLUE = sns.color_palette(PALETTE)[0]


@dataclass(frozen=True)
class Drawing:
    """A figure with what stands under it, and in its place for those who cannot see it."""

    title: str
    svg: str
    caption: str
    table: pd.DataFrame  # what is drawn


def save(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Write figures by their names as SVG and what they draw as CSV; what else is in the folder is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    forget(folder)
    folder.mkdir(parents=True)
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", drawing.svg)
        write_text(folder / f"{name}.csv", drawing.table.to_csv(index=False))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    # Only the element itself, without the XML declaration.
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)


def painted(
    title: str,
    caption: str,
    table: pd.DataFrame,
    paint: Callable[[Axes], Any],
    size: tuple[float, float] = (6, 3),
) -> Drawing:
    """A figure of one system of axes, of so many inches, and what is drawn in it."""
    with sns.axes_style("whitegrid"), sns.color_palette(PALETTE):
        figure = Figure(figsize=size)
        axes = figure.subplots()
        paint(axes)
        sns.despine(fig=figure)
    description = f"<title>{escape(title)}</title><desc>{escape(caption)}</desc>"
    label = quoteattr(f"{title}. {caption}")
    svg = re.sub(
        r"<svg (.*?)>",
        lambda found: f'<svg role="img" aria-label={label} {found[1]}>{description}',
        _svg(figure),
        count=1,
        flags=re.DOTALL,
    )
    return Drawing(title, svg, caption, table)


def lengths(tables: dict[str, pd.DataFrame], title: str, caption: str, *, log: bool = False) -> Drawing:
    """Numbers of molecules by SMILES length, one line a table (columns: length, count)."""
    rows = pd.concat([table.assign(name=name) for name, table in tables.items()], ignore_index=True)

    def paint(axes: Axes) -> None:
        sns.lineplot(
            rows,
            x="length",
            y="count",
            hue="name",
            drawstyle="steps-mid",
            ax=axes,
            errorbar=None,
            estimator=None,
        )
        axes.set(xlabel="length of the SMILES [characters]", ylabel="molecules")
        if log:
            logarithmic(axes, "y", rows["count"].min(), rows["count"].max())
        else:
            axes.set_ylim(0, None)
        legend_beside(axes)

    return painted(title, caption, rows[["name", "length", "count"]], paint)


def curves(metrics: dict[str, pd.DataFrame], column: str, label: str, title: str, caption: str) -> Drawing:
    """One learning curve for every model (columns: step, and the one shown)."""
    rows = pd.concat(
        [t.dropna(subset=[column]).assign(name=n) for n, t in metrics.items() if column in t],
        ignore_index=True,
    )

    def paint(axes: Axes) -> None:
        for at, (name, own) in enumerate(rows.groupby("name", sort=False)):
            few = len(own) < 60
            axes.plot(own["step"], own[column], label=str(name), **look_of(at) | ({} if few else {"marker": ""}))
        axes.set(xlabel="optimiser step", ylabel=label)
        legend_beside(axes)

    return painted(title, caption, rows[["name", "step", column]], paint)


def scaling(rows: pd.DataFrame, title: str, caption: str) -> Drawing:
    """Images per second against processes (columns: name, processes, images_per_second), and what would be ideal.

    Ideal is as many times the speed of one process as there are processes; drawn where one process was measured.
    """

    def paint(axes: Axes) -> None:
        shown = {"hue": "name", "style": "name", "markers": True, "dashes": False, "estimator": None}
        sns.lineplot(rows, x="processes", y="images_per_second", ax=axes, markersize=7, **shown)
        for colour, (_, own) in zip(itertools.cycle(sns.color_palette(PALETTE)), rows.groupby("name", sort=False)):
            most, alone = own["processes"].max(), own.loc[own["processes"] == 1, "images_per_second"].sum()
            if alone:
                axes.plot([1, most], [alone, most * alone], "--", color=colour, linewidth=1)
        axes.plot([], [], "--", color="0.4", linewidth=1, label="ideal")
        axes.set(xlabel="processes", ylabel="images per second", ylim=(0, None))
        axes.set_xticks(sorted(rows["processes"].unique()))
        legend_beside(axes)

    return painted(title, caption, rows, paint)


def pairs(names: list[str], matrix: list[list[float]], title: str, caption: str) -> Drawing:
    """Mean Tanimoto similarity between the predictions of every two models."""
    table = pd.DataFrame(matrix, index=names, columns=names)

    def paint(axes: Axes) -> None:
        sns.heatmap(
            table,
            annot=True,
            fmt=".3f",
            vmin=0,
            vmax=1,
            cmap="viridis",
            square=True,
            ax=axes,
            cbar_kws={"label": "mean Tanimoto similarity"},
        )
        axes.tick_params(axis="x", rotation=30)
        axes.tick_params(axis="y", rotation=0)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")

    side = 2.4 + 0.7 * len(names)
    return painted(title, caption, table.rename_axis("model").reset_index(), paint, (side + 1.5, side))


def robustness(rows: pd.DataFrame, title: str, caption: str) -> Drawing:
    """A heat map of mean Tanimoto similarities by readers and test sets (columns: reader, test_set, tanimoto, more).

    Both stand in the order of the rows; what was not read is left white.
    """
    table = rows.pivot_table(index="test_set", columns="reader", values="tanimoto", sort=False)

    def paint(axes: Axes) -> None:
        look = {"annot": True, "fmt": ".2f", "vmin": 0, "vmax": 1, "cmap": "viridis", "linewidths": 0.5}
        sns.heatmap(table, ax=axes, cbar_kws={"label": "mean Tanimoto similarity"}, **look)
        axes.grid(visible=False)
        axes.set(xlabel="", ylabel="")
        axes.tick_params(axis="y", rotation=0)
        axes.tick_params(axis="x", rotation=30)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")

    width, height = 3.5 + 0.75 * len(table.columns), 1.2 + 0.3 * len(table)
    return painted(title, caption, rows, paint, (width, height))


def trust(rows: pd.DataFrame, label: str, title: str, caption: str, *, share: bool = False) -> Drawing:
    """Share of right answers against a sign of trust (columns: name, mean, exact, low, high).

    ``share`` is for a sign that is itself a probability: where it says what comes true, it lies on the diagonal.
    """

    def paint(axes: Axes) -> None:
        if share:
            axes.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="as promised")
            axes.set_xlim(0, 1)
        for at, (name, own) in enumerate(rows.groupby("name", sort=False)):
            below, above = own["exact"] - own["low"], own["high"] - own["exact"]
            around = [below.clip(0), above.clip(0)]
            axes.errorbar(own["mean"], own["exact"], yerr=around, label=str(name), elinewidth=0.6, **look_of(at))
        axes.set(xlabel=label, ylabel="share exactly right", ylim=(-0.02, 1.02))
        legend_beside(axes)

    return painted(title, caption, rows, paint)


def by_length(rows: pd.DataFrame, title: str, caption: str) -> Drawing:
    """Mean score against SMILES length (columns: length, tanimoto, name), in up to ten bins of equal size."""
    # One bin where all have the same length.
    bins = pd.qcut(rows["length"], 10, duplicates="drop") if rows["length"].nunique() > 1 else rows["length"]
    middle = rows.groupby(bins, observed=True)["length"].transform("mean")
    means = rows.assign(length=middle).groupby(["name", "length"], sort=False)["tanimoto"]
    table = means.agg(tanimoto="mean", pictures="size").reset_index().sort_values(["name", "length"])

    def paint(axes: Axes) -> None:
        for at, name in enumerate(dict.fromkeys(rows["name"])):
            own = table[table["name"] == name]
            axes.plot(own["length"], own["tanimoto"], label=str(name), **look_of(at))
        axes.set(xlabel="length of the reference [characters]", ylabel="mean Tanimoto", ylim=(0, 1.02))
        legend_beside(axes)

    return painted(title, caption, table, paint)


def intervals(rows: pd.DataFrame, label: str, title: str, caption: str) -> Drawing:
    """A value with its interval for each name, in the order given (columns: name, kind, value, low, high)."""

    def paint(axes: Axes) -> None:
        row_of = {name: at for at, name in enumerate(rows["name"])}
        for colour, (kind, own) in zip(itertools.cycle(sns.color_palette(PALETTE)), rows.groupby("kind", sort=False)):
            around = [(own["value"] - own["low"]).clip(0), (own["high"] - own["value"]).clip(0)]
            at = own["name"].map(row_of)
            axes.errorbar(own["value"], at, xerr=around, fmt="o", color=colour, label=str(kind), capsize=3)
        axes.set_yticks(range(len(rows)), rows["name"])
        axes.set(xlabel=label, xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))
        legend_beside(axes)

    return painted(title, caption, rows, paint, (6, 0.8 + 0.26 * len(rows)))


def look_of(at: int) -> dict[str, Any]:
    """The look of a line of a figure, by its number: colour, and, since there are ten of them, marker and dashes."""
    colours = sns.color_palette(PALETTE)
    kind = at // len(colours) % 3
    shown = {"color": colours[at % len(colours)], "marker": "osD"[kind], "linestyle": ("-", "--", ":")[kind]}
    return shown | {"markersize": 4, "linewidth": 1.2}


def legend_beside(axes: Axes) -> None:
    """A legend to the right, where it hides no line."""
    axes.legend(title=None, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def bars(
    names: list[str],
    values: list[float],
    labels: tuple[str, str],
    title: str,
    caption: str,
    *,
    log: bool = False,
    lying: bool = False,
) -> Drawing:
    """One bar a name, upright or lying, in the order given; the labels are of names and of values."""

    def paint(axes: Axes) -> None:
        along, across = ("y", "x") if lying else ("x", "y")
        sns.barplot(**{along: names, across: values}, orient=along, color=BLUE, saturation=1, ax=axes)
        axes.set(**{f"{along}label": labels[0], f"{across}label": labels[1]})
        if not lying:
            axes.tick_params(axis="x", labelsize="small" if len(names) < 30 else "x-small")
        if log:
            logarithmic(axes, across, min(values), max(values))

    table = pd.DataFrame({"name": names, "value": values})
    return painted(title, caption, table, paint, (6, 0.8 + 0.26 * len(names)) if lying else (6, 3))


def histogram(rows: pd.DataFrame, label: str, title: str, caption: str) -> Drawing:
    """Shares of molecules in per cent by a whole number (columns: value, share)."""

    def paint(axes: Axes) -> None:
        sns.histplot(rows, x="value", weights="share", color=BLUE, alpha=1, ax=axes, discrete=True)
        axes.set(xlabel=label, ylabel="share of molecules [%]")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))

    return painted(title, caption, rows, paint)


def logarithmic(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis on which the lowest value, which must be above 0, has a bar that is seen."""
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / 2, high * 1.5)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))  # without powers: those are math text
    axis.set_minor_formatter(NullFormatter())
