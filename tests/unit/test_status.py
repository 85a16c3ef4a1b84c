import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ocsrflow import status
from ocsrflow.errors import UserError
from ocsrflow.status import Head, Job, Marker, Run
from support.waiting import wait_until

# Rules of the same form as the workflow's: several outputs, logs and benchmarks in folders, a rule without benchmark.
SNAKEFILE = """
RESULTS = config["results"]

rule all:
    default_target: True
    input: RESULTS + "/report.html"

rule render:
    output: index=RESULTS + "/shards/{shard}.parquet", rejects=RESULTS + "/rejects/{shard}.csv"
    log: RESULTS + "/logs/render/{shard}.log"
    benchmark: RESULTS + "/benchmarks/render/{shard}.tsv"
    message: "Draw shard {wildcards.shard}"
    shell: "touch {output}; echo drawn > {log}"

rule tracking:
    output: RESULTS + "/tracking.json"
    log: RESULTS + "/logs/tracking.log"
    shell: "touch {output} | tee {log}"

rule train:
    input: expand(RESULTS + "/shards/{shard}.parquet", shard=range(3)), RESULTS + "/tracking.json"
    output: weights=RESULTS + "/models/{model}/weights", description=RESULTS + "/models/{model}/model.json"
    log: RESULTS + "/logs/train/{model}.log"
    benchmark: RESULTS + "/benchmarks/train/{model}.tsv"
    params: score=lambda wildcards: config["scores"][wildcards.model]
    shell:
        "(printf '{wildcards.model}:  10%% 1/9 steps\\\\n'; "
        "printf '{wildcards.model}:  45%% 4/9 steps, \\\\033[1m3.2/s\\\\n'; "
        "while [ -e hold ]; do sleep 0.1; done; "
        "[ ! -e fail ] || {{ echo 'ocsrflow.train: error: no GPU' ; exit 1; }}; "
        "touch {output.weights}; "
        "echo '{{\\"name\\": \\"{wildcards.model}\\", \\"validation_tanimoto\\": {params.score}}}' "
        "> {output.description}) 2>&1 | tee {log}"

rule score:
    input: RESULTS + "/models/{model}/model.json"
    output: RESULTS + "/scores/held-out/{model}.json"
    log: RESULTS + "/logs/score/held-out-{model}.log"
    benchmark: RESULTS + "/benchmarks/score/held-out-{model}.tsv"
    shell:
        "echo '{{\\"name\\": \\"{wildcards.model}\\", \\"test_set\\": \\"held-out\\", "
        "\\"scores\\": {{\\"tanimoto\\": {{\\"value\\": 0.25}}}}}}' > {output} | tee {log}"

rule report:
    input: expand(RESULTS + "/scores/held-out/{model}.json", model=["one", "two"])
    output: RESULTS + "/report.html"
    log: RESULTS + "/logs/report.log"
    benchmark: RESULTS + "/benchmarks/report.tsv"
    shell: "touch {output} | tee {log}"
"""
EXPERIMENT = {
    "results": "results",
    "scores": {"one": 0.5, "two": 0.75},
    "models": [{"name": name, "training": {"epochs": 20}} for name in ("one", "two")],
}
OPTIONS = ["--configfile", "results/experiment.yaml", "--rerun-incomplete"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small workflow's folder, with what a run writes down when it begins."""
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").write_text(SNAKEFILE)
    Path("results").mkdir()
    Path("results/experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return tmp_path


def begin(*options: str) -> subprocess.Popen[bytes]:
    """Start Snakemake in a group of its own; what its hook writes down comes, as there, after its log is open."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *OPTIONS, *options]
    logs = {*Path(".snakemake/log").glob("*.snakemake.log")}
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and logs == {*Path(".snakemake/log").glob("*.snakemake.log")}:
        time.sleep(0.01)
    Path("results/workflow.json").write_text(
        json.dumps(
            {"started": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), "commit": "", "config_hash": ""}
        )
    )
    return run


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, list[str]], str]:
    """The words of each line of the table by their first, and the last line."""
    capsys.readouterr()
    status.status(Path("results"))
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split() for line in lines[1:-1]}, lines[-1]


def waited_for(folder: Path, text: str) -> Path:
    """A log in a folder, once it has a text in it."""
    found: list[Path] = []

    def there() -> list[Path]:
        found[:] = [path for path in folder.glob("*.log") if text in path.read_text()]
        return found

    wait_until(there, f"{text} in a log of {folder}")
    return found[0]


@pytest.fixture
def held(checkout: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose first training goes on until it is let go."""
    Path("hold").touch()
    run = begin()
    yield run
    Path("hold").unlink(missing_ok=True)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_a_run_from_its_beginning_to_its_end(held: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    # While a job runs: the lock is there, and Snakemake's marks.
    log = waited_for(Path("results/logs/train"), "45%")
    metrics = Path(f"results/checkpoints/{log.stem}-0123456789ab/metrics.jsonl")
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"step": 4, "epoch": 8, "validation_tanimoto": 0.3512}\n{"step": 5, "epoch": 9, "los')
    rows, last = shown(capsys)
    assert rows["render"][1] == "3/3"
    assert re.fullmatch(r"\d:\d\d", rows["render"][2])
    assert rows["tracking"] == ["tracking", "1/1"]
    running = rf"train 0/2 {log.stem}: validation Tanimoto 0.3512 after epoch 8 of 20; 1 running for \d+:\d\d.*"
    assert re.fullmatch(running, " ".join(rows["train"]))
    assert " ".join(rows[f"{log.stem},"][2:]) == "45% 4/9 steps, [1m3.2/s"
    assert rows["score"] == ["score", "0/2"]
    assert list(rows) == ["render", "tracking", "train", f"{log.stem},", "score", "report"]
    assert re.fullmatch(rf"running since \d\d:\d\d \(process {held.pid}\)", last)
    assert not list(Path(".snakemake/log").iterdir())[1:]  # looking leaves no log

    # Killed without a word: its lock, its marks and its job's shell outlive it.
    os.kill(held.pid, signal.SIGKILL)
    held.wait()
    assert list(Path(".snakemake/locks").iterdir())
    rows, last = shown(capsys)
    assert rows["train"][1] == "0/2"
    assert "running" not in rows["train"]
    assert " ".join(rows[log.stem]).startswith(f"{log.stem} did not end: 45%")
    command = "snakemake --cores 1 " + " ".join(OPTIONS)
    assert last == f"not running, 5 of 9 jobs are left: `{command} --unlock`, then `{command}` goes on from here"
    Path("hold").unlink()
    description = Path(f"results/models/{log.stem}/model.json")
    wait_until(lambda: description.exists() and description.read_text(), "the end of the job that was left")
    for lock in Path(".snakemake/locks").iterdir():
        lock.unlink()

    # Failed.
    Path("fail").touch()
    assert begin().wait() != 0
    rows, last = shown(capsys)
    assert "did not end: ocsrflow.train: error: no GPU" in " ".join(rows.get("one", []) + rows.get("two", []))
    assert last == f"not running, 5 of 9 jobs are left: `{command}` goes on from here"

    # At the end.
    Path("fail").unlink()
    assert begin().wait() == 0
    rows, last = shown(capsys)
    assert {row[1] for row in rows.values()} == {"3/3", "1/1", "2/2"}
    assert " ".join(rows["train"][3:]) == "best: two, validation Tanimoto 0.7500"
    assert " ".join(rows["score"][4:]) == "on held-out: Tanimoto 0.2500"
    assert re.fullmatch(r"finished \d\d:\d\d", last)

    # Another configuration: what follows from it is to be done again, and nothing of it was broken off.
    Path("results/experiment.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "scores": {"one": 0.9, "two": 0.75}}))
    rows, last = shown(capsys)
    assert {stage: row[1] for stage, row in rows.items()} == {
        **{"render": "3/3", "tracking": "1/1", "train": "1/2", "score": "1/2", "report": "0/1"}
    }
    assert "3 of 9 jobs are left" in last


def test_the_command_before_a_run_and_where_it_cannot_tell(checkout: Path) -> None:
    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ocsrflow.status", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    run = told()  # begun, but nothing is there yet
    assert run.returncode == 0, run.stderr
    assert re.search(r"^train +0/2$", run.stdout, flags=re.MULTILINE)
    assert run.stdout.splitlines()[-1] == "not running, 9 of 9 jobs are left: `snakemake ...` goes on from here"
    assert "\033" not in run.stdout
    assert run.stderr == ""
    Path("results/experiment.yaml").write_text("results: results\nscores: {}\n")
    run = told()
    assert run.returncode == 1
    assert run.stderr.startswith("ocsrflow.status: error: Snakemake cannot plan: ")
    assert run.stderr.count("\n") == 1
    run = told("elsewhere")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "elsewhere: no run has started yet (elsewhere/experiment.yaml is not there)\n"


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "scores: 1\n", "\x00", b"\xff"])
def test_a_damaged_description_is_told_in_one_line(checkout: Path, text: str | bytes) -> None:
    Path("results/experiment.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"^results/experiment.yaml: damaged, [^\n]*$"):
        status.status(Path("results"))


def test_results_from_elsewhere_and_a_folder_that_is_no_checkout(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("results").rename("moved")
    with pytest.raises(UserError, match="is of the results in 'results'"):
        status.status(Path("moved"))
    Path("Snakefile").unlink()
    with pytest.raises(UserError, match="no Snakefile here"):
        status.status(Path("moved"))
    status.status(Path())
    assert "give one of: moved" in capsys.readouterr().out


def test_marks_are_read_as_snakemake_writes_them(tmp_path: Path) -> None:
    from snakemake.persistence.file import FilePersistence

    persistence = FilePersistence(path=tmp_path)
    short, long = "results/models/one/ü.json", "results/" + "/".join(["a long folder"] * 60) + "/x"
    persistence._mark_incomplete(short, None)
    persistence._mark_incomplete(long, "1234")
    folder = tmp_path / "incomplete"
    (folder / "migration_underway").touch()
    (folder / base64.urlsafe_b64encode(b"half").decode()).write_text('{"external')
    found = status.markers(folder)
    assert {str(path): mark.submitted for path, mark in found.items()} == {short: False, long: True, "half": False}
    assert all(abs(mark.since - time.time()) < 60 for mark in found.values())
    assert status.markers(tmp_path / "nowhere") == {}


def test_a_lock_of_another_host_or_experiment(tmp_path: Path) -> None:
    (tmp_path / "0.input.lock").write_text("results/b\n")
    (tmp_path / "0.output.lock").write_text("results/a\n")
    host = os.uname().nodename
    assert status.head(tmp_path, {"results/b"}, host) is None
    elsewhere = status.head(tmp_path, {"results/a"}, "login7")
    assert elsewhere is not None
    assert elsewhere.alive
    run = Run(None, None, elsewhere)
    job = Job("train", (Path("results/a"),), None, None, planned=True)
    assert re.fullmatch(
        r"seems to be running since \d\d:\d\d on login7: its lock is there", status.ending([job], {}, run)
    )
    left = status.head(tmp_path, {"results/a"}, host)
    assert left is not None
    assert not left.alive


def test_jobs_of_a_cluster_wait_until_they_write(tmp_path: Path) -> None:
    now = time.time()
    jobs = [Job("train", (tmp_path / f"{n}",), tmp_path / f"{n}.log", None, planned=True) for n in range(11)]
    marked = {job.outputs[0]: Marker(now - 100, submitted=True) for job in jobs}
    for job in jobs[:10]:
        assert job.log
        job.log.write_text(f"at work\r{job.name} of it\n\n")
    run = Run(now - 200, None, Head(now - 150, 1, None))
    lines = list(status.table(jobs, marked, run, {"results": str(tmp_path)}, width=40, bold=True))
    assert lines[1] == "\033[1mtrain     0/11            10 running for\033[0m"
    assert lines[2] == "       0, 1:40: 0 of it"
    assert lines[-1] == "       and 2 more"
    assert max(len(line) for line in lines) <= 48
    # A mark that is older than the run's lock is a killed run's.
    later = Run(now - 50, None, Head(now - 50, 1, None))
    assert status.activity(jobs[10:], marked, later, now) == ([], [])


def test_numbers_of_files_that_are_half_written(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1, "loss": 4.5}\n{"epoch": 2, "loss": 2.1368}\n7\n{"epoch": 2, "lo')
    assert status.training_told(metrics, "one", 20) == "one: loss 2.137 in epoch 2 of 20"
    line = {"epoch": 20, "phase": "minimum_risk", "validation_tanimoto": 0.9}
    metrics.write_text(json.dumps(line))
    assert status.training_told(metrics, "one", 20) == (
        "one: validation Tanimoto 0.9000 after epoch 20 of 20, minimum risk"
    )
    metrics.write_text("")
    assert status.training_told(metrics, "one", 20) is None
    benchmark = tmp_path / "one.tsv"
    assert status.benchmark_seconds(benchmark) == 0
    benchmark.write_text("s\th:m:s\tmax_rss\n268.54\t0:04:28\t1592.34\n1.5\t0:00:01\tNA\n")
    assert status.benchmark_seconds(benchmark) == pytest.approx(270.04)
    benchmark.write_text("s\th:m:s\n26")
    assert status.benchmark_seconds(benchmark) in (0, 26)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00"), (31, "0:31"), (3599.7, "1:00:00"), (90061, "25:01:01"), (-2, "0:00")]
)
def test_times(seconds: float, told: str) -> None:
    assert status.clock(seconds) == told
