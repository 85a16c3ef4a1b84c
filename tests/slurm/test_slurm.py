"""The toy experiment through the profile on a real SLURM, disturbed in all the ways a cluster has."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import yaml
from cluster import GPUS, Cluster
from support.checkout import CHECK_HASHES, copy_checkout
from support.faults import FULL, Fault, Faults
from support.needs import need
from support.processes import described
from support.waiting import wait_until

# There is no accounting here, and nobody is bothered by being asked often.
HASTE = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
HASTE += ["--seconds-between-status-checks", "1", "--latency-wait", "20"]
GPUS_OF = {"one-gpu": 1, "two-gpus": 2}
LONG = 900.0  # seconds; a training has to start, with all its imports, on a busy machine
EXPERIMENT = "tests/slurm/experiment.yaml"
EPOCHS = {"one-gpu": 300, "two-gpus": 200} if FULL else {"one-gpu": 150, "two-gpus": 150}  # to be disturbed in
STEPS = 3  # of an epoch
# All of it, or as far as both models have read pictures.
TARGETS = [] if FULL else [f"results/predictions/held-out/{model}.parquet" for model in GPUS_OF]
DATA = {"filter": 1, "sample": 1, "render": 2, "pack": 1}  # jobs; each shard is one


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """SLURM's daemons, for these tests."""
    for program in ("munged", "slurmctld"):
        need(program)
    if os.getuid():
        pytest.skip("needs root, who may start SLURM's daemons")
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator["SnakemakeRun"]:
    """A checkout on the cluster."""
    made = SnakemakeRun(cluster, tmp_path)
    yield made
    made.process.kill()


class SnakemakeRun:
    """Snakemake, started with the profile as it is."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.started = cluster, copy_checkout(folder), 0
        self.targets = TARGETS
        experiment = yaml.safe_load((self.folder / EXPERIMENT).read_text())
        for model in experiment["models"]:
            model.setdefault("training", {})["epochs"] = EPOCHS[model["name"]]
        (self.folder / EXPERIMENT).write_text(yaml.safe_dump(experiment))

    def command(self, *options: str) -> list[str]:
        profile = ["--workflow-profile", "workflow/profiles/slurm", "--configfile", EXPERIMENT]
        granted = ["--resources", f"gpu={GPUS}", *HASTE]  # targets behind --resources would be more of them
        return [sys.executable, "-m", "snakemake", *profile, *granted, *options, *self.targets]

    def start(self) -> subprocess.Popen[bytes]:
        self.started += 1
        with open(self.folder / f"snakemake-{self.started}.log", "wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.cluster.env, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def unlock(self) -> None:
        subprocess.run(self.command("--unlock"), cwd=self.folder, env=self.cluster.env, check=True, capture_output=True)

    def cancel(self, start: int) -> None:
        """End the jobs that a Snakemake left, as docs/how-to/run-on-a-cluster.md says, and wait for it."""
        run_id = re.search(r"SLURM run ID: (\S+)", self.log(start))
        assert run_id
        self.cluster.run("scancel", "--me", "--name", run_id[1])
        limit = time.monotonic() + 30
        while self.cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING"):
            assert time.monotonic() < limit, self.cluster.run("squeue")
            time.sleep(0.1)

    def log(self, start: int) -> str:
        return (self.folder / f"snakemake-{start}.log").read_text()

    def submitted(self, start: int) -> list[str]:
        """The jobs that went to SLURM, by the first word of their rules."""
        return re.findall(r"submitted with SLURM jobid \d+ \(log: \S*/rule_([a-z]+)", self.log(start))

    def job(self, comment: str) -> str | None:
        """The number of a running job by what Snakemake says of it."""
        for line in self.cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%A %k").splitlines():
            number, rule = line.split(maxsplit=1)
            if rule.strip() == comment:
                return number
        return None

    def training(self, model: str) -> str | None:
        return self.job(f"rule_train_wildcards_{model}")

    def saved(self, model: str) -> int:
        """The step of a training's newest checkpoint."""
        names = (path.stem for path in self.folder.glob(f"results/checkpoints/{model}-*/step-*.pt"))
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def log_of(self, model: str) -> str:
        path = self.folder / f"results/logs/train/{model}.log"
        return path.read_text() if path.is_file() else ""

    def went_on_from(self, model: str) -> int:
        """The step that a training began with, by its log; 0 where it has not begun, or from the start."""
        found = re.search(r"going on from .*, step (\d+)", self.log_of(model))
        return int(found[1]) if found else 0

    def done(self, model: str) -> int:
        """The last step of a training by its figures."""
        texts = [path.read_text() for path in self.folder.glob(f"results/checkpoints/{model}-*/metrics.jsonl")]
        return max((json.loads(line)["step"] for text in texts for line in text.splitlines()), default=0)

    def resumed(self, before: dict[str, int]) -> dict[str, int]:
        """Wait until trainings go on from later steps than before; the steps that each had done and does again."""
        done = dict.fromkeys(before, 0)

        def all_of_them() -> bool:
            now = {model: self.went_on_from(model) for model in before}
            done.update({model: self.done(model) for model in before if now[model] in (0, before[model])})
            return all(now[model] > before[model] for model in before)

        self.until(all_of_them, f"trainings that go on from later steps than {before}")
        return {model: max(0, steps - self.went_on_from(model)) for model, steps in done.items()}

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait, as long as Snakemake lives."""

        def met() -> bool:
            time.sleep(0.2)
            return bool(condition()) or self.process.poll() is not None

        wait_until(met, what, seconds=LONG, details=self.state)
        assert self.process.poll() is None or condition(), f"{what}: Snakemake has ended\n{self.state()}"

    def ended(self, what: str) -> int:
        """Snakemake's exit status, once it has ended."""
        wait_until(lambda: self.process.poll() is not None, what, seconds=LONG, details=self.state)
        return self.process.wait()

    def state(self) -> str:
        """What one needs to know of a failure: all that SLURM, Snakemake and the jobs say, and what is at work."""
        logs = [self.folder / f"snakemake-{self.started}.log", *self.folder.glob("results/logs/train/*.log")]
        logs += [*self.folder.glob(".snakemake/slurm_logs/**/*.log")]
        logs += [self.cluster.folder / f"{daemon}.log" for daemon in ("slurmctld", "slurmd")]
        ours = [process for process in psutil.process_iter() if in_folder(process, self.folder)]
        parts = {
            "squeue": self.cluster.run("squeue", "--steps", check=False) + self.cluster.run("squeue", check=False),
            "scontrol": self.cluster.run("scontrol", "show", "job", "-d", check=False),
            "processes": described(ours),
            **{str(path): path.read_text(errors="replace")[-4000:] for path in logs if path.is_file()},
        }
        return "\n".join(f"--- {name}\n{text}" for name, text in parts.items())


