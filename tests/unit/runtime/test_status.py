"""``make status`` while a run goes on, after it was killed, where a job failed, and at its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ocsrflow.runtime import status
from ocsrflow.runtime.errors import UserError
from support.waiting import wait_until

SNAKEFILE = """
rule all:
    default_target: True
    input: expand("results/models/{model}/weights", model=["one", "two"])

rule render:
    output: "results/shards/{shard}.parquet"
    log: "results/logs/render/{shard}.log"
    benchmark: "results/benchmarks/render/{shard}.tsv"
    message: "Draw shard {wildcards.shard}"
    shell: "touch {output}; echo drawn > {log}"

rule train:
    input: expand("results/shards/{shard}.parquet", shard=range(3))
    output: "results/models/{model}/weights"
    log: "results/logs/train/{model}.log"
    benchmark: "results/benchmarks/train/{model}.tsv"
    message: "Train {wildcards.model}"
    shell:
        "(echo 45%; while [ -e hold ]; do sleep 0.1; done; "
        "[ ! -e fail ] || {{ printf 'ocsrflow train: error: no \\\\033[1mGPU\\\\n\\\\n' ; exit 1; }}; "
        "touch {output}) 2>&1 | tee {log}"
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").write_text(SNAKEFILE)
    return tmp_path


def begin() -> subprocess.Popen[bytes]:
    """Start Snakemake; what its hook writes down comes, as in a run, after its log is open."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete"]
    logs = {*Path(".snakemake/log").glob("*")}
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: {*Path(".snakemake/log").glob("*.snakemake.log")} - logs, "the log of a new run")
    Path("results").mkdir(exist_ok=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    Path("results/workflow.json").write_text(json.dumps({"started": started}))
    return run


def test_a_run_from_its_beginning_to_its_end(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> list[str]:
        status.status()
        return capsys.readouterr().out.splitlines()

    Path("hold").touch()
    run = begin()
    try:
        wait_until(
            lambda: any(path.read_text() for path in Path("results/logs").glob("train/*.log")), "a log of the training"
        )
        header, render, train, running, last = shown()
        assert header.split() == ["rule", "done", "seconds"]
        assert re.fullmatch(r"render +3/3 +\d+", render)
        assert train.split() == ["train", "0/2", "0"]
        assert re.fullmatch(r"running for \d+ s: Train (one|two)", running)
        assert last.startswith("3 of 5 jobs are done; Snakemake is at work")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    for lock in Path(".snakemake/locks").iterdir():
        lock.unlink()
    assert re.fullmatch(r"did not end: Train (one|two)", shown()[3])

    Path("hold").unlink()
    Path("fail").touch()
    assert begin().wait() != 0
    _, train, render, failed, last = shown()  # shards were drawn in the run before
    assert re.fullmatch(r"render +before +\d+", render)
    assert re.fullmatch(
        r"failed: train, see (results/logs/train/(one|two)\.log): ocsrflow train: error: no \\x1b\[1mGPU", failed
    )
    assert last == "0 of 2 jobs are done, none runs; the same command goes on from here"

    Path("fail").unlink()
    assert begin().wait() == 0
    _, train, _, last = shown()
    assert re.fullmatch(r"train +2/2 +\d+", train)
    assert last == "finished, 2 jobs"


def test_where_no_run_has_started_or_its_log_is_elsewhere(checkout: Path) -> None:
    with pytest.raises(UserError, match="no run has started yet"):
        status.status()
    Path("results").mkdir()
    Path("results/workflow.json").write_text('{"started": "2026-11-30T10:00:00+00:00"}')
    with pytest.raises(UserError, match="call it in the folder of the checkout"):
        status.status()
