"""Stage ``record``: everything that a run made, from its finished files to MLflow, each result as a run of its own.

A run has a digest of what it was made from as a tag. Where that has not changed nothing is sent, so that the stage can
be run again at any time: after a part of the results has changed, after MLflow was away, or for a new store.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..config.experiment import read
from ..config.planning import Plan
from ..pictures.packed_file import describe
from ..runtime.errors import UserError
from ..runtime.files import RESULTS, read_json, sha256, write_json
from ..runtime.progress import progress
from ..runtime.slurm_job import as_tags
from .mlflow_runs import (
    DIGEST,
    NOTE,
    Identity,
    Point,
    Run,
    ensure,
    files_of,
    finished,
    flat,
    model_identity,
    read_workflow,
    workflow_identity,
)
from .mlflow_store import read_store

# isort: split
from mlflow.entities import Dataset

from .model_registry import key_of, register, registered

RUNS = "runs.json"  # which run each result became
COLUMNS = (("binary", "images"), ("string", "smiles"), ("long", "cid"))  # of a packed data set
SHARED: tuple[str, ...] = ("split", "depiction", "prediction", "selection")  # settings of the parent run
SPEEDS = ("images_per_second", "step_seconds", "speed_up", "efficiency", "data_wait", "teraflops", "mfu")
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
    texts: dict[str, str] = field(default_factory=dict)  # files that are made for the run, by name
    splits: tuple[str, ...] = ()  # of its data sets, which it read
    of_model: str = ""  # the trained model that the final values are of
    registers: str = ""  # the trained model that is to be in MLflow's registry


def record(results: Path = Path("results"), *, out: Path | None = None, everything: bool = False) -> None:
    """Make MLflow agree with a folder of results; what it has already is not sent again.

    Parameters
    ----------
    results
        Folder of results of the workflow, which has written down their configuration.
    out
        JSON file: the id of the MLflow run that each result became; by default ``runs.json`` in ``results``.
    everything
        Whether to send again what MLflow has already, as where files of its runs were lost.

    Raises
    ------
    UserError
        Where MLflow does not take all of it: the same command sends the rest.
    """
    experiment = results / "experiment.yaml"
    if not experiment.is_file():
        raise UserError(f"{results}: no run of the workflow wrote {experiment.name} there; give its folder of results")
    os.environ.setdefault(RESULTS, str(results))  # so that the hash of what is written is written down
    record_results(results, Plan(read(experiment)).recorded(), out or results / RUNS, everything=everything)


def record_results(
    results: Path, recorded: Mapping[str, Sequence[str]], out: Path, *, everything: bool = False
) -> None:
    """Record results with the data sets that they read, as :meth:`ocsrflow.config.planning.Plan.recorded` names them.

    Other parameters and errors as in :func:`record`. A result whose files are not all there is left out, and named.
    """
    workflow, store = read_workflow(results), read_store(results / "tracking.json")
    ensure(store)
    runs: dict[str, str] = {}
    models: dict[str, str] = {}  # ids of logged models, by their names here
    n_sent, unfinished = 0, []
    for what, datasets in progress(recorded.items(), what="to MLflow", unit="results", shown=len(recorded) > 1):
        kind, _, rest = what.partition("/")
        data = [results / "datasets" / name / "images.h5" for name in datasets]
        try:
            entry = _report(results, workflow, runs) if kind == "report" else DESCRIBE[kind](results, rest)
            entry = with_data(entry, data)
            digest = digest_of(entry, results)
        except FileNotFoundError as error:
            unfinished.append(f"{what} ({error.filename or error} is missing)")
            continue
        with explained(results):
            run_id = None if everything else finished(results / "tracking.json", entry.identity.key, digest)
            n_sent += run_id is None
            runs[what] = run_id or send(entry, digest, models.get(entry.of_model), results, data, workflow)
            if entry.registers:
                models[entry.registers] = registered(results, entry.registers, runs[what])
    write_json(out, runs)
    print(f"MLflow has {len(runs)} results, {n_sent} of them are new or have changed")
    if unfinished:
        print(f"not recorded, since it is not finished: {', '.join(unfinished)}", file=sys.stderr)


@contextmanager
def explained(results: Path) -> Iterator[None]:
    """Whatever MLflow, its database or the network raises is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"MLflow does not take the runs: {reason}; nothing is lost: run the workflow again, or "
            f"ocsrflow record {results}"
        ) from None