class Watch(threading.Thread):
    """Looks all the time at which GPUs SLURM has given to which job, and at how many processes draw one shard."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(daemon=True)
        self.cluster, self.folder, self.ended = cluster, folder, threading.Event()
        self.drawing: Counter[int] = Counter()  # at most, by the process of the stage
        self.seen: dict[str, set[int]] = {}  # GPUs of each job
        self.together: list[dict[str, set[int]]] = []  # those of one moment

    def run(self) -> None:
        while not self.ended.wait(0.5):
            now: dict[str, set[int]] = {}
            for job in self.cluster.run("scontrol", "show", "job", "-d", check=False).split("\n\n"):
                if "JobState=RUNNING" in job and (given := re.search(r"GRES=gpu:\w+:\d+\(IDX:([\d,-]+)\)", job)):
                    now[re.search(r"JobId=(\d+)", job)[1]] = numbers(given[1])
            self.seen |= now
            self.together.append(now)
            self.drawing |= Counter(filter(None, (draws_for(one, self.folder) for one in psutil.process_iter())))


def draws_for(process: psutil.Process, folder: Path) -> int | None:
    """The process of the stage ``render`` that has this one draw some of its pictures; None for all others."""
    try:
        if "pebble_pool_worker" in process.cmdline() and in_folder(process, folder):
            parent = process.parent()
            return parent.pid if parent and "render" in parent.cmdline() else None
    except psutil.Error:
        pass
    return None


def numbers(text: str) -> set[int]:
    """SLURM's ``0,2-3`` as numbers."""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}


