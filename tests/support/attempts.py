"""Trainings that are stopped or killed, each in a fork of one process: imports take longer than such a training."""

import json
import subprocess
import sys
from pathlib import Path

from support.checkout import TESTS

SCRIPT = """
import json, os, signal, sys, traceback
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from support import training
from ocsrflow.training import trainer
from ocsrflow.training.engine import Engine
from ocsrflow.training.risk import RiskEngine
torch.set_num_threads(1)
PLACES = {"step": (Engine, "step"), "risk step": (RiskEngine, "step"), "validation": (trainer, "validate")}
def stop(where, calls, number):
    owner, name = PLACES[where]
    real, seen = getattr(owner, name), [0]
    def stopping(*words):
        seen[0] += 1
        if seen[0] == calls:
            signal.raise_signal(getattr(signal, number))
        return real(*words)
    setattr(owner, name, stopping)
def train(folder, name, minutes, where):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as the command line does
    count = os.open(folder + ".steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = Engine.step
    def step(*words):
        os.write(count, b".")
        return real(*words)
    Engine.step = step
    if where:
        stop(*where)
    options = {"training": getattr(training, name), "checkpoint_minutes": minutes, "threads": 1}
    training.run_train(Path(sys.argv[2]), Path(folder), **options)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(*json.loads(line))
            status = 0
        except SystemExit as left:
            status = left.code
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(status)
    print("@", child, flush=True)
    print("@", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Attempts:
    """A process whose forks train, each until it is done, stopped or killed."""

    def __init__(self, dataset: Path) -> None:
        command = [sys.executable, "-c", SCRIPT, str(TESTS), str(dataset)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = ""  # by the last attempt

    def begin(
        self, folder: Path, training: str, minutes: float = 10.0, stop: tuple[str, int, str] | None = None
    ) -> int:
        """Start one; its process.

        Parameters
        ----------
        folder
            Where it writes; beside it, in ``FOLDER.steps``, there is a byte for each step of any attempt.
        training
            Name of a training in ``support.training``.
        minutes
            Between its checkpoints.
        stop
            Where it sends itself a signal: a step, a risk step or a validation; at which call; which signal.
        """
        assert self.process.stdin is not None
        self.said = ""
        self.process.stdin.write(json.dumps([str(folder), training, minutes, stop]) + "\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        """Wait for it; its exit status, or that of the signal below zero."""
        return self._number()

    def run(self, folder: Path, training: str, minutes: float = 10.0, stop: tuple[str, int, str] | None = None) -> int:
        """Both."""
        self.begin(folder, training, minutes, stop)
        return self.end()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _number(self) -> int:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("@ "):
            assert line, f"the process that forks has ended\n{self.said}"
            self.said += line
        return int(line.removeprefix("@ "))
