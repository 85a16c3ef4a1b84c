"""The launcher, with real torchrun on the CPU, a tiny worker, and GPUs that only a made-up nvidia-smi knows."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from ocsrflow.runtime.cli import command_line
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.gpu_lease import MADE_UP, Lease
from ocsrflow.training.launch import launch
from support.processes import lives, program
from support.waiting import PATIENCE, wait_until

WORKER = """
import os, signal, sys, time
from pathlib import Path
from ocsrflow.runtime.gpu_lease import die_with_parent
die_with_parent()
what, folder, seconds = sys.argv[1:]
rank, got = os.environ["RANK"], []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, _: got.append(number))
def write(name, text):
    Path(folder, "part" + rank).write_text(text)
    Path(folder, "part" + rank).rename(Path(folder, name + rank))
write("ready", f"{os.getpid()} {os.environ['WORLD_SIZE']} {os.environ['CUDA_VISIBLE_DEVICES']}")
if what == "succeeds":
    sys.exit(0)
if what == "fails" and rank == "0":
    print("worker: error: one clear line", file=sys.stderr)
    sys.exit(1)
if what == "dies" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
while not got:
    time.sleep(0.02)
time.sleep(float(seconds))
write("saved", " ".join(number.name for number in map(signal.Signals, got)))
sys.exit(143)
"""
LISTED = "GPU 0: Made-up (UUID: GPU-a)\nGPU 1: Made-up (UUID: GPU-b)\n"
# The workers are no command of ocsrflow, which would take seconds to begin.
START = """
from ocsrflow.runtime.cli import run
from ocsrflow.training import launch

launch.PROGRAM = ("-m",)
launch.GRACE = {grace}
run(launch.launch, name="ocsrflow launch")
"""


class Run:
    """One launcher, in a process group of its own."""

    started: ClassVar[list["Run"]] = []

    def __init__(
        self, folder: Path, *options: str, what: str = "saves", seconds: float = 1.0, grace: int = 300
    ) -> None:
        self.folder = Path(folder, f"run{len(list(folder.glob('run*')))}")
        self.folder.mkdir()
        command = [
            sys.executable,
            "-c",
            START.format(grace=grace),
            *options,
            "--",
            "worker",
            what,
            str(self.folder),
        ]
        path = f"{folder}/bin:{os.environ['PATH']}"
        modules = [str(folder), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [*command, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": path, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(modules)},
        )
        self.started.append(self)

    def ready(self, ranks: int = 2) -> list[str]:
        """What the workers wrote when they were ready."""
        return [self._wait_for(f"ready{rank}") for rank in range(ranks)]

    def saved(self) -> list[str]:
        """The signals that the workers got before they saved."""
        return [path.read_text() for path in sorted(self.folder.glob("saved*"))]

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        error = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, error

    def _wait_for(self, name: str) -> str:
        wait_until(lambda: (self.folder / name).exists() or self.process.poll() is not None, name)
        assert (self.folder / name).exists(), self.end()
        return (self.folder / name).read_text()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with two GPUs, and the worker; no launcher survives the test, and no worker its launcher."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(MADE_UP, "1")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "worker.py").write_text(WORKER)
    program(tmp_path / "bin/nvidia-smi", f"printf '{LISTED}'")
    yield tmp_path
    for run in Run.started:
        run.process.kill()
        run.process.communicate()
    Run.started.clear()


def test_signals_end_in_a_checkpoint(machine: Path) -> None:
    terminated = Run(machine, "--gpus", "2", "--granted", "2")
    interrupted = Run(machine, "--gpus", "0", "--processes", "2")
    warned = Run(machine, "--gpus=0", "--processes=2")
    slow = Run(machine, "--gpus", "0", "--processes", "2", seconds=100, grace=1)
    killed = Run(machine, "--gpus", "0", "--processes", "2")
    assert [line.split()[1:] for line in terminated.ready()] == [["2", "GPU-a,GPU-b"]] * 2
    waiting = Run(machine, "--gpus", "1")
    assert [line.split()[1:] for line in interrupted.ready()] == [["2"]] * 2

    assert waiting.process.stderr is not None
    assert waiting.process.stderr.readline() == "waiting for 1 of 2 GPUs: other jobs have them\n"
    warned.ready()
    terminated.process.terminate()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    warned.process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)  # they save: whoever is impatient does not disturb them
    waiting.process.terminate()
    for run in (terminated, interrupted, warned):
        run.process.send_signal(signal.SIGINT)
        run.process.terminate()
    for run, status in ((terminated, 143), (interrupted, 130), (warned, 143)):
        assert run.end() == (status, "")
        assert run.saved() == ["SIGTERM"] * 2
    assert waiting.end() == (143, "")
    Lease(["GPU-a", "GPU-b"], 2, machine / "tmp" / f"ocsrflow-gpus-{os.getuid()}").release()

    slow.ready()
    slow.process.terminate()
    assert slow.end() == (143, "")  # the grace is over before they saved
    assert slow.saved() == []

    workers = [int(line.split()[0]) for line in killed.ready()]
    killed.process.kill()
    killed.process.wait()
    wait_until(lambda: not any(map(lives, workers)), f"the end of {workers}, whose launcher was killed")


def test_one_line_for_a_failure(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = Run(machine, "--gpus", "0", "--processes", "2", what="fails", seconds=0)
    dies = Run(machine, "--gpus", "0", "--processes", "2", what="dies", seconds=0)
    assert fails.end() == (1, "worker: error: one clear line\n")
    assert dies.end() == (
        3,  # as a training that fails by its settings
        "ocsrflow launch: error: rank 1 was killed by SIGKILL; it may have been out of memory: "
        "give the job more, or lower training.batch\n",
    )
    assert dies.saved() == ["SIGTERM"]  # the other one was asked to go

    program(machine / "bin/nvidia-smi", "echo 'No devices were found'; exit 6")
    status, error = Run(machine, "--gpus", "2", "--granted", "2", what="succeeds").end()
    assert status == 1
    assert error.startswith("ocsrflow launch: error: a GPU is asked for, but none can be used here: nvidia-smi fails")
    assert len(error.splitlines()) == 1
    program(machine / "bin/nvidia-smi", f"printf '{LISTED}'")
    monkeypatch.delenv(MADE_UP)
    status, error = Run(machine, "--gpus", "1", "--granted", "1", what="succeeds").end()
    assert status == 1
    assert re.fullmatch("ocsrflow launch: error: PyTorch .* finds no GPU.*; set gpus: 0 .*\n", error)
    assert [path.name for path in (machine / "tmp").iterdir()] == [f"ocsrflow-gpus-{os.getuid()}"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            ["--gpus", "2", "--granted", "1"],
            "2 GPUs are asked for, but Snakemake granted 1: give --resources gpu=2 or more, or lower the models' gpus",
        ),
        (["--gpus", "2", "--processes", "1"], "1 processes for 2 GPUs"),
    ],
)
def test_what_cannot_be_is_reported(
    options: list[str], problem: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(UserError, match=problem):
        command_line(launch, "ocsrflow launch")([*options, "--", "worker"])