def test_the_experiment_runs_on_slurm_and_loses_nothing(cluster: Cluster, run: SnakemakeRun, faults: Faults) -> None:
    watch = Watch(cluster, run.folder)
    watch.start()

    # Snakemake is killed while both trainings are on. Their jobs are at work still when the next one begins.
    with faults.tried("SLURM: SIGKILL of Snakemake", "train", 2) as fault:
        process = run.start()
        run.until(lambda: all(run.saved(model) for model in GPUS_OF), "checkpoints of both trainings")
        left = {model: run.training(model) for model in GPUS_OF}
        assert all(left.values())
        asked = {number: GPUS_OF[model] for model, number in left.items()}
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)
        assert {model: run.training(model) for model in GPUS_OF} == left, "the jobs do not need their Snakemake"
        run.cancel(1)
        run.unlock()
        process = run.start()
        fault.lost(sum(run.resumed(dict.fromkeys(GPUS_OF, 0)).values()), "steps")
        submitted = Counter(run.submitted(1))
        assert {rule: submitted[rule] for rule in (*DATA, "train")} == {**DATA, "train": 2}
        assert not {*DATA} & {*run.submitted(2)}, "only what is missing is submitted"

    if FULL:
        with faults.tried("SLURM: SIGTERM of Snakemake, twice", "train", 2) as fault:
            before = {model: run.went_on_from(model) for model in GPUS_OF}
            run.until(lambda: all(run.saved(model) > before[model] for model in GPUS_OF), "new checkpoints")
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert run.ended("the end of Snakemake after SIGTERM") == 1
            assert "Traceback" not in run.log(2)
            run.cancel(2)
            process = run.start()
            fault.lost(sum(run.resumed(before).values()), "steps")

    # One is put back into the queue by SLURM; the other reaches its time limit, and is cancelled in its next job.
    before = {model: run.went_on_from(model) for model in GPUS_OF}
    again = {model: run.training(model) for model in GPUS_OF}
    asked |= {number: GPUS_OF[model] for model, number in again.items()}
    run.until(lambda: all(run.saved(model) > before[model] for model in GPUS_OF), "new checkpoints")
    with (
        faults.tried("SLURM: job requeued", "train") as requeued,
        faults.tried("SLURM: time limit", "train") if FULL else nullcontext(Fault(0)) as limited,
    ):
        number = str(again["two-gpus"])
        cluster.run("scontrol", "requeue", number)
        if FULL:  # less than the five minutes before the end at which the profile wants to be told
            cluster.run("scontrol", "update", f"JobId={again['one-gpu']}", "TimeLimit=2")
        # SLURM leaves a requeued job two minutes of rest, which are not needed here.
        run.until(lambda: "PENDING" in cluster.run("squeue", "--jobs", number, "--format=%T"), "the requeued job")
        cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now")
        lost = run.resumed(before if FULL else {"two-gpus": before["two-gpus"]})
        assert "Restarts=1" in cluster.run("scontrol", "show", "job", number)
        requeued.lost(lost["two-gpus"], "steps")
        limited.lost(lost.get("one-gpu", 0), "steps")
    if FULL:
        with faults.tried("SLURM: job cancelled", "train") as cancelled:
            before = {"one-gpu": run.went_on_from("one-gpu")}
            run.until(lambda: run.saved("one-gpu") > before["one-gpu"], "a new checkpoint")
            cluster.run("scancel", str(run.training("one-gpu")))
            cancelled.lost(run.resumed(before)["one-gpu"], "steps")

    assert run.ended("the end of the experiment") == 0, run.state()
    watch.ended.set()
    watch.join()

    assert max(watch.drawing.values(), default=0) >= 2, "the cores of a job draw its shard together"

    # Each job had as many GPUs as it asked for, and none that another had at that time.
    assert {number: len(watch.seen[number]) for number in asked} == asked
    assert max(len(now) for now in watch.together) >= 2
    for now in watch.together:
        assert sum(map(len, now.values())) == len(set().union(*now.values()))
    visible = dict(line.split()[1:] for line in (cluster.folder / "gpus-seen").read_text().splitlines())
    assert {number: len(visible[number].split(",")) for number in asked} == asked

    results = run.folder / "results"
    for model in GPUS_OF:
        steps = [json.loads(line) for line in (results / f"models/{model}/metrics.jsonl").read_text().splitlines()]
        reached = [line["step"] for line in steps if "loss" in line]
        assert reached == sorted({*reached}), "no step twice"
        assert reached[-1] == STEPS * EPOCHS[model]
        assert json.loads((results / f"models/{model}/model.json").read_text())["slurm_job"]
    assert (results / "report/index.html").is_file() == FULL
    assert cluster.queue() == ""
    assert not [process for process in psutil.process_iter() if in_folder(process, run.folder)]
    subprocess.run(["bash", "-c", CHECK_HASHES], cwd=results, check=True)


if FULL:  # its rules are the same as everywhere, so make test leaves it to make test-slurm

    def test_a_search_runs_on_slurm(cluster: Cluster, run: SnakemakeRun) -> None:
        experiment = yaml.safe_load((run.folder / EXPERIMENT).read_text())
        experiment["training"]["validate_every"] = 1
        space = {"training.encoder_lr": {"log": [1e-4, 1e-2]}}
        experiment["searches"] = [{"name": "rates", "model": "one-gpu", "space": space, "trials": 3, "rungs": [1, 2]}]
        (run.folder / EXPERIMENT).write_text(yaml.safe_dump(experiment))
        run.targets = ["results/searches/rates/table.csv"]
        run.start()
        assert run.ended("the end of the search") == 0, run.state()
        assert Counter(run.submitted(1))["trial"] == 4, "three trials, and the best of them goes on"
        rows = (run.folder / "results/searches/rates/table.csv").read_text().splitlines()[1:]
        assert [row.split(",")[2] for row in rows] == ["finished", "dropped", "dropped"]
        assert cluster.queue() == ""


def in_folder(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except psutil.Error:
        return False
