"""MLflow: one experiment per workflow configuration, one run per model, ensemble and baseline.

A run is found again by a key that says what it is the run of, so that a job that starts again continues its own run
and logs no point twice. MLflow never stops a stage; a training sends its curves through ``mirror``, beside its own
work.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Few and short tries: a server that is away must not hold a training up.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Creating the SQLite tables is not worth forty log lines.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Metric, Param
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from .cli import run
from .errors import UserError
from .files import read_json, write_json

KEY = "ocsrflow.key"
LONGEST = 6000  # characters of a parameter that MLflow takes
MOST_PARAMETERS, MOST_METRICS = 100, 1000  # in one request


@dataclass(frozen=True)
class Point:
    """Values of some curves at one step."""

    values: Mapping[str, float]
    step: int
    milliseconds: int  # since 1970


def tracking(*, out: Path, experiment: str, store: Path, uri: str = "") -> None:
    """Make the store and the experiment, before anything logs to it.

    Concurrent runs that find no tables or no experiment crash or land in "Default".

    Parameters
    ----------
    out
        JSON file that tells the other stages where to log.
    experiment
        Name of the experiment.
    store
        SQLite file, used where ``uri`` is empty.
    uri
        Address of a tracking server.

    Raises
    ------
    UserError
        Where the server cannot be reached, or the store cannot be made.
    """
    if not uri:
        store.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{store}"
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            artifacts = (
                None
                if "://" in uri and not uri.startswith("sqlite")
                else str((store.parent / "mlflow-artifacts" / experiment).resolve())
            )
            client.create_experiment(experiment, artifact_location=artifacts)
        elif found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"MLflow cannot be used at {uri}: {reason}; start it or change tracking.uri") from None
    write_json(out, {"uri": uri, "experiment": experiment})


class Run:
    """One MLflow run, found again by its key or made. Its methods raise whatever MLflow raises."""

    def __init__(self, where: Path, *, key: str, name: str, tags: Mapping[str, str] | None = None) -> None:
        """Open the run.

        Parameters
        ----------
        where
            The JSON file that :func:`tracking` wrote.
        key
            What the run is the run of: the same key continues the same run.
        name
            Its name, as MLflow shows it.
        tags
            Its tags.
        """
        place = read_json(where)
        self.client = MlflowClient(tracking_uri=place["uri"])
        # Two jobs may open the run of one ensemble at once: it must be made by one of them only.
        with open(where.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            opened = self._find_or_make(place["experiment"], key, name, dict(tags or {}))
        self.run_id = opened.info.run_id
        # The last step of each curve, so that a training that starts again logs no point twice.
        self._logged = {
            metric: max(point.step for point in self.client.get_metric_history(self.run_id, metric))
            for metric in opened.data.metrics
        }

    def _find_or_make(self, experiment: str, key: str, name: str, tags: dict[str, str]) -> MlflowRun:
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            raise MlflowException(f"there is no experiment {experiment!r}")
        runs = self.client.search_runs([found.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        if not runs:
            return self.client.create_run(found.experiment_id, run_name=name, tags={**tags, KEY: key})
        self.client.update_run(runs[0].info.run_id, status="RUNNING")
        opened: MlflowRun = runs[0]
        return opened

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; what is there already stays."""
        there = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:LONGEST]) for key, value in values.items() if key not in there]
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

    def final(self, values: Mapping[str, float]) -> None:
        """Log final values: the latest is what MLflow shows, and one that has not changed is not logged again."""
        there = self.client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, self._logged.get(key, -1) + 1)
            for key, value in values.items()
            if there.get(key) != float(value)
        ]
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)

    def file(self, path: Path) -> None:
        """Keep a copy of a file with the run."""
        self.client.log_artifact(self.run_id, str(path))

    def close(self, status: str = "FINISHED") -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.run_id, status)


@contextmanager
def forgiving() -> Iterator[None]:
    """MLflow never stops a stage: when it fails in this block, that is said in one line, and the stage goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever a server, its database or the network may raise)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"MLflow does not take the run: {reason}", file=sys.stderr)


if __name__ == "__main__":
    run(tracking)
