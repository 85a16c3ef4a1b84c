"""Stage ``record``: what a stage made, from its finished files to MLflow.

For each thing recorded (``models/NAME``, ``scores/TEST_SET/READER``, ``speed/training/NAME``,
``speed/prediction/NAME``, ``report``) a JSON file says which MLflow run it became, or why MLflow did not take it: those
are sent later, from the same files, by ``python -m ocsrflow.tracking sync``.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import yaml
from mlflow.entities import Dataset

from .cli import run
from .errors import UserError
from .files import read_json, write_json
from .progress import progress
from .registry import register
from .tracking import Identity, Point, Run, forgiving, model_identity, of_workflow, workflow_identity

RECORDED = "recorded"  # the folder of these files, below the results
COLUMNS = (("binary", "images"), ("string", "smiles"), ("long", "cid"))  # of a packed data set
SHARED: tuple[str, ...] = ("split", "depiction", "prediction", "selection")  # settings of the parent run
SPEEDS = ("images_per_second", "step_seconds", "speed_up", "efficiency", "data_wait", "teraflops", "mfu")


@dataclass
class Entry:
    """What becomes of a run."""

    identity: Identity
    parameters: dict[str, Any] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    files: list[tuple[Path, str]] = field(default_factory=list)  # a file or folder, and the folder it is kept in
    datasets: list[tuple[Dataset, str]] = field(default_factory=list)  # and what it was read for
    tags: dict[str, str] = field(default_factory=dict)  # of this time, also where the run was there before
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
        JSON file: what, the packed data sets, ``run_id``, and for a model ``model_id`` and ``version`` in the registry;
        ``missed`` is the reason where MLflow did not take it.
    data
        Packed data sets: what a model was trained with, what a reader read.
    """
    told: list[str] = []
    found: dict[str, Any] = {}
    sets = data or []
    with forgiving(told):
        found = _send(what, results, sets)
    about = {"what": what, "data": [str(path) for path in sets], **found}
    if told:
        about["missed"] = told[0]
        print(f"{what} is sent when MLflow is back, by: python -m ocsrflow.tracking sync {results}")
    write_json(out, about)


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
    left = []
    for path in progress(due, what="to MLflow", unit="runs", shown=len(due) > 1):
        about = facts[path]
        record(about["what"], results=results, out=path, data=[Path(name) for name in about["data"]])
        left += [about["what"]] if "missed" in read_json(path) else []
    if left:
        raise UserError(f"{len(left)} of {len(due)} runs are still not in MLflow: {', '.join(left)}; see above")
    print(f"{len(due)} runs sent" if due else "MLflow has everything")


def _order(path: Path) -> tuple[int, str]:
    """Models first, since scores name theirs; the report, which closes the parent run, last."""
    kinds = ("models", "speed", "scores", "report")
    kind = next((i for i, name in enumerate(kinds) if name in (path.parent.name, path.parent.parent.name)), len(kinds))
    return kind, str(path)


def _send(what: str, results: Path, data: list[Path]) -> dict[str, Any]:
    """Make the run agree with the files; what is to be remembered of it."""
    kind, _, rest = what.partition("/")
    entry = DESCRIBE[kind](results, rest, data)
    opened = Run(results / "tracking.json", entry.identity)
    found: dict[str, Any] = {"run_id": opened.run_id}
    try:
        opened.tag(entry.tags)
        opened.parameters(entry.parameters)
        opened.points(entry.points)
        for dataset, context in entry.datasets:
            opened.dataset(dataset, context)
        of = _of(results, entry)
        opened.final(entry.final, of=of)
        for path, folder in entry.files:
            opened.file(path, folder)
        if kind == "models":
            found |= register(opened, results, rest, _config(results).get("prediction"))
    except BaseException:
        opened.close("FAILED")
        raise
    opened.close()
    return found


