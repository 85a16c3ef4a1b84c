"""Stage ``record_search``: a search in MLflow, as a run for the whole of it and one below it for each trial."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..pictures.packed_file import describe
from ..runtime.files import RESULTS, read_json, write_json
from ..runtime.progress import progress
from .mlflow_runs import Identity, Point, ensure, finished, flat, read_workflow
from .mlflow_store import read_store
from .record import Entry, digest_of, explained, send, with_data

DEFINED_BY = ("model", "space", "rungs", "keep", "metric", "seed")  # more trials are the same search


def record_search(results: Path = Path("results"), *, name: str, out: Path) -> None:
    """Make MLflow agree with a finished search; what it has already is not sent again.

    Parameters
    ----------
    results
        Folder of results of the workflow.
    name
        Name of the search.
    out
        JSON file: the ids of the MLflow runs, of ``search`` and of each trial by its number.

    Raises
    ------
    UserError
        Where MLflow does not take all of it: the same command sends the rest.
    """
    os.environ.setdefault(RESULTS, str(results))
    folder = results / "searches" / name
    facts = read_json(folder / "search.json")
    ensure(read_store(results / "tracking.json"))
    workflow = read_workflow(results)
    data = [results / "datasets" / facts["dataset"] / "images.h5"]
    files = [folder / "table.csv", folder / "best.yaml", results / "report" / "searches" / f"{name}.html"]
    whole = _search(facts, files, describe(data[0])["digest"])
    entries = {str(row["trial"]): _trial(facts, row, whole.identity) for row in facts["trials"]}
    entries["search"] = whole  # the last: a new run below it opens it again
    runs: dict[str, str] = {}
    for what, entry in progress(entries.items(), what="to MLflow", unit="runs"):
        described = with_data(entry, data)
        digest = digest_of(described, results)
        with explained(results):
            found = finished(results / "tracking.json", entry.identity.key, digest)
            runs[what] = found or send(described, digest, None, results, data, workflow)
    write_json(out, runs)
    print(f"MLflow has search {name} with {len(entries) - 1} trials")


def _search(facts: dict[str, Any], files: list[Path], digest: str) -> Entry:
    search, trials = facts["search"], facts["trials"]
    name, best = search["name"], trials[0]
    defined = json.dumps([[search[key] for key in DEFINED_BY], best["made_with"], digest], sort_keys=True)
    key = hashlib.sha256(defined.encode()).hexdigest()[:12]
    tags = {"snakemake.rule": "search_table", "ocsrflow.name": name}
    space = {key: _shown(values) for key, values in search["space"].items()}
    shown = {key: search[key] for key in ("model", "rungs", "keep", "metric", "seed")}
    return Entry(
        Identity("search", f"search:{name}", f"search:{name}:{key}", f"search {name}", tags),
        flat({**shown, "space": space, "dataset": facts["dataset"]}),
        final={
            f"best_{search['metric']}": best["score"],
            "trials": len(trials),
            "failed": sum(row["state"] == "failed" for row in trials),
            "training_seconds": facts["seconds"],
            "gpu_hours": facts["gpu_hours"],
        },
        files=[(path, "search") for path in files],
        splits=("train", "validation"),
    )


def _shown(values: Any) -> str:
    """A range without the forms that it does not have, or a list."""
    given = {form: ends for form, ends in values.items() if ends} if isinstance(values, dict) else values
    return json.dumps(given)


def _trial(facts: dict[str, Any], row: dict[str, Any], search: Identity) -> Entry:
    name, number = facts["search"]["name"], row["trial"]
    made = row["key"] or hashlib.sha256(json.dumps(row["values"], sort_keys=True).encode()).hexdigest()[:12]
    points = [
        Point({key: value for key, value in point.items() if key.startswith("validation_")}, int(point["step"]),
              int(point["time"] * 1000))
        for point in row["curve"]
    ]  # fmt: skip
    tags = {"snakemake.rule": "trial", "ocsrflow.name": f"{name}.{number}", "ocsrflow.state": row["state"]}
    if row["failed"]:
        tags["ocsrflow.reason"] = row["failed"]
    identity = Identity(
        "trial", f"trial:{name}:{number}", f"trial:{number}:{made}:{search.key}", f"{name}.{number}", tags
    )
    final = {"rung": row["rung"], "epochs": row["epochs"], "training_seconds": row["seconds"]}
    if row["score"] is not None:
        final[f"best_{facts['search']['metric']}"] = row["score"]
    return Entry(
        replace(identity, parent=search),
        {**row["values"], "trial": number, "device": row["device"], "processes": row["processes"]},
        points,
        final,
        splits=("train", "validation"),
    )
