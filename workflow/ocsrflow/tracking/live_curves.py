"""A training's curves on their way to MLflow, beside its own work.

Points are handed to a thread of their own, so that a server that is slow or away neither slows nor stops the training.
What could not be sent is kept and tried again, at the latest at the end.
"""

import importlib
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RETRY = 30.0  # seconds between two tries where MLflow does not answer
GATHER = 2.0  # seconds in which points are gathered for one request
LAST_TRY = 20.0  # seconds that the end waits for what is still to be sent


class LiveCurves:
    """The MLflow run of one training, written to by a thread."""

    def __init__(
        self,
        tracking_file: Path | None,
        *,
        key: str,
        name: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin; the run is opened by the thread.

        Parameters
        ----------
        tracking_file
            The JSON file that the stage ``tracking`` writes, now or later; None sends nothing.
        key
            What decides the weights.
        name
            Name of the model.
        parameters
            Logged once; settings within settings by their dotted paths.
        tags
            Tags of the run, where it is a new one.
        """
        self._tracking_file, self._key, self._name = tracking_file, key, name
        self._parameters, self._tags = dict(parameters), dict(tags or {})
        self._waiting: list[tuple[Mapping[str, float], int, int]] = []
        self._change = threading.Condition()
        self._status: str | None = None  # at the end
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if tracking_file is not None:
            self._thread.start()

    def point(self, values: Mapping[str, float], step: int, milliseconds: int | None = None) -> None:
        """Hand over one point of some curves; returns at once.

        A step that the run's curves have already is not sent again.
        """
        if self._tracking_file is not None:
            with self._change:
                self._waiting.append((dict(values), step, milliseconds or int(time.time() * 1000)))
                self._change.notify()

    def close(self, status: str, patience: float = LAST_TRY) -> None:
        """Send what is left and end the run; what is not sent within ``patience`` seconds is reported in one line."""
        if self._tracking_file is None:
            return
        with self._change:
            self._status = status
            self._change.notify()
        self._thread.join(patience)
        if self._thread.is_alive() or self._trouble:
            reason = self._trouble or "no answer in time"
            print(
                f"MLflow does not take the run: {reason}; {len(self._waiting)} points of {self._name} were not sent, "
                "its metrics.jsonl has them all, and they are sent when the training is started again",
                file=sys.stderr,
                flush=True,
            )

    def _work(self) -> None:
        run = None
        while True:
            with self._change:
                if not self._trouble and self._status is None:
                    self._change.wait_for(lambda: self._waiting or self._status is not None)
                elif self._status is None:
                    self._change.wait_for(lambda: self._status is not None, RETRY)
            if self._status is None:
                time.sleep(GATHER)
            last = self._status is not None
            part = self._waiting[:]
            try:
                run = run or self._open()
                run.points([_runs().Point(*point) for point in part])
                del self._waiting[: len(part)]  # only this thread takes away, and it counts from the front
                self._trouble = ""
                if last and not self._waiting:
                    run.close(str(self._status))
                    return
            except Exception as error:  # noqa: BLE001  (whatever a server, its database or the network may raise)
                self._trouble = (str(error) or type(error).__name__).splitlines()[0]
                if last:
                    return

    def _open(self) -> Any:
        assert self._tracking_file is not None
        run = _runs().Run(self._tracking_file, _runs().model_identity(self._name, self._key, self._tags))
        run.parameters(_runs().flat(self._parameters))
        return run


def _runs() -> Any:
    """The module ``mlflow_runs``: in the thread, since MLflow takes some seconds to import.

    By its name, so that it is no input of the rule ``train``: how a run is recorded decides nothing of what is learnt.
    """
    return importlib.import_module("ocsrflow.tracking.mlflow_runs")
