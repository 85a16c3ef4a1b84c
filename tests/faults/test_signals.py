"""Snakemake itself killed or told to stop: its jobs go with it, the GPU is free again, and the next run goes on."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from ocsrflow.runtime.gpu_lease import MADE_UP
from safetensors.torch import load_file
from support.checkout import CONFIG
from support.data import TINY
from support.faults import FULL, Faults
from support.processes import described, hear_ctrl_c, program
from support.waiting import wait_until

GPU = "GPU-00000000-0000-0000-0000-000000000000"
MODEL = "results/models/tiny"
SIGNALS = [signal.SIGKILL, signal.SIGTERM, *([signal.SIGINT, signal.SIGHUP] if FULL else [])]
ROUNDS = 2 if FULL else 1


class Run:
    """A copy of the finished toy experiment with one more model, which is all that is left to be made."""

    def __init__(self, toy: Path, folder: Path) -> None:
        self.folder = folder / "checkout"
        shutil.copytree(toy, self.folder)
        config = yaml.safe_load((toy / CONFIG).read_text())
        training = {"batch": 16, "epochs": 40, "validation_size": 8, "validate_every": 20, "decode_length": 15}
        model = {"name": "tiny", "dataset": "short", "gpus": 1, "network": TINY.model_dump(), "training": training}
        config |= {"models": [*config["models"], model], "checkpoints": {"minutes": 0.02}}
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(config))
        # A GPU that is made up: it can be leased, and PyTorch trains on the CPU.
        program(folder / "bin/nvidia-smi", f"echo 'GPU 0: made up (UUID: {GPU})'")
        (folder / "tmp").mkdir()
        self.locks = folder / "tmp" / f"ocsrflow-gpus-{os.getuid()}"
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "TMPDIR": str(folder / "tmp"), MADE_UP: "1"}

    def command(self, *options: str) -> list[str]:
        options = (*options, "--cores", "2", "--resources", "gpu=1", "--configfile", "experiment.yaml")
        options = (*options, "--max-threads", "1")  # threads that wait for one another take minutes on a busy machine
        return [sys.executable, "-m", "snakemake", *options, "--rerun-incomplete", f"{MODEL}/weights.safetensors"]

    def start(self) -> subprocess.Popen[bytes]:
        """Snakemake in a session of its own; only itself gets the signals that are sent to it."""
        with open(self.folder / "log", "wb") as log:
            return subprocess.Popen(
                self.command(), cwd=self.folder, env=self.env, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=hear_ctrl_c,
            )  # fmt: skip

    def output(self) -> str:
        """What is at work, and the logs of Snakemake and of the training, for a failure."""
        logs = [self.folder / "log", self.folder / "results/logs/train/tiny.log"]
        texts = [f"{path}:\n{path.read_text()[-5000:]}" for path in logs if path.is_file()]
        return "\n".join([described(self.processes()), *texts])

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, details=self.output)

    def ended(self, snakemake: "subprocess.Popen[bytes]", what: str) -> int:
        """The exit status of a Snakemake, once it has ended."""
        self.wait_until(lambda: snakemake.poll() is not None, what)
        return snakemake.wait()

    def once(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*options), cwd=self.folder, env=self.env, capture_output=True, text=True)

    def processes(self) -> list[psutil.Process]:
        """Whatever is at work in the folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == self.folder:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        names = (path.stem for path in self.folder.glob("results/checkpoints/tiny-*/step-*.pt"))
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def reached(self) -> int:
        """The last step that is known to be done."""
        return max(self.saved(), *(line["step"] for line in self.lines("results/checkpoints/tiny-*/metrics.jsonl")))

    def lines(self, pattern: str) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.folder.glob(pattern) for line in path.read_text().splitlines()]

    def gpu_is_free(self) -> bool:
        with open(self.locks / f"{GPU}.lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def went_on_from(self) -> int:
        """The step that the last training began with, by its log."""
        text = (self.folder / "results/logs/train/tiny.log").read_text()
        return int(text.partition("going on from ")[2].partition(", step ")[2].split("\n")[0] or 0)

    def made(self) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """Weights and figures of the finished training."""
        timed = {"time", "images_per_second", "data_wait", "teraflops"}
        lines = self.lines(f"{MODEL}/metrics.jsonl")
        figures = [{key: value for key, value in line.items() if key not in timed} for line in lines]
        return load_file(self.folder / MODEL / "weights.safetensors"), figures

    def forget(self) -> None:
        """As if it had never been trained."""
        shutil.rmtree(self.folder / MODEL, ignore_errors=True)
        for folder in self.folder.glob("results/checkpoints/tiny-*"):
            shutil.rmtree(folder)


@pytest.fixture
def run(toy: Path, tmp_path: Path) -> Iterator[Run]:
    """A run that is gone after the test, whatever happened."""
    made = Run(toy, tmp_path)
    yield made
    for process in made.processes():
        process.kill()


def test_snakemake_stopped_and_killed_and_two_at_once(run: Run, faults: Faults) -> None:
    # The undisturbed training; a second Snakemake is started while it is on.
    with faults.tried("two Snakemakes in one folder", "train"):
        first = run.start()
        run.wait_until(lambda: run.saved() > 0 or first.poll() is not None, "the first checkpoint")
        at_work = run.processes()
        for process in at_work:  # so that it does not end meanwhile
            process.suspend()
        second = run.once()
        for process in at_work:
            process.resume()
        assert second.returncode == 1, second.stdout + second.stderr
        assert "Traceback" not in second.stderr
        assert "lock" in second.stderr
        assert run.ended(first, "the end of the training") == 0, run.output()
        weights, figures = run.made()
        assert figures[-1]["step"]

    for _ in range(ROUNDS):
        run.forget()
        for number in SIGNALS:
            with faults.tried(f"{number.name} of Snakemake", "train") as fault:
                before = run.saved()
                snakemake = run.start()
                run.wait_until(lambda before=before: run.saved() > before, f"a checkpoint after step {before}")
                assert not run.gpu_is_free()
                snakemake.send_signal(number)
                if number != signal.SIGKILL:  # an impatient user
                    time.sleep(0.05)
                    snakemake.send_signal(number)
                run.ended(snakemake, f"the end of Snakemake after {number.name}")
                assert "Traceback" not in (run.folder / "log").read_text()
                run.wait_until(lambda: not run.processes(), f"the end of its jobs after {number.name}")
                assert run.gpu_is_free()
                fault.lost(run.reached() - run.saved(), "steps")
            if number == signal.SIGKILL:  # which leaves Snakemake's lock
                assert run.once("--unlock").returncode == 0
        finished = run.once()
        assert finished.returncode == 0, finished.stderr
        assert run.went_on_from() > 0
        ours, lines = run.made()
        assert lines == figures
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[name], weights[name]) for name in weights)
