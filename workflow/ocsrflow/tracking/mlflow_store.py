"""Where MLflow keeps the runs, and how this package talks to it."""

import os
import re
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
class Store:
    """A store and an experiment in it."""

    uri: str
    experiment: str
    results: Path
    own: bool  # whether it is the SQLite file of these results

    @property
    def artifacts(self) -> str | None:
        """Where the files of runs lie; None where a server knows."""
        if not self.uri.startswith("sqlite:"):
            return None
        folder = (self.results / ARTIFACTS).resolve()
        # MLflow takes a path for an address, in which %, ? and # mean something else, and puts it into SQL as it is.
        return str(folder) if re.fullmatch(r"[\w/ .,+@=~-]+", str(folder)) else folder.as_uri()


def read_store(tracking_file: Path) -> Store:
    """What the stage ``tracking`` wrote; an SQLite store lies beside it, wherever that is now.

    Raises
    ------
    UserError
        Where it is damaged.
    """
    found = read_json(tracking_file)
    try:
        uri, experiment = str(found["uri"] or ""), str(found["experiment"])
    except (TypeError, KeyError):
        reason = "damaged, it does not say where to log"
        raise UserError(f"{tracking_file}: {reason}; remove it and run the workflow") from None
    return Store(uri or sqlite_uri(tracking_file.parent / FILE), experiment, tracking_file.parent, not uri)


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file for MLflow, in which a question mark would begin options.

    Raises
    ------
    UserError
        Where there is one in the path, and no way round it.
    """
    text = os.path.relpath(path) if "?" in str(path) else str(path)
    if "?" in text:
        raise UserError(f"{path}: MLflow takes no file with '?' in its path; start this in its folder, or rename that")
    return f"sqlite:///{text}"


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite address; None for another kind of address."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def write_store(tracking_file: Path, uri: str, experiment: str) -> None:
    """Say where to log: a server's address, or empty for the SQLite store beside the file."""
    write_json(tracking_file, {"uri": uri, "experiment": experiment}, recorded=False)


@contextmanager
def patiently() -> Iterator[None]:
    """In this block MLflow waits long for an answer, as large files need."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = max(before, UPLOAD_SECONDS, key=float)
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
