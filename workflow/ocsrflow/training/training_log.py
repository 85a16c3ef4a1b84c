"""What a training says of itself: a line for every few steps, in a file that can be watched, and in MLflow."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..tracking.live_curves import LiveCurves

Line = dict[str, Any]


class TrainingLog:
    """The lines of one training, in memory, in a file and on their way to MLflow."""

    def __init__(self, live: Path | None, history: list[Line], curves: LiveCurves) -> None:
        """Go on from the lines there are.

        Parameters
        ----------
        live
            JSON lines file that grows with the training; None writes none.
        history
            Lines of before; new ones are appended to it.
        curves
            Where they are sent, too.
        """
        self.history, self._curves = history, curves
        self._file: IO[str] | None = None
        self._closed = False
        if live is not None:
            live.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(live, "w", encoding="utf-8")  # noqa: SIM115  (open as long as the training goes on)
            for line in history:
                self._write(line)
        for line in history:  # the store may be new, or have been away
            self._send(line)

    def log(self, values: Mapping[str, float], **where: int | str) -> None:
        """One line: ``step``, ``epoch``, ``phase``, when it was, and the values."""
        line = {**where, "time": round(time.time(), 1), **{key: round(value, 6) for key, value in values.items()}}
        self.history.append(line)
        self._write(line)
        self._send(line)

    def _write(self, line: Line) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _send(self, line: Line) -> None:
        values = {key: value for key, value in line.items() if key not in ("step", "epoch", "phase", "time")}
        self._curves.point(values, int(line["step"]), int(line["time"] * 1000))

    def close(self, status: str, **patience: float) -> None:
        """End the file and the MLflow run, once."""
        if not self._closed:
            self._closed = True
            if self._file is not None:
                self._file.close()
            self._curves.close(status, **patience)
