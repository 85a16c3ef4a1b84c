"""MLflow's runs: how each is made, and found again.

Every run of the workflow, that is a configuration at a commit, has a parent run; what it made, each model, prediction,
ensemble and speed study, has a run of its own below it. A run is found again by a key that says what it is the run of:
a job that starts again continues its own run and logs no point twice, and a stage that is made again in the same way
makes no new one. What is made in another way makes a new run, which names the one before it of the same thing.

Once the store is there, for which the stage ``tracking`` cares, MLflow never stops a training, whose curves are sent
by ``live_curves``, beside its own work. Everything else is sent at the end, by ``record`` from finished files.
"""

import errno
import fcntl
import getpass
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..runtime.errors import UserError
from ..runtime.files import read_json
from .mlflow_store import Store, patiently, read_store, sqlite_path

# isort: split
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

KEY = "ocsrflow.key"
SLOT = "ocsrflow.slot"  # what it is a run of, whatever it was made from: the runs of one slot follow each other
KIND = "ocsrflow.kind"
PREVIOUS = "ocsrflow.previous"
DIGEST = "ocsrflow.digest"  # of all that was sent, once all of it is there
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
# MLflow shows it among model trainings, not among applications of language models; and what is in it.
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE: "One run for each run of the workflow (a configuration at a commit), and below it one for each model, each "
    "reader's answers to a test set, each speed study, and each search with its trials below it. The readers of a test "
    "set side by side: search for "
    "`tags.\"ocsrflow.test_set\" = 'NAME'`, and choose columns.",
}
LONGEST = 6000  # characters of a parameter that MLflow takes
MOST_PARAMETERS, MOST_METRICS = 100, 1000  # in one request


@dataclass(frozen=True)
class Point:
    """Values of some curves at one step."""

    values: Mapping[str, float]
    step: int
    milliseconds: int  # since 1970


@dataclass(frozen=True)
class Identity:
    """What a run is the run of."""

    # workflow, model, prediction, ensemble, ceiling, baseline, training_speed, prediction_speed, search or trial
    kind: str
    slot: str  # what it is about: the same for all runs that follow each other
    key: str  # changes with what it was made from: the same key continues the same run
    name: str  # as MLflow shows it
    tags: Mapping[str, str] = field(default_factory=dict)  # set each time
    parent: "Identity | None" = None  # the run that it is below; by default that of the workflow


def ensure(store: Store) -> None:
    """Make the store and the experiment where they are not there, and bring a deleted experiment back.

    Raises
    ------
    UserError
        Where the server cannot be reached, or the store cannot be made.
    """
    try:
        path = sqlite_path(store.uri)
        if path is not None and not path.is_file():
            # Its own experiment 0 would point into the working directory, whose path MLflow puts into SQL as it is.
            SqlAlchemyStore(store.uri, store.artifacts)
        client = MlflowClient(tracking_uri=store.uri)
        found = client.get_experiment_by_name(store.experiment)
        if found is None:
            client.create_experiment(store.experiment, artifact_location=store.artifacts, tags=EXPERIMENT)
        elif found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"MLflow cannot be used at {store.uri}: {reason}; start it or change tracking.uri") from None


class Run:
    """One MLflow run, found again by its key or made. Its methods raise whatever MLflow raises."""

    def __init__(self, tracking_file: Path, identity: Identity, workflow: Mapping[str, Any] | None = None) -> None:
        """Open the run, below the parent of the workflow's run where that is known.

        Parameters
        ----------
        tracking_file
            The JSON file that the stage ``tracking`` wrote.
        identity
            Which run.
        workflow
            The workflow's run that it is part of; by default that of :func:`read_workflow`, beside the file.
        """
        store = read_store(tracking_file)
        self.client = MlflowClient(tracking_uri=store.uri)
        self.experiment = store.experiment
        self.experiment_id = _experiment(self.client, store)
        workflow = read_workflow(tracking_file.parent) if workflow is None else workflow
        # Two jobs may open a run at once: it must be made by one of them only.
        with open(tracking_file.with_suffix(".lock"), "w") as lock:
            with suppress(OSError):  # a file system without locks: at worst there are two runs
                fcntl.flock(lock, fcntl.LOCK_EX)
            opened = self._find(identity.key) or self._make(identity, workflow)
        self.run_id: str = opened.info.run_id
        self.client.update_run(self.run_id, status="RUNNING")
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in identity.tags.items()])

    @cached_property
    def _logged(self) -> dict[str, int]:
        """The last step of each curve, so that a training that starts again logs no point twice."""
        return {
            metric: max(point.step for point in self.client.get_metric_history(self.run_id, metric))
            for metric in self.client.get_run(self.run_id).data.metrics
        }

    def _find(self, key: str) -> MlflowRun | None:
        return next(iter(_of_key(self.client, self.experiment_id, key)), None)

    def _make(self, identity: Identity, workflow: Mapping[str, Any]) -> MlflowRun:
        tags = {KEY: identity.key, SLOT: identity.slot, KIND: identity.kind, **common_tags(workflow), **identity.tags}
        same = f"tags.`{SLOT}` = '{identity.slot}'"
        before = self.client.search_runs([self.experiment_id], same, order_by=["end_time DESC"], max_results=1)
        if before:
            tags[PREVIOUS] = before[0].info.run_id
            tags[NOTE] = f"Made again in another way; before: {self.link(before[0])}"
        above = identity.parent
        if above is None and workflow and identity.kind != "workflow":
            above = workflow_identity(workflow)
        if above is not None:
            parent = self._find(above.key) or self._make(above, workflow)
            self.client.update_run(parent.info.run_id, status="RUNNING")
            tags[PARENT] = parent.info.run_id
        return self.client.create_run(self.experiment_id, run_name=identity.name, tags=tags)

    def link(self, other: MlflowRun) -> str:
        """A link to a run of the same experiment, as text that MLflow's pages show as one."""
        name = other.info.run_name or other.info.run_id
        return f"[{name}](#/experiments/{self.experiment_id}/runs/{other.info.run_id})"

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; what is there already stays."""
        logged = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:LONGEST]) for key, value in values.items() if key not in logged]
        for at in range(0, len(new), MOST_PARAMETERS):
            self.client.log_batch(self.run_id, params=new[at : at + MOST_PARAMETERS])

    def points(self, points: Sequence[Point]) -> None:
        """Log points of curves, in the order of their steps; a step that a curve has already is left out."""
        new: list[Metric] = []
        logged = dict(self._logged)
        for point in points:
            for key, value in point.values.items():
                if point.step > logged.get(key, -1):
                    new.append(Metric(key, float(value), point.milliseconds, point.step))
                    logged[key] = point.step
        for at in range(0, len(new), MOST_METRICS):
            part = new[at : at + MOST_METRICS]
            self.client.log_batch(self.run_id, metrics=part)
            self._logged.update((metric.key, metric.step) for metric in part)

    def final(self, values: Mapping[str, float], *, of: Mapping[str, str] | None = None) -> None:
        """Log final values: the latest is what MLflow shows, and one that has not changed is not logged again.

        ``of`` says of which model and data set they are, in the words of MLflow's metrics: ``model_id``,
        ``dataset_name``, ``dataset_digest``.
        """
        logged = self.client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, self._logged.get(key, -1) + 1, run_id=self.run_id, **(of or {}))
            for key, value in values.items()
            if math.isfinite(value) and logged.get(key) != float(value)
        ]
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)

    def dataset(self, dataset: Dataset, context: str) -> None:
        """Say that the run read a data set; ``context`` is what for: training, validation, test."""
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of the files of a folder, with the run."""
        with patiently():
            for file in files_of(path):
                self.client.log_artifact(self.run_id, str(file), folder)

    def close(self, status: str = "FINISHED") -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.run_id, status)


