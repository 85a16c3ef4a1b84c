"""Stage ``search_table``: all trials of a search from the best to the worst, and the best one as a model's entry."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..config.searches import Search, with_values
from ..runtime.csv_tables import write_csv
from ..runtime.files import write_json, write_text
from .results import Result, best_of, ranked, read_rung


def search_table(
    folder: Path, *, search: Search, entry: str, table: Path, best: Path, out: Path, gpus: int = 0
) -> None:
    """Put together what all rungs of a search came to.

    Parameters
    ----------
    folder
        Of the search's results.
    search
        The search.
    entry
        JSON: the model's entry in the configuration, with the length of the last rung.
    table
        CSV file, a row for each trial from the best to the worst: those that reached a later rung before the others,
        failed ones at the end. ``state`` is finished, dropped or failed.
    best
        YAML file: the best trial as an entry of ``models``.
    out
        JSON file: the search, the cost, and for each row of the table all that is known of the trial.
    gpus
        GPUs of each training.

    Raises
    ------
    UserError
        Where all trials of a rung failed.
    """
    rungs = [read_rung(folder, rung, places) for rung, places in enumerate(search.places)]
    winner = best_of(rungs[-1], search.metric)[0]
    rows = list(_rows(rungs, search))
    seconds = sum(row["seconds"] for row in rows)
    named = {**with_values(json.loads(entry), winner.values), "name": f"{search.name}-best"}
    score = f"{search.metric} {winner.score(search.metric):.4f} after {winner.epochs} epochs"
    text = f"# Trial {winner.trial}, the best of {search.trials} of search {search.name}: {score}.\n"
    text += yaml.safe_dump([named], sort_keys=False, allow_unicode=True, width=120)
    facts = {
        "search": search.model_dump(mode="json"),
        "best": winner.trial,
        "entry": text,
        "dataset": named["dataset"],
        "seconds": round(seconds, 1),
        "gpu_hours": round(seconds * gpus / 3600, 3),
        "trials": rows,
    }
    columns = ("rank", "trial", "state", "rung", "epochs", search.metric, *search.space, "seconds", "reason")
    write_csv(table, columns, [_cells(rank, row, search) for rank, row in enumerate(rows, 1)])
    write_text(best, text)
    write_json(out, facts)
    print(f"search {search.name}: trial {winner.trial} is the best of {search.trials}, {score}")


def _rows(rungs: Sequence[Sequence[Result]], search: Search) -> Iterator[dict[str, Any]]:
    """What is known of each trial, from the best to the worst."""
    last = {result.trial: result for results in rungs for result in results}  # of the last rung of each
    first = {result.trial: result for result in rungs[0]}
    order = [result for results in reversed(rungs) for result in ranked(results, search.metric)]
    order = [result for result in order if last[result.trial] is result]
    for result in sorted(order, key=lambda result: bool(result.failed)):
        known = [own for results in rungs for own in results if own.trial == result.trial and not own.failed]
        before = first[result.trial]
        yield {
            **asdict(result),
            "state": "failed" if result.failed else "finished" if result.rung == len(rungs) - 1 else "dropped",
            "score": None if result.failed else result.score(search.metric),
            # All trials have this one, so they can be compared by it.
            "first_score": None if before.failed else before.score(search.metric),
            "curve": known[-1].curve if known else [],
            "seconds": (known[-1].seconds if known else 0.0) + (result.seconds if result.failed else 0.0),
        }


def _cells(rank: int, row: dict[str, Any], search: Search) -> list[Any]:
    score = "" if row["score"] is None else round(row["score"], 6)
    values = [row["values"][key] for key in search.space]
    return [rank, row["trial"], row["state"], row["rung"], row["epochs"], score, *values, row["seconds"], row["failed"]]
