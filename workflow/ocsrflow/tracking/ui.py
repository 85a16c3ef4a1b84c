"""The command ``ocsrflow ui``: MLflow's own pages over a folder of results."""

import os
import sys
from pathlib import Path

from ..runtime.errors import UserError
from .mlflow_store import FILE


def ui(results: Path = Path("results"), /, *, port: int = 5000) -> None:
    """Browse the MLflow runs of a folder of results, in a browser on this machine, until Ctrl-C.

    Example: ``ocsrflow ui results/demo``

    Parameters
    ----------
    results
        Folder of results.
    port
        Where the pages are: http://127.0.0.1:PORT.

    Raises
    ------
    UserError
        Where there are no runs yet.
    """
    store = results / FILE
    if not store.is_file():
        raise UserError(f"no runs yet: {store} is made by 'make demo' or a full run")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{store}"]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])  # noqa: S606
