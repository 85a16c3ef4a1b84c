"""Stage ``record``: what a stage made, from its finished files to MLflow.

For each thing recorded (``models/NAME``, ``scores/TEST_SET/READER``, ``speed/training/NAME``,
``speed/prediction/NAME``, ``report``) a JSON file says which MLflow run it became, or why MLflow did not take it: those
are sent later, from the same files, by ``python -m ocsrflow.tracking.tracking sync``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..pictures.packed_file import describe
from ..runtime.cli import run
from ..runtime.errors import UserError
from ..runtime.files import read_json, write_json
from ..runtime.progress import progress
from ..runtime.slurm_job import as_tags
from .mlflow_runs import Identity, Point, Run, ensure, flat, forgiving, model_identity, of_workflow, workflow_identity
from .mlflow_store import read_place

# isort: split
from mlflow.entities import Dataset

from .model_registry import register

RECORDED = "recorded"  # the folder of these files, below the results
RUNS = "runs.json"  # which run each thing became
COLUMNS = (("binary", "images"), ("string", "smiles"), ("long", "cid"))  # of a packed data set
SHARED: tuple[str, ...] = ("split", "depiction", "prediction", "selection")  # settings of the parent run
SPEEDS = ("images_per_second", "step_seconds", "speed_up", "efficiency", "data_wait", "teraflops", "mfu")
OF_A_RUN = ("run_id", "registered", "version", "model_id")  # what is remembered of one
CONTEXT = {"train": "training", "validation": "validation", "test": "test"}  # of a split, in MLflow's words


@dataclass(frozen=True)
class Entry:
    """What becomes of a run."""

    identity: Identity
    parameters: dict[str, Any] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    of_drawings: dict[str, float] = field(default_factory=dict)  # a model's scores in the named drawings
    files: list[tuple[Path, str]] = field(default_factory=list)  # a file or folder, and the folder it is kept in
    splits: tuple[str, ...] = ()  # of its data sets, which it read
    of_model: str = ""  # what trained model the final values are of, as recorded: models/NAME


def record(what: str, *, results: Path, out: Path, data: list[Path] | None = None) -> None:
    """Record what a stage made as an MLflow run, or say why that could not be.

    Parameters
    ----------
    what
        What is recorded: ``models/NAME``, ``scores/TEST_SET/READER``, ``speed/training/NAME``,
        ``speed/prediction/NAME`` or ``report``.
    results
        Folder of results.
    out
        JSON file: what, the packed data sets, the workflow's run that made it, ``run_id``, and for a model its name
        (``registered``), ``version`` and ``model_id`` in the registry; ``missed`` is the reason where MLflow did not
        take it.
    data
        Packed data sets: what a model was trained with, what a reader read.
    """
    told = _record(what, results, out, data or [], of_workflow(results))
    if told:
        print(f"{what} is sent when MLflow is back, by: python -m ocsrflow.tracking.tracking sync {results}")


def send_missed(results: Path, *, everything: bool = False) -> None:
    """Send what MLflow missed; with ``everything`` all that was ever recorded is looked at again.

    Raises
    ------
    UserError
        Where nothing was recorded, or MLflow still does not take it.
    """
    paths = sorted((results / RECORDED).rglob("*.json"), key=_order)
    if not paths:
        raise UserError(f"{results}: nothing was recorded there; give the folder of results of a run of the workflow")
    facts = {path: read_json(path) for path in paths}
    due = [path for path in paths if everything or "missed" in facts[path]]
    if not due:
        print("MLflow has everything")
        return
    ensure(read_place(results / "tracking.json"))
    report = results / RECORDED / "report.json"
    if report in facts and report not in due:
        due.append(report)  # it lists all the others
    left = []
    for path in progress(due, what="to MLflow", unit="runs", shown=len(due) > 1):
        about = facts[path]
        data = [results / name for name in about["data"]]
        if _record(about["what"], results, path, data, about["workflow"]):
            left.append(about["what"])
    if left:
        raise UserError(f"{len(left)} of {len(due)} runs are still not in MLflow: {', '.join(left)}; see above")
    print(f"{len(due)} runs sent")


def _record(what: str, results: Path, out: Path, data: list[Path], about: Mapping[str, Any]) -> str:
    """Record, and remember what became of it; the reason where MLflow did not take it, else empty."""
    kind, _, rest = what.partition("/")
    if what == "report":
        _list_runs(results)
    entry = _with_data(DESCRIBE[kind](results, rest, about), data)
    # Of an earlier time, in case that this one fails.
    before = read_json(out) if out.is_file() else {}
    found = {key: before[key] for key in OF_A_RUN if key in before}
    told: list[str] = []
    with forgiving(told):
        found = _send(entry, rest if kind == "models" else "", results, data, about)
    shown = {"config_hash", "version"}
    remembered = {
        "what": what,
        "data": [Path(os.path.relpath(path, results)).as_posix() for path in data],
        "workflow": {key: value for key, value in about.items() if key in shown},
        **found,
    }
    write_json(out, remembered | ({"missed": told[0]} if told else {}))
    return told[0] if told else ""


def _order(path: Path) -> tuple[int, str]:
    """Models first, since scores name theirs; the report, which closes the parent run, last."""
    kinds = ("models", "speed", "scores", "report")
    kind = next((i for i, name in enumerate(kinds) if name in (path.parent.name, path.parent.parent.name)), len(kinds))
    return kind, str(path)


def _send(entry: Entry, model: str, results: Path, data: list[Path], about: Mapping[str, Any]) -> dict[str, Any]:
    """Make the run agree with the entry; what is to be remembered of it. ``model`` is to be registered."""
    opened = Run(results / "tracking.json", entry.identity, about)
    found: dict[str, Any] = {"run_id": opened.run_id}
    try:
        opened.parameters(entry.parameters)
        opened.points(entry.points)
        datasets = [(_dataset(path, split), CONTEXT[split]) for path in data for split in entry.splits]
        for dataset, context in datasets:
            opened.dataset(dataset, context)
        opened.final(entry.final, of=_of(results, entry, datasets[0][0] if datasets else None))
        opened.final(entry.of_drawings)
        for path, folder in entry.files:
            opened.file(path, folder)
        if model:
            found |= register(opened, results, model, _config(results).get("prediction"))
    except BaseException:
        opened.close("FAILED")
        raise
    opened.close()
    return found


def _with_data(entry: Entry, data: list[Path]) -> Entry:
    tags = {f"data.{found['name']}": found["digest"] for found in map(describe, data)}
    return replace(entry, identity=replace(entry.identity, tags={**entry.identity.tags, **tags}))


def _of(results: Path, entry: Entry, dataset: Dataset | None) -> dict[str, str]:
    """Of which registered model and which data set final values are, where there is one of each."""
    of = {}
    path = results / RECORDED / f"{entry.of_model}.json"
    if entry.of_model and path.is_file() and (model_id := read_json(path).get("model_id")):
        of["model_id"] = model_id
    return of if dataset is None else of | {"dataset_name": dataset.name, "dataset_digest": dataset.digest}


def _model(results: Path, name: str, _: Mapping[str, Any]) -> Entry:
    folder = results / "models" / name
    facts = read_json(folder / "model.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = ("network", "training", "dataset", "parameters", "training_pictures", "processes", "device")
    return Entry(
        model_identity(name, facts["key"], as_tags(facts)),
        flat({key: facts[key] for key in shown}),
        [_point(line) for line in lines],
        {"best_validation_tanimoto": facts["validation_tanimoto"], "training_seconds": facts["seconds"]},
        _of_drawings(results, name),
        [(folder / "metrics.jsonl", "training")],
        ("train", "validation"),
    )


def _of_drawings(results: Path, model: str) -> dict[str, float]:
    """A model's scores in the configuration's drawings, side by side, as ``drawing.NAME.SCORE``."""
    found: dict[str, float] = {}
    for drawing in _config(results).get("drawings", []):
        path = results / "scores" / drawing["name"] / f"{model}.json"
        if path.is_file():
            scores = read_json(path)["scores"]
            found |= {f"drawing.{drawing['name']}.{name}": scores[name]["value"] for name in ("tanimoto", "exact")}
    return found


def _point(line: Mapping[str, Any]) -> Point:
    values = {key: value for key, value in line.items() if key not in ("step", "epoch", "phase", "time")}
    return Point(values, int(line["step"]), int(line["time"] * 1000))


def _scores(results: Path, what: str, _about: Mapping[str, Any]) -> Entry:
    test_set, _, reader = what.partition("/")
    table, predictions = (results / part / test_set / f"{reader}.parquet" for part in ("scores", "predictions"))
    scores = table.with_suffix(".json")
    facts = read_json(scores)
    kind = "prediction" if facts["kind"] == "model" else str(facts["kind"])
    rule = {"prediction": "predict", "baseline": facts["name"]}.get(kind, "vote")
    final: dict[str, float] = {}
    for name, score in facts.get("scores", {}).items():
        final |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
    timed = ("seconds_per_image", "images_per_second", "seconds_per_vote", "validation_tanimoto")
    final |= {name: facts[name] for name in timed if facts.get(name) is not None}
    parameters = {"reader": reader, "test_set": test_set, "images": facts["images"]}
    parameters |= {key: facts[key] for key in ("method", "device", "version", "answer", "missing") if key in facts}
    if "members" in facts:
        parameters["members"] = ", ".join(facts["members"])
    # The same answers to the same pictures, of the same readers on the same device, are the same run.
    key = f"score:{test_set}:{reader}:{_same(predictions, table, parameters)}"
    tags = {**as_tags(facts), "snakemake.rule": rule, "ocsrflow.name": reader, "ocsrflow.test_set": test_set}
    return Entry(
        Identity(kind, f"score:{test_set}:{reader}", key, f"{reader} on {test_set}", tags),
        parameters,
        final=final,
        files=[(scores, "scores"), (table, "scores"), (predictions, "predictions")],
        splits=("test",),
        of_model=f"models/{reader}" if kind == "prediction" else "",
    )


def _same(predictions: Path, scores: Path, parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the answers and of how they are scored; times count for nothing."""
    answers = pd.read_parquet(predictions, columns=["cid", "reference", "prediction"])
    judged = pd.read_parquet(scores)
    text = answers.to_csv(index=False) + judged.to_csv(index=False) + json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _speed(results: Path, what: str, _about: Mapping[str, Any]) -> Entry:
    of, _, name = what.partition("/")
    path = results / "speed" / f"{what}.json"
    facts = read_json(path)
    final: dict[str, float] = {}
    if of == "training":
        for row in facts["rows"]:
            final |= {f"{row['processes']}_processes.{key}": row[key] for key in SPEEDS if key in row}
        shown = ["name", "network", "training", "dataset", "steps", "threads", "device"]
    else:
        final |= {f"{member['name']}.seconds_per_image": member["seconds_per_image"] for member in facts["members"]}
        ways = ("one_after_the_other", "side_by_side")
        final |= {f"{way}.seconds_per_image": facts[way]["seconds_per_image"] for way in ways}
        final["speed_up"] = facts["speed_up"]
        facts["members"] = ", ".join(member["name"] for member in facts["members"])
        shown = ["name", "members", "test_set", "images", "device", "gpus", "threads"]
    tags = {**as_tags(facts), "snakemake.rule": f"speed_{of}", "ocsrflow.name": name}
    return Entry(
        Identity(f"{of}_speed", f"{of}_speed:{name}", facts["key"], f"{of} speed of {name}", tags),
        flat({key: facts[key] for key in shown}),
        final=final,
        files=[(path, "speed")],
        splits=("train",) if of == "training" else ("test",),
    )


