"""A signal to Snakemake alone stops its jobs, and a killed Snakemake's jobs end too; both by SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import hear_ctrl_c

STAGE = """
import time
from pathlib import Path
from ocsrflow.runtime.cli import run

def stage() -> None:
    try:
        Path("begun").touch()
        time.sleep(60)
    finally:
        time.sleep(0.5)  # a training saves
        Path("saved").touch()

run(stage)
"""
SNAKEFILE = """
import os, sys
from ocsrflow.runtime import parent_watch

onstart:
    parent_watch.stop_jobs_on_signal()

rule all:
    output: "made"
    shell:
        f"export {parent_watch.SNAKEMAKE}={os.getpid()}; {sys.executable} ./ocsrflow 2>&1 | tee log; "
        "touch {{output}}"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_jobs_end_with_their_snakemake(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "ocsrflow").write_text(STAGE)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    with open(tmp_path / "snakemake.log", "wb") as log:
        snakemake = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "1"],
            cwd=tmp_path, stdout=log, stderr=log, start_new_session=True, preexec_fn=hear_ctrl_c,
        )  # fmt: skip
    try:
        wait_for(tmp_path / "begun")
        for _ in range(1 if number == signal.SIGKILL else 2):  # an impatient user
            snakemake.send_signal(number)
            time.sleep(0.05)
        snakemake.wait(120)
        wait_for(tmp_path / "saved")
        assert not (tmp_path / "made").exists()
        assert "Traceback" not in (tmp_path / "snakemake.log").read_text()
    finally:
        if snakemake.poll() is None:
            os.killpg(snakemake.pid, signal.SIGKILL)


def wait_for(path: Path, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)