def _of(results: Path, entry: Entry) -> dict[str, str]:
    """Of which registered model and which data set final values are, where there is one of each."""
    of = {}
    path = results / RECORDED / f"{entry.of_model}.json"
    if entry.of_model and path.is_file() and (model_id := read_json(path).get("model_id")):
        of["model_id"] = model_id
    if entry.datasets:
        dataset = entry.datasets[0][0]
        of |= {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    return of


def _model(results: Path, name: str, data: list[Path]) -> Entry:
    folder = results / "models" / name
    facts = read_json(folder / "model.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    parameters = _flat({part: facts[part] for part in ("network", "training")})
    shown = ("dataset", "data", "parameters", "training_pictures", "processes", "device")
    return Entry(
        model_identity(name, facts["key"], _tags(facts)),
        parameters | {key: facts[key] for key in shown},
        [_point(line) for line in lines],
        {"best_validation_tanimoto": facts["validation_tanimoto"], "training_seconds": facts["seconds"]},
        [(folder / "metrics.jsonl", "training")],
        [(_dataset(path), context) for path in data for context in ("training", "validation")],
        {f"data.{path.parent.name}": _digest(path) for path in data},
    )


def _point(line: Mapping[str, Any]) -> Point:
    values = {key: value for key, value in line.items() if key not in ("step", "epoch", "time")}
    return Point(values, int(line["step"]), int(line["time"] * 1000))


def _scores(results: Path, what: str, data: list[Path]) -> Entry:
    test_set, _, reader = what.partition("/")
    table, predictions = (results / part / test_set / f"{reader}.parquet" for part in ("scores", "predictions"))
    scores = table.with_suffix(".json")
    facts = read_json(scores)
    kind = "prediction" if facts["kind"] == "model" else str(facts["kind"])
    rule = {"prediction": "predict", "baseline": facts["name"]}.get(kind, "ensemble")
    final: dict[str, float] = {}
    for name, score in facts.get("scores", {}).items():
        final |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
    timed = ("seconds_per_image", "images_per_second", "seconds_per_vote", "validation_tanimoto")
    final |= {name: facts[name] for name in timed if facts.get(name) is not None}
    parameters = {"reader": reader, "test_set": test_set, "images": facts["images"]}
    parameters |= {key: facts[key] for key in ("method", "device", "version", "answer", "missing") if key in facts}
    if "members" in facts:
        parameters["members"] = ", ".join(facts["members"])
    tags = {**_tags(facts), "snakemake.rule": rule, "ocsrflow.name": reader, "ocsrflow.test_set": test_set}
    # What was read decides: the same answers to the same pictures are the same run.
    key = f"score:{test_set}:{reader}:{_same(predictions, table)}"
    return Entry(
        Identity(kind, f"score:{test_set}:{reader}", key, f"{reader} on {test_set}", tags),
        parameters,
        final=final,
        files=[(scores, "scores"), (table, "scores"), (predictions, "predictions")],
        datasets=[(_dataset(path), "test") for path in data],
        tags={f"data.{path.parent.name}": _digest(path) for path in data},
        of_model=f"models/{reader}" if kind == "prediction" else "",
    )


def _same(predictions: Path, scores: Path) -> str:
    """Twelve hexadecimal digits of the answers and of how they are scored; times count for nothing."""
    answers = pd.read_parquet(predictions, columns=["cid", "reference", "prediction"])
    judged = pd.read_parquet(scores)
    text = answers.to_csv(index=False) + judged.to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _speed(results: Path, what: str, data: list[Path]) -> Entry:
    of, _, name = what.partition("/")
    path = results / "speed" / f"{what}.json"
    facts = read_json(path)
    final: dict[str, float] = {}
    if of == "training":
        for row in facts["rows"]:
            final |= {f"{row['processes']}_processes.{key}": row[key] for key in SPEEDS if key in row}
        parameters = _flat({part: facts[part] for part in ("network", "training")})
        shown = ["dataset", "steps", "threads", "device", "data"]
    else:
        final |= {f"{member['name']}.seconds_per_image": member["seconds_per_image"] for member in facts["members"]}
        ways = ("one_after_the_other", "side_by_side")
        final |= {f"{way}.seconds_per_image": facts[way]["seconds_per_image"] for way in ways}
        final["speed_up"] = facts["speed_up"]
        parameters = {"members": ", ".join(member["name"] for member in facts["members"])}
        shown = ["test_set", "images", "device", "gpus", "threads", "data"]
    tags = {**_tags(facts), "snakemake.rule": f"speed_{of}", "ocsrflow.name": name}
    return Entry(
        Identity(f"{of}_speed", f"{of}_speed:{name}", facts["key"], f"{of} speed of {name}", tags),
        parameters | {"name": name} | {key: facts[key] for key in shown},
        final=final,
        files=[(path, "speed")],
        datasets=[(_dataset(path), "speed") for path in data],
        tags={f"data.{path.parent.name}": _digest(path) for path in data},
    )


def _report(results: Path, _: str, data: list[Path]) -> Entry:
    """The parent run itself: what it was a run of, its report, and which runs it has."""
    about = of_workflow(results)
    if not about:
        raise UserError(f"{results}/workflow.json is missing: the workflow's run is recorded when Snakemake runs it")
    recorded = [read_json(path) for path in sorted((results / RECORDED).rglob("*.json"))]
    runs = {found["what"]: found["run_id"] for found in recorded if "run_id" in found and found["what"] != "report"}
    write_json(results / "runs.json", runs)
    summary = read_json(results / "report" / "summary.json")
    config = _config(results)
    shared = {part: config[part] for part in SHARED if part in config}
    return Entry(
        workflow_identity(about),
        {"config_hash": about["config_hash"], "commit": about["version"], **summary["readers"], **_flat(shared)},
        final=summary["scores"],
        files=[
            (results / "report" / "index.html", "report"),
            (results / "report" / "figures", "figures"),
            (results / "experiment.yaml", "config"),
            (results / "runs.json", ""),
        ],
        datasets=[(_dataset(path), "test") for path in data],
        tags={f"data.{path.parent.name}": _digest(path) for path in data} | {"mlflow.note.content": _note(runs)},
    )


def _config(results: Path) -> dict[str, Any]:
    path = results / "experiment.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _note(runs: Mapping[str, str]) -> str:
    return "All runs of these results, also those made before and not again: see the artifact `runs.json`.\n\n" + (
        "".join(f"- {what}: `{run_id}`\n" for what, run_id in runs.items())
    )


DESCRIBE: dict[str, Callable[[Path, str, list[Path]], Entry]] = {
    "models": _model,
    "scores": _scores,
    "speed": _speed,
    "report": _report,
}


def _tags(facts: Mapping[str, Any]) -> dict[str, str]:
    return {"slurm.job": facts["slurm_job"]} if "slurm_job" in facts else {}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted paths."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def _digest(path: Path) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["digest"])


def _dataset(path: Path) -> Dataset:
    """A packed data set in MLflow's words."""
    with h5py.File(path) as file:
        splits = [str(name) for name in file.attrs["splits"]]
        numbers = {name: int((file["split"][:] == i).sum()) for i, name in enumerate(splits)}
        profile = {"pictures": len(file["split"]), **numbers, "depiction": json.loads(str(file.attrs["depiction"]))}
        digest = str(file.attrs["digest"])
    columns = [{"type": kind, "name": name, "required": True} for kind, name in COLUMNS]
    # MLflow takes a digest of 36 characters at most; ours has 32.
    return Dataset(
        name=path.parent.name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": str(path)}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )


if __name__ == "__main__":
    run(record)
