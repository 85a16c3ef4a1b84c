"""SIGKILL at random moments in every stage: what is made in the end is what an undisturbed run makes.

The jobs are those of the toy experiment, with the very commands that Snakemake runs, each in a copy of the finished
results from which its own outputs were removed, as Snakemake does before it starts a job. Compared is the whole folder
of results, so that whatever a killed process leaves behind shows.
"""

import contextlib
import csv
import fnmatch
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from support.checkout import CONFIG, snakemake
from support.faults import FULL, Faults
from support.needs import mount
from support.processes import described
from support.servers import Server
from support.waiting import PATIENCE, wait_until

KILLS = 20 if FULL else 1
SLOW = 5  # kills of a stage that takes a quarter of a minute
SLOWEST = ("train", "speed_training", "speed_prediction")
SAMPLE = ("download", "filter", "render", "pack", "score")  # where not all is asked for
RULES = (
    "attend", "benchmark_set", "browse", "calibrate", "choose", "constant", "download", "draw_set", "filter",
    "osra", "pack", "predict", "record", "redraw",
    "render", "report", "rescore", "sample", "score", "speed_prediction", "speed_training", "tracking", "train", "vote",
)  # fmt: skip

MARK = "OCSRFLOW_TEST_JOB"  # environment variable by which the processes of a job are found, whoever their parent is

# What a stage makes beside its outputs, to be made anew.
BESIDE = {
    "filter": ["corpus/nci/source.json"],
    "render": ["corpus/nci/pictures"],
    "tracking": ["mlflow.db", "mlflow-artifacts"],
    "train": ["checkpoints"],
}
RATES = {"images_per_second", "data_wait", "teraflops"}
SPEEDS = {*RATES, "seconds_per_image", "low", "high", "speed_up", "efficiency", "step_seconds", "windows"}
# Seconds, dates, rates and MLflow's numbers of runs, and nothing else, by file: keys of JSON, columns of Parquet.
VARYING = {
    "corpus/*/source.json": {"date"},
    "likelihoods/*.json": {"seconds_per_image"},
    "models/*/metrics.jsonl": {"time", *RATES},
    "checkpoints/*/metrics.jsonl": {"time", *RATES},
    "models/*/model.json": {"seconds", *RATES},
    "predictions/*.json": {"seconds_per_image", "images_per_second", "seconds_per_vote"},
    "predictions/*.parquet": {"seconds"},
    "redrawn/*.json": {"seconds_per_image"},
    "redrawn/*.parquet": {"seconds"},
    "speed/*.json": SPEEDS,
}
# Compared in another way; runs.json and the archives of checkpoints have numbers of runs and dates in them, and the
# hashes are of whole files.
ELSEWHERE = ("logs/*", "benchmarks/*", "mlflow.db*", "mlflow-artifacts/*", "tracking.lock", "runs.json", "hashes/*")
NAME_ALONE = ("checkpoints/*.pt",)
# What a killed process may leave: its name is unique, and it is removed after an hour.
LEFT = ("corpus/*/pictures/*/*.part",)

QUERIES = {
    "runs": "SELECT name, status, lifecycle_stage FROM runs",
    "parameters": "SELECT runs.name, key, value FROM params JOIN runs USING (run_uuid)",
    "points": "SELECT runs.name, key, value, step FROM metrics JOIN runs USING (run_uuid)",
    "versions": "SELECT name, version FROM model_versions",
    "models": "SELECT name, lifecycle_stage FROM logged_models",
}


@dataclass(frozen=True)
class Job:
    """A job of the toy experiment."""

    command: str
    outputs: tuple[str, ...]


@pytest.fixture(scope="session")
def jobs(toy: Path) -> dict[str, Job]:
    """One job of each rule."""
    listed = snakemake(toy, "--cores", "2", "--configfile", CONFIG, "--detailed-summary").stdout
    rows = list(csv.DictReader(listed.splitlines(), delimiter="\t"))
    found: dict[str, Job] = {}
    for row in rows:
        if row["rule"] not in found:
            outputs = tuple(other["output_file"] for other in rows if other["shellcmd"] == row["shellcmd"])
            found[row["rule"]] = Job(row["shellcmd"], outputs)
    assert found.keys() >= set(RULES)
    return found


