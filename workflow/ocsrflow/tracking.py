"""MLflow: one experiment per workflow configuration, one run per model, ensemble and baseline.

A run is found again by a key that says what it is the run of, so that a job that starts again continues its own run
and logs no point twice. MLflow never stops a stage: when it fails, that is said once, and nothing more is sent from
this job. A training that starts again sends what its run does not have yet.
"""

import fcntl
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

# Few and short tries: a server that is away must not hold a training up.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Creating the SQLite tables is not worth forty log lines.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from .cli import run
from .errors import UserError
from .files import read_json, write_json

KEY = "ocsrflow.key"
LONGEST = 6000  # characters of a parameter that MLflow takes

Method = TypeVar("Method", bound=Callable[..., None])


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


def _never_stops(method: Method) -> Method:
    """MLflow's troubles are said once and switch the tracker off."""

    @functools.wraps(method)
    def guarded(self: "Tracker", *args: Any, **kwargs: Any) -> None:
        if not self.on:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  (whatever a server, its database or the network may raise)
            self.on = False
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"MLflow does not take the run: {reason}", file=sys.stderr)

    return guarded  # type: ignore[return-value]


class Tracker:
    """One MLflow run, found again by its key or made."""

    def __init__(self, where: Path | None, *, key: str, name: str, tags: Mapping[str, str] | None = None) -> None:
        """Open the run.

        Parameters
        ----------
        where
            The JSON file that :func:`tracking` wrote; None logs nothing.
        key
            What the run is the run of: the same key continues the same run.
        name
            Its name, as MLflow shows it.
        tags
            Its tags.
        """
        self.client: MlflowClient | None = None
        self.on = where is not None
        self.run_id = ""
        self._logged: dict[str, int] = {}
        if where is not None:
            self._open(where, key, name, dict(tags or {}))

    @_never_stops
    def _open(self, where: Path, key: str, name: str, tags: dict[str, str]) -> None:
        place = read_json(where)
        self.client = MlflowClient(tracking_uri=place["uri"])
        # Two jobs may open the run of one ensemble at once: it must be made by one of them only.
        with open(where.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._find_or_make(place["experiment"], key, name, tags)

    def _find_or_make(self, experiment: str, key: str, name: str, tags: dict[str, str]) -> None:
        assert self.client is not None
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            raise MlflowException(f"there is no experiment {experiment!r}")
        runs = self.client.search_runs([found.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        if runs:
            opened = runs[0]
            self.client.update_run(opened.info.run_id, status="RUNNING")
        else:
            opened = self.client.create_run(found.experiment_id, run_name=name, tags={**tags, KEY: key})
        self.run_id = opened.info.run_id
        for metric in opened.data.metrics:
            history = self.client.get_metric_history(self.run_id, metric)
            self._logged[metric] = max(point.step for point in history)

    @_never_stops
    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters; what is there already stays."""
        assert self.client is not None
        there = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:LONGEST]) for key, value in values.items() if key not in there]
        if new:
            self.client.log_batch(self.run_id, params=new)

    @_never_stops
    def point(self, values: Mapping[str, float], step: int) -> None:
        """Log one point of each curve; a step that a curve has already is left out."""
        assert self.client is not None
        now = int(time.time() * 1000)
        new = {key: value for key, value in values.items() if step > self._logged.get(key, -1)}
        if new:
            points = [Metric(key, float(value), now, step) for key, value in new.items()]
            self.client.log_batch(self.run_id, metrics=points)
            self._logged.update(dict.fromkeys(new, step))

    @_never_stops
    def final(self, values: Mapping[str, float]) -> None:
        """Log final values: the latest is what MLflow shows, and one that has not changed is not logged again."""
        assert self.client is not None
        there = self.client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        points = [
            Metric(key, float(value), now, self._logged.get(key, -1) + 1)
            for key, value in values.items()
            if there.get(key) != float(value)
        ]
        if points:
            self.client.log_batch(self.run_id, metrics=points)

    @_never_stops
    def file(self, path: Path) -> None:
        """Keep a copy of a file with the run."""
        assert self.client is not None
        self.client.log_artifact(self.run_id, str(path))

    @_never_stops
    def close(self, status: str = "FINISHED") -> None:
        """Mark the run as ended."""
        assert self.client is not None
        self.client.set_terminated(self.run_id, status)


if __name__ == "__main__":
    run(tracking)