def digest_of(entry: Entry, results: Path) -> str:
    """Sixteen hexadecimal digits that change with anything of an entry."""
    content = asdict(replace(entry, points=[], files=[]))  # points are in the files
    files = [(str(path.relative_to(results)), sha256(path)) for one, _ in entry.files for path in files_of(one)]
    model = key_of(results, entry.registers) if entry.registers else ""
    return hashlib.sha256(json.dumps([content, files, model], sort_keys=True, default=str).encode()).hexdigest()[:16]


def send(
    entry: Entry, digest: str, model_id: str | None, results: Path, data: Sequence[Path], workflow: Mapping[str, Any]
) -> str:
    """Make the run agree with the entry; its id. ``model_id``: of the logged model that the final values are of."""
    run = Run(results / "tracking.json", entry.identity, workflow)
    try:
        run.parameters(entry.parameters)
        run.points(entry.points)
        datasets = [(_dataset(path, split), CONTEXT[split]) for path in data for split in entry.splits]
        for dataset, context in datasets:
            run.dataset(dataset, context)
        run.final(entry.final, of=_origin(model_id, datasets[0][0] if datasets else None))
        run.final(entry.of_drawings)
        for path, folder in entry.files:
            run.file(path, folder)
        for name, text in entry.texts.items():
            run.client.log_text(run.run_id, text, name)
        if entry.registers:
            register(run, results, entry.registers, _config(results).get("prediction"))
        run.client.set_tag(run.run_id, DIGEST, digest)
    except BaseException:
        run.close("FAILED")
        raise
    run.close()
    return run.run_id


def with_data(entry: Entry, data: list[Path]) -> Entry:
    """The same entry, tagged with the data sets that it is of."""
    tags = {f"data.{found['name']}": found["digest"] for found in map(describe, data)}
    return replace(entry, identity=replace(entry.identity, tags={**entry.identity.tags, **tags}))


def _origin(model_id: str | None, dataset: Dataset | None) -> dict[str, str]:
    """Of which logged model and which data set final values are, where there is one of each."""
    of = {"model_id": model_id} if model_id else {}
    return of if dataset is None else of | {"dataset_name": dataset.name, "dataset_digest": dataset.digest}


def _model(results: Path, name: str) -> Entry:
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
        splits=("train", "validation"),
        registers=name,
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


def _scores(results: Path, what: str) -> Entry:
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
    key = f"score:{test_set}:{reader}:{_answers_digest(predictions, table, parameters)}"
    tags = {**as_tags(facts), "snakemake.rule": rule, "ocsrflow.name": reader, "ocsrflow.test_set": test_set}
    return Entry(
        Identity(kind, f"score:{test_set}:{reader}", key, f"{reader} on {test_set}", tags),
        parameters,
        final=final,
        files=[(scores, "scores"), (table, "scores"), (predictions, "predictions")],
        splits=("test",),
        of_model=reader if kind == "prediction" else "",
    )


def _answers_digest(predictions: Path, scores: Path, parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the answers and of how they are scored; times count for nothing."""
    answers = pd.read_parquet(predictions, columns=["cid", "reference", "prediction"])
    scored = pd.read_parquet(scores)
    text = answers.to_csv(index=False) + scored.to_csv(index=False) + json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _speed(results: Path, what: str) -> Entry:
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


def _report(results: Path, workflow: Mapping[str, Any], runs: Mapping[str, str]) -> Entry:
    """The parent run itself: what it was a run of, its report, and the runs of its results."""
    if not workflow:
        raise UserError(f"{results}/workflow.json is missing: the workflow's run is recorded when Snakemake runs it")
    summary, config = read_json(results / "report" / "summary.json"), _config(results)
    shared = flat({part: config[part] for part in SHARED if part in config})
    lines = "".join(f"- {what}: `{run_id}`\n" for what, run_id in runs.items())
    note = f"All runs of these results, also those made before and not again (the file `{RUNS}`):\n\n{lines}"
    identity = workflow_identity(workflow)
    return Entry(
        replace(identity, tags={**identity.tags, NOTE: note}),
        {"config_hash": workflow["config_hash"], "commit": workflow["version"], **summary["readers"], **shared},
        final=summary["scores"],
        files=[
            (results / "report" / "index.html", "report"),
            (results / "report" / "figures", "figures"),
            (results / "experiment.yaml", "config"),
        ],
        texts={RUNS: json.dumps(runs, indent=1) + "\n"},
        splits=("test",),
    )


def _config(results: Path) -> dict[str, Any]:
    path = results / "experiment.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


DESCRIBE: dict[str, Callable[[Path, str], Entry]] = {"models": _model, "scores": _scores, "speed": _speed}


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