class StageFolder:
    """A copy of the finished results in which a job is run, killed and run again."""

    def __init__(self, toy: Path, folder: Path, mark: str) -> None:
        self.folder, self.results, self.temporary = folder, folder / "results", folder / "tmp"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OCSRFLOW_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(toy / "workflow"),
            "PYTHONUNBUFFERED": "1",
            "OCSRFLOW_RESULTS": "results",
            "TMPDIR": str(self.temporary),
            MARK: mark,
        }
        shutil.copytree(toy / "results", self.results)
        shutil.copytree(toy / "tests/workflow", folder / "tests/workflow")
        self.temporary.mkdir()

    def remove(self, *names: str) -> None:
        """Remove files and folders, as Snakemake removes outputs."""
        for name in names:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def begin(self, job: Job) -> "subprocess.Popen[bytes]":
        """Start a job as Snakemake does."""
        self.remove(*job.outputs)
        for name in job.outputs:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "said", "wb") as said:
            return subprocess.Popen(
                ["bash", "-c", f"set -euo pipefail; {job.command}"],
                cwd=self.folder, env=self.environment, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def run(self, job: Job) -> None:
        """Run a job to its end."""
        assert self.begin(job).wait() == 0, (self.folder / "said").read_text()
        self.wait_for_the_end()

    def killed(self, job: Job, seconds: float, alone: bool) -> float | None:
        """Run a job and kill it after some seconds, or only the stage's own process; None where it ended before.

        Who is not killed ends by himself.
        """
        began = time.monotonic()
        shell = self.begin(job)
        time.sleep(seconds)
        stage = stage_of(shell) if alone else None
        if shell.poll() is not None:
            assert shell.returncode == 0, (self.folder / "said").read_text()
            return None
        if stage is not None:
            stage.kill()
        else:
            os.killpg(shell.pid, signal.SIGKILL)
        lasted = time.monotonic() - began
        status = shell.wait(timeout=PATIENCE)
        self.wait_for_the_end()
        # It may have ended in the very moment, or have been told to stop.
        return lasted if status != 0 else None

    def runs(self) -> dict[str, list[Any]]:
        """What MLflow's own store has: runs, parameters, points, registered versions."""
        path = self.results / "mlflow.db"
        if not path.exists():
            return {}
        store = sqlite3.connect(path)
        try:
            return {table: sorted(store.execute(query).fetchall(), key=repr) for table, query in QUERIES.items()}
        finally:
            store.close()

    def processes(self) -> list[psutil.Process]:
        """All that a job has started, whatever has become of their parents."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.environment[MARK]
        except psutil.Error:
            return False

    def wait_for_the_end(self) -> None:
        """Wait until no process is left, which all end by themselves."""

        def left() -> str:
            return f"{described(self.processes())}\n{(self.folder / 'said').read_text()}"

        wait_until(lambda: not self.processes(), "the end of all processes of the job", details=left)

    def content(self) -> dict[str, Any]:
        """All files of the results, without what takes another time each time."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results).as_posix()
            if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in (*ELSEWHERE, *LEFT)):
                found[name] = content(path, name)
        return found


def content(path: Path, name: str) -> Any:
    """What is in a file."""
    if any(fnmatch.fnmatch(name, pattern) for pattern in NAME_ALONE):
        return ""
    varying = {key for pattern, keys in VARYING.items() if fnmatch.fnmatch(name, pattern) for key in keys}
    if varying and path.suffix == ".parquet":
        table = pq.read_table(path)
        return repr(table.drop_columns([name for name in table.column_names if name in varying]).to_pydict())
    if varying:
        text = path.read_text()
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        return [without(json.loads(line), varying) for line in lines]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without(value: Any, varying: set[str]) -> Any:
    """A JSON value without some keys."""
    if isinstance(value, Mapping):
        return {key: without(inner, varying) for key, inner in value.items() if key not in varying}
    return [without(inner, varying) for inner in value] if isinstance(value, list) else value


