"""Where MLflow keeps the runs, and how this package talks to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import read_json, write_json

# Few and short tries: a server that is away must not hold a training up. To be set before MLflow is imported.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Creating the SQLite tables is not worth forty log lines.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

FILE = "mlflow.db"  # the SQLite store, beside the file that says where to log
ARTIFACTS = "mlflow-artifacts"
UPLOAD_SECONDS = "300"  # that a server may take for a file


@dataclass(frozen=True)
class Place:
    """A store and an experiment in it."""

    uri: str
    experiment: str
    results: Path
    own: bool  # whether it is the SQLite file of these results

    @property
    def artifacts(self) -> str | None:
        """Where the files of runs lie; None where a server knows."""
        return str((self.results / ARTIFACTS).resolve()) if self.uri.startswith("sqlite:") else None


def read_place(where: Path) -> Place:
    """What the stage ``tracking`` wrote; an SQLite store lies beside it, wherever that is now.

    Raises
    ------
    UserError
        Where it is damaged.
    """
    found = read_json(where)
    try:
        uri, experiment = str(found["uri"] or ""), str(found["experiment"])
    except (TypeError, KeyError):
        raise UserError(f"{where}: damaged, it does not say where to log; remove it and run the workflow") from None
    return Place(uri or f"sqlite:///{where.parent / FILE}", experiment, where.parent, not uri)


def write_place(where: Path, uri: str, experiment: str) -> None:
    """Say where to log: a server's address, or empty for the SQLite store beside the file."""
    write_json(where, {"uri": uri, "experiment": experiment}, recorded=False)


@contextmanager
def patiently() -> Iterator[None]:
    """In this block MLflow waits long for an answer, as large files need."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = max(before, UPLOAD_SECONDS, key=float)
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
