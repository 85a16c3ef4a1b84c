"""What is made once for all test processes, however many pytest-xdist starts."""

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one process makes and all others of this test run find.

    The others wait while it is made, so ``make`` must end by itself. Where it fails, all fail with its reason, and
    nobody tries again. Where its process is killed, the lock is free and the next one begins anew.

    Raises
    ------
    pytest.fail.Exception
        Where another process could not make it.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done, failed = shared / name, shared / f"{name}.done", shared / f"{name}.failed"
    with FileLock(shared / f"{name}.lock"):
        if failed.exists():
            output = failed.read_text()[-3000:]
            pytest.fail(f"{name} could not be made, by another test process:\n{output}", pytrace=False)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder)
            except BaseException:
                failed.write_text(traceback.format_exc())
                raise
            done.touch()
    return folder