def stage_of(shell: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """The stage's own Python process, below the shell."""
    try:
        below = psutil.Process(shell.pid).children()
        return next((process for process in below if "python" in process.name()), None)
    except psutil.Error:
        return None


@pytest.fixture
def stage_folder(toy: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StageFolder]:
    """A folder in which one stage runs."""
    made = StageFolder(toy, tmp_path / "ground", f"{os.getpid()} {request.node.name}")
    yield made
    for process in made.processes():
        process.kill()
    shutil.rmtree(made.folder)


@pytest.mark.parametrize("rule", RULES if FULL else SAMPLE)
def test_a_stage_killed_at_random_moments(
    rule: str, jobs: dict[str, Job], stage_folder: StageFolder, faults: Faults
) -> None:
    job = jobs[rule]
    if rule == "record":  # a store of its own
        stage_folder.remove("results/mlflow.db", "results/mlflow-artifacts", "results/runs.json")
        stage_folder.run(jobs["tracking"])
    stage_folder.remove(*(f"results/{name}" for name in BESIDE.get(rule, [])))
    start = stage_folder.folder.with_name("start")
    shutil.copytree(stage_folder.results, start, symlinks=True)
    began = time.monotonic()
    stage_folder.run(job)
    duration = time.monotonic() - began
    expected, recorded = stage_folder.content(), stage_folder.runs()
    assert list(stage_folder.temporary.iterdir()) == []
    shutil.rmtree(stage_folder.results)
    shutil.move(start, stage_folder.results)

    rng = random.Random(rule)
    kills = min(KILLS, SLOW) if rule in SLOWEST else KILLS
    left = [*job.outputs, *(f"results/{name}" for name in BESIDE.get(rule, []))]
    with faults.tried("SIGKILL", rule, kills) as fault:
        done, attempts = 0, 0
        while done < kills:
            attempts += 1
            assert attempts < 4 * kills + 4, "it ends before it can be killed"
            seconds = stage_folder.killed(job, rng.uniform(0, duration), alone=rng.random() < 0.5)
            if seconds is not None:
                done += 1
                fault.lost(seconds, "s")
                # What is there is whole.
                found = stage_folder.content()
                present = [name for name in found if f"results/{name}" in job.outputs]
                assert {name: found[name] for name in present} == {name: expected[name] for name in present}
            elif rule not in ("train", "tracking"):  # whatever it has made beside its outputs is to be made again
                stage_folder.remove(*left)
        stage_folder.run(job)
        assert stage_folder.content() == expected
        assert stage_folder.runs() == recorded
        assert len(list(stage_folder.results.rglob("*.part"))) <= kills
        # A killed process leaves its temporary folder to whoever clears TMPDIR.
        left_over = [path.name for path in stage_folder.temporary.iterdir() if not path.name.startswith("ocsrflow-")]
        assert left_over == []


def test_a_download_killed_at_random_moments(server: Server, tmp_path: Path, faults: Faults) -> None:
    data = random.Random(0).randbytes(1 << 20)
    server.files = {"/c.gz": data, "/c.gz.md5": hashlib.md5(data).hexdigest().encode()}

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:  # the whole takes a second
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("ETag", server.etag)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        with contextlib.suppress(OSError):  # killed meanwhile
            for at in range(start, len(data), 1 << 14):
                handler.wfile.write(data[at : at + (1 << 14)])
                server.sent["/c.gz"] += len(data[at : at + (1 << 14)])
                time.sleep(1 / 64)

    server.answers["/c.gz"] = [drip] * 1000
    out = tmp_path / "c.gz"
    command = [sys.executable, "-m", "ocsrflow", "download", "--kind", "pubchem", "--out", out]
    command += ["--url", f"{server.url}/c.gz", "--md5-url", f"{server.url}/c.gz.md5"]
    rng = random.Random(0)
    kills = max(KILLS, 3)
    with faults.tried("SIGKILL, a slow server", "download", kills) as fault:
        for _ in range(kills):
            asked = len(server.requests)
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            if rng.random() < 0.8:  # not all of them as it begins, most of which is imports
                wait_until(
                    lambda asked=asked: len(server.requests) >= asked + 2, "questions for the md5 sum and the file"
                )
            time.sleep(rng.uniform(0, 1.0 / kills))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not out.exists()
        subprocess.run(command, check=True, capture_output=True)
        assert out.read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["c.gz"]
        assert server.requests[-1][1] is not None  # it went on
        lost = server.sent["/c.gz"] - len(data)
        assert 0 <= lost < kills * (1 << 15)  # what was on its way
        fault.lost(lost, "bytes")


@pytest.mark.parametrize("rule", RULES if FULL else ["choose"])
def test_a_stage_whose_results_are_read_only(
    rule: str, jobs: dict[str, Job], stage_folder: StageFolder, faults: Faults
) -> None:
    mount("unshare", "--mount", "true")
    job = jobs[rule]
    stage_folder.remove(*job.outputs)
    before = stage_folder.content()
    # Mounted for this process alone, so that nothing has to be unmounted. The log would be below the results too.
    command = re.sub(r" (> \S+ 2>&1|2>&1 \| .*)$", "", job.command)
    script = f"mount --bind results results; mount -o remount,bind,ro results; set -euo pipefail; {command}"
    with faults.tried("read-only results", rule):
        run = subprocess.run(
            ["unshare", "--mount", "bash", "-c", script],
            cwd=stage_folder.folder, env=stage_folder.environment, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        errors = [line for line in run.stderr.splitlines() if ": error: " in line]
        assert run.returncode == 1, run.stdout + run.stderr
        assert "Traceback" not in run.stderr
        assert len(errors) == 1, run.stderr
        assert errors[0].endswith("Read-only file system"), run.stderr
        assert stage_folder.content() == before
