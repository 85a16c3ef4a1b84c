"""The Makefile's targets look at the results of the run that began last."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.checkout import REPOSITORY


@pytest.mark.parametrize(
    ("begun", "shown"),
    [([], "results"), (["results/demo"], "results/demo"), (["results/demo", "results"], "results")],
)
def test_status_is_of_the_last_run(tmp_path: Path, begun: list[str], shown: str) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text('#!/bin/sh\necho "$@"\n')
    (programs / "python").chmod(0o755)
    for at, results in enumerate(begun):
        path = tmp_path / results / "experiment.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (at, at))
    env = {name: value for name, value in os.environ.items() if name != "RESULTS" and "MAKE" not in name}
    for given, expected in ((None, shown), ("elsewhere", "elsewhere")):
        command = ["make", "-o", ".venv/.ready", "status", *([f"RESULTS={given}"] if given else [])]
        run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert run.stdout == f"-m ocsrflow status {expected}\n"