def _report(results: Path, _: str, about: Mapping[str, Any]) -> Entry:
    """The parent run itself: what it was a run of, its report, and which runs it has."""
    if not about:
        raise UserError(f"{results}/workflow.json is missing: the workflow's run is recorded when Snakemake runs it")
    summary, config = read_json(results / "report" / "summary.json"), _config(results)
    shared = flat({part: config[part] for part in SHARED if part in config})
    runs = read_json(results / RUNS)
    lines = "".join(f"- {what}: `{run_id}`\n" for what, run_id in runs.items())
    note = f"All runs of these results, also those made before and not again (the file `{RUNS}`):\n\n{lines}"
    identity = workflow_identity(about)
    return Entry(
        replace(identity, tags={**identity.tags, "mlflow.note.content": note}),
        {"config_hash": about["config_hash"], "commit": about["version"], **summary["readers"], **shared},
        final=summary["scores"],
        files=[
            (results / "report" / "index.html", "report"),
            (results / "report" / "figures", "figures"),
            (results / "experiment.yaml", "config"),
            (results / RUNS, ""),
        ],
        splits=("test",),
    )


def _list_runs(results: Path) -> None:
    """Write down which run each thing became."""
    recorded = [read_json(path) for path in sorted((results / RECORDED).rglob("*.json"))]
    runs = {found["what"]: found["run_id"] for found in recorded if "run_id" in found and found["what"] != "report"}
    write_json(results / RUNS, runs, recorded=False)  # it grows with each report


def _config(results: Path) -> dict[str, Any]:
    path = results / "experiment.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


DESCRIBE: dict[str, Callable[[Path, str, Mapping[str, Any]], Entry]] = {
    "models": _model,
    "scores": _scores,
    "speed": _speed,
    "report": _report,
}


def _dataset(path: Path, split: str) -> Dataset:
    """A split of a packed data set in MLflow's words; its digest is that of the whole."""
    found = describe(path)
    profile = {"pictures": found["pictures"][split], "depiction": json.loads(found["depiction"])}
    columns = [{"type": kind, "name": name, "required": True} for kind, name in COLUMNS]
    # MLflow takes a digest of 36 characters at most; ours has 32.
    return Dataset(
        name=f"{found['name']}.{split}",
        digest=found["digest"],
        source_type="local",
        source=json.dumps({"uri": str(path)}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


if __name__ == "__main__":
    run(record)
