"""Stage ``tracking``: the store and the experiment before anything logs; and the end of the workflow's own run."""

from pathlib import Path
from typing import Literal

from ..runtime.files import finish
from .mlflow_runs import end_workflow, ensure, errors_reported
from .mlflow_store import read_store, write_store


def tracking(*, out: Path, experiment: str, uri: str = "") -> None:
    """Make the store and the experiment, before anything logs to it.

    Concurrent runs that find no tables or no experiment crash or land in "Default".

    Parameters
    ----------
    out
        JSON file that tells the other stages where to log.
    experiment
        Name of the experiment.
    uri
        Address of a tracking server; without it runs are kept in an SQLite file beside ``out``.

    Raises
    ------
    UserError
        Where the server cannot be reached, or the store cannot be made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not in the results yet: nobody is to log before there is a store.
    part = out.with_name(f"{out.name}.part")
    write_store(part, uri, experiment)
    try:
        ensure(read_store(part))
        finish(part, out)
    finally:
        part.unlink(missing_ok=True)


def close(results: Path = Path("results"), *, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
    """Mark the parent run of the workflow as ended, where there is one.

    Parameters
    ----------
    results
        Folder of results.
    status
        How it ended.
    """
    if (results / "workflow.json").is_file() and (results / "tracking.json").is_file():
        with errors_reported():
            end_workflow(results, status)
