"""Stage ``search_page``: one self-contained page of what a search found, and of what it cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from ..config.searches import Search
from ..runtime.files import read_json, write_text
from . import figures
from .html import template
from .search_figures import by_setting, halving, parallel, positions

FEWEST = 4  # trials of which importance is worked out
TREES, REPEATS, SEED = 200, 20, 0


def search_page(facts: Path, *, out: Path) -> None:
    """Write the page of a search.

    Parameters
    ----------
    facts
        JSON file of the stage ``search_table``.
    out
        HTML file; it needs no other file and no network.

    Raises
    ------
    UserError
        Where the JSON file is damaged.
    """
    found = read_json(facts)
    search, trials, best = Search.model_validate(found["search"]), found["trials"], found["best"]
    first = f"{search.metric.replace('_', ' ')} after {_epochs(search.rungs[0])}"
    rows = pd.DataFrame(
        [
            {"trial": row["trial"], "rung": row["rung"], "score": row["first_score"], **row["values"]}
            for row in trials
            if row["first_score"] is not None
        ]
    )
    curves = pd.DataFrame(
        [
            {"trial": row["trial"], "rung": row["rung"], "epoch": point["epoch"], "score": point[search.metric]}
            for row in trials
            for point in row["curve"]
        ]
    )
    importance = _importance(search, rows)
    drawings = [halving(search, curves, best), parallel(search, rows, first, best)]
    if importance is not None:
        caption = (
            f"Permutation importance with a random forest (scikit-learn, {TREES} trees) fitted to the {first} of "
            f"{len(rows)} trials: how much of the forest's R² is lost when one setting is shuffled among the trials, "
            f"mean of {REPEATS} times. Of the first rung alone, since all trials are in it; with few trials it is "
            "a hint."
        )
        names, values = list(importance), list(importance.values())
        drawings.append(figures.bars(names, values, ("", "loss of R²"), "Importance", caption, lying=True))
    drawings += [by_setting(search, key, rows, first) for key in search.space]
    trained = sum(row["epochs"] for row in trials)
    html = template("search.html").render(
        search=search,
        found=found,
        metric=search.metric.replace("_", " "),
        winner=next(row for row in trials if row["trial"] == best),
        failed=[row for row in trials if row["failed"]],
        rungs=_rungs(search, trials),
        table_of_trials=_table(search, trials, first),
        figures=drawings,
        importance=importance,
        trained=trained,
        in_full=len(trials) * search.rungs[-1],
        devices=sorted({row["device"] for row in trials if row["device"]}),
    )
    write_text(out, html)
    print(f"search {search.name}: the page is {out}")


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number > 1)}"


def _importance(search: Search, rows: pd.DataFrame) -> dict[str, float] | None:
    """The importance of each setting for the score after the first rung; None where it cannot be told."""
    if len(rows) < FEWEST or rows["score"].nunique() == 1:
        return None
    inputs = np.array([[*positions(search, row).values()] for row in rows[[*search.space]].to_dict("records")])
    forest = RandomForestRegressor(TREES, random_state=SEED).fit(inputs, rows["score"])
    found = permutation_importance(forest, inputs, rows["score"], n_repeats=REPEATS, random_state=SEED)
    means = dict(zip(search.space, found.importances_mean.tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _rungs(search: Search, trials: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each rung: its epochs, its trials, how many of them failed and how many went on."""
    rows = []
    for rung, epochs in enumerate(search.rungs):
        inside = [row for row in trials if row["rung"] >= rung]
        failed = sum(1 for row in inside if row["failed"] and row["rung"] == rung)
        on = sum(1 for row in inside if row["rung"] > rung)
        rows.append((rung, epochs, len(inside), failed, on if rung + 1 < len(search.rungs) else "–"))
    return pd.DataFrame(rows, columns=["Rung", "Epochs", "Trials", "Failed", "Went on"], dtype=object)


def _table(search: Search, trials: list[dict[str, Any]], first: str) -> pd.DataFrame:
    """All trials from the best to the worst, as the page shows them."""
    shown = search.metric.replace("_", " ")
    rows = [
        {
            "Rank": rank,
            "Trial": row["trial"],
            "State": row["state"],
            "Epochs": row["epochs"],
            shown.capitalize(): _score(row["score"]),
            first.capitalize(): _score(row["first_score"]),
            **{key: row["values"][key] for key in search.space},
            "Minutes": round(row["seconds"] / 60, 2),
            "Reason": row["failed"] or "–",
        }
        for rank, row in enumerate(trials, 1)
    ]
    return pd.DataFrame(rows, dtype=object)


def _score(value: float | None) -> Any:
    return "–" if value is None else round(value, 4)