def finished(tracking_file: Path, key: str, digest: str) -> str | None:
    """The run of a key where it has everything of a digest; None where something is to be sent.

    ``tracking_file`` is as for :class:`Run`. Raises whatever MLflow raises.
    """
    store = read_store(tracking_file)
    client = MlflowClient(tracking_uri=store.uri)
    for found in _of_key(client, _experiment(client, store), key):
        if found.data.tags.get(DIGEST) == digest and found.info.status == "FINISHED":
            return str(found.info.run_id)
    return None


def files_of(path: Path) -> list[Path]:
    """A file, or the files of a folder."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return [path] if path.is_file() else sorted(path.glob("[!.]*"))


def end_workflow(results: Path, status: str) -> None:
    """Mark the parent run of the workflow as ended, where there is one. Raises whatever MLflow raises."""
    store, key = read_store(results / "tracking.json"), workflow_identity(read_workflow(results)).key
    client = MlflowClient(tracking_uri=store.uri)
    found = client.get_experiment_by_name(store.experiment)
    for parent in _of_key(client, found.experiment_id, key) if found else ():
        client.set_terminated(parent.info.run_id, status)


def _experiment(client: MlflowClient, store: Store) -> str:
    """The id of the experiment in the store of these very results."""
    found = client.get_experiment_by_name(store.experiment)
    if found is None:
        raise MlflowException(f"there is no experiment {store.experiment!r}")
    if store.own and found.artifact_location != store.artifacts:
        raise MlflowException(
            f"{store.results} was copied or moved, and its MLflow store still points to {found.artifact_location}; "
            f"remove {store.uri.removeprefix('sqlite:///')}, and recording makes a new one"
        )
    return str(found.experiment_id)


def _of_key(client: MlflowClient, experiment_id: str, key: str) -> list[MlflowRun]:
    """The run of a key, or none."""
    return list(client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1))


def read_workflow(results: Path) -> dict[str, Any]:
    """What :mod:`ocsrflow.config.provenance` wrote about the workflow's run; empty where Snakemake does not run it."""
    path = results / "workflow.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def workflow_identity(workflow: Mapping[str, Any]) -> Identity:
    """The parent run: a configuration at a commit."""
    made_by = str(workflow["version"])
    return Identity(
        "workflow",
        "workflow",
        f"workflow:{workflow['config_hash']}:{made_by}",
        f"workflow {workflow['config_hash'][:6]} at {made_by[:7] or 'no commit'}",
    )


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted paths."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def model_identity(name: str, key: str, tags: Mapping[str, str] | None = None) -> Identity:
    """The run of a training, by what decides its weights."""
    return Identity("model", f"model:{name}", f"model:{name}:{key}", name, {"snakemake.rule": "train", **(tags or {})})


def common_tags(workflow: Mapping[str, Any]) -> dict[str, str]:
    """What every run is tagged with."""
    tags = {"mlflow.source.name": "ocsrflow", "mlflow.source.type": "PROJECT", "mlflow.user": _user()}
    if workflow:
        tags["ocsrflow.config"] = str(workflow["config_hash"])
        if workflow["version"]:
            tags["mlflow.source.git.commit"] = str(workflow["version"])
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


@contextmanager
def errors_reported() -> Iterator[None]:
    """MLflow never stops a stage: when it fails in this block, that is said in one line, and the stage goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever a server, its database or the network may raise)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"MLflow does not take the run: {reason}", file=sys.stderr)
