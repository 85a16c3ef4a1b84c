"""Temporary folders that do not pile up: what a killed process left, the next one that needs such a folder removes."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "ocsrflow-"
LOCK = ".lock"  # in each folder, held by its process as long as that lives
YOUNG = 60.0  # seconds in which a folder may not be locked yet


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder for this user alone, below ``TMPDIR`` and named after its purpose, that is gone after the block."""
    _tidy()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as made, open(Path(made, LOCK), "wb") as lock:
        with suppress(OSError):  # a file system without locks: nobody tidies up there
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(made)


def _tidy() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone meanwhile, somebody else's, or in use, on another machine too
            status = left.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > YOUNG:
                with open(left / LOCK, "r+b") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left)
