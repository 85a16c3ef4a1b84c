"""Stage ``promote``: which trials of a rung go on to the next one."""

from pathlib import Path

from ..config.searches import Metric
from ..runtime.files import write_json
from .results import best_of, read_rung


def promote(folder: Path, *, rung: int, places: int, kept: int, metric: Metric, out: Path) -> None:
    """Choose the best trials of a rung.

    Parameters
    ----------
    folder
        Of the search's results.
    rung
        Number of the rung, from 0.
    places
        Trials of the rung.
    kept
        How many of them go on; fewer where fewer are left that did not fail.
    metric
        What they are compared by.
    out
        JSON file: the numbers of those that go on, from the best to the worst.

    Raises
    ------
    UserError
        Where all of them failed.
    """
    best = best_of(read_rung(folder, rung, places), metric)[:kept]
    write_json(out, [result.trial for result in best])
    shown = ", ".join(f"{result.trial} ({metric} {result.score(metric):.4f})" for result in best)
    print(f"search {best[0].search}, rung {rung}: trials {shown} go on")
