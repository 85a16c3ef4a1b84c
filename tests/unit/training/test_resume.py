"""A training that was stopped, killed or damaged goes on where it was."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ocsrflow.runtime.errors import UserError
from ocsrflow.training.checkpoints import KEPT, Checkpoints
from safetensors.torch import load_file
from support.checkout import TESTS
from support.faults import FULL, Faults
from support.training import NETWORK, TRAINING, lines, run_train, without_times
from support.waiting import PATIENCE, wait_until

KILLS = 24 if FULL else 8
STEPS = 120  # of the whole training

# Imports take longer than the whole training, so one process does them, and each attempt is a fork of it.
ATTEMPTS = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from support.training import LONG, run_train
from ocsrflow.training.engine import Engine
torch.set_num_threads(1)
real = Engine.step
def step(*words):
    os.write(count, b".")
    return real(*words)
Engine.step = step
for line in sys.stdin:
    folder, words = line.split()[0], line.split()[1:]
    child = os.fork()
    if child == 0:
        count = os.open(folder + ".steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        run_train(Path(sys.argv[2]), Path(folder), training=LONG, checkpoint_minutes=float(words[0]), threads=1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def newest(folder: Path) -> int:
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/*/step-*.pt")), default=0)


class Attempts:
    """A process whose forks train, each until it is done or killed."""

    def __init__(self, dataset: Path) -> None:
        command = [sys.executable, "-c", ATTEMPTS, str(TESTS), str(dataset)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, folder: Path, minutes: float) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {minutes}\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).strip().lstrip("-").isdigit():
            assert line, "the process that forks has ended"
        return line


def test_a_training_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(
    dataset: Path, tmp_path: Path, faults: Faults
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    attempts = Attempts(dataset)
    attempts.begin(whole, 10.0)
    assert attempts.end() == 0
    rng = random.Random(0)
    reached = []
    while newest(killed) < STEPS - 15 and len(reached) < KILLS:
        at = newest(killed) + rng.choice([0, 1, 1, 2, 3])
        child = attempts.begin(killed, 0.0)  # a checkpoint after every step
        wait_until(lambda at=at: newest(killed) >= at, f"the checkpoint of step {at}")
        time.sleep(rng.uniform(0, 0.1))  # anywhere in a step, a validation, the writing of a checkpoint
        os.kill(child, signal.SIGKILL)
        assert attempts.end() == -signal.SIGKILL
        reached.append(newest(killed))
    assert len(reached) >= KILLS - 4
    assert len(set(reached)) > KILLS / 4
    with faults.tried("SIGKILL, a checkpoint each step", "train", len(reached)) as fault:
        attempts.begin(killed, 0.0)
        assert attempts.end() == 0
        first, second = (load_file(folder / "weights.safetensors") for folder in (whole, killed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert without_times(whole) == without_times(killed)
        assert len(list(killed.glob("checkpoints/*/step-*.pt"))) == KEPT
        (live,) = killed.glob("checkpoints/*/metrics.jsonl")
        assert live.read_text() == (killed / "metrics.jsonl").read_text()
        fault.lost(killed.with_suffix(".steps").stat().st_size - STEPS, "steps")


STOPS_ITSELF = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.training import TRAINING, run_train
from ocsrflow.training import trainer
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as the command line does
where, seen = sys.argv[4], [0]
real = {"step": trainer.Engine.step, "validation": trainer.validate}[where]
def stopping(*args):
    seen[0] += 1
    if seen[0] == 2:
        signal.raise_signal(getattr(signal, sys.argv[5]))
    return real(*args)
if where == "step":
    trainer.Engine.step = stopping
else:
    trainer.validate = stopping
training = TRAINING.model_copy(update={"epochs": 4})
run_train(Path(sys.argv[2]), Path(sys.argv[3]), training=training)
"""


@pytest.mark.parametrize(("where", "number", "step"), [("step", "SIGTERM", 2), ("validation", "SIGINT", 4)])
def test_a_training_that_gets_a_signal_saves_and_goes_on(
    dataset: Path, tmp_path: Path, where: str, number: str, step: int
) -> None:
    folder = tmp_path / "stopped"
    command = [sys.executable, "-c", STOPS_ITSELF, TESTS, dataset, folder, where, number]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 128 + signal.Signals[number].value, run.stderr
    assert f"stopped by {number} at step {step}; saved, the same command goes on from here" in run.stdout
    assert "Traceback" not in run.stderr
    assert newest(folder) == step
    training = TRAINING.model_copy(update={"epochs": 4})
    run_train(dataset, folder, training=training)
    run_train(dataset, tmp_path / "whole", training=training)
    assert without_times(folder) == without_times(tmp_path / "whole")


@pytest.fixture(scope="module")
def once(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training."""
    folder = tmp_path_factory.mktemp("once")
    run_train(dataset, folder)
    return folder


@pytest.fixture
def trained(once: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(once, tmp_path / "trained"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    dataset: Path, trained: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    expected = load_file(trained / "weights.safetensors")
    path = sorted(trained.glob("checkpoints/*/step-*.pt"))[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:1000], "flipped": data, "empty": b""}[damage])
    run_train(dataset, trained)
    said = capsys.readouterr().out
    assert f"warning: {path} is damaged" in said
    assert "going on from the one before" in said
    assert "tiny: going on from" in said
    assert path.with_suffix(".damaged").exists()
    again = load_file(trained / "weights.safetensors")
    assert all(torch.equal(expected[name], again[name]) for name in expected)


def test_checkpoints_after_two_damaged_ones_are_kept(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 3})
    run_train(dataset, tmp_path, training=training)
    for path in tmp_path.glob("checkpoints/*/step-*.pt"):
        path.write_bytes(b"damaged")
    run_train(dataset, tmp_path, training=training)
    assert sorted(path.name for path in tmp_path.glob("checkpoints/*/step-*.pt")) == [
        "step-000000004.pt",
        "step-000000006.pt",
    ]


def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(dataset: Path, trained: Path) -> None:
    path = sorted(trained.glob("checkpoints/*/step-*.pt"))[-1]
    path.unlink()
    path.mkdir()  # as a root user may read any file
    with pytest.raises(IsADirectoryError):
        run_train(dataset, trained)


def test_two_processes_at_one_training_are_reported(dataset: Path, trained: Path) -> None:
    (folder,) = (trained / "checkpoints").iterdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is at this training already"):
            run_train(dataset, trained)


def test_two_processes_that_get_a_signal_save_and_one_goes_on(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 500, "validate_every": 500})
    options = {
        "out": tmp_path / "weights.safetensors",
        "metrics": tmp_path / "metrics.jsonl",
        "description": tmp_path / "model.json",
        "network": NETWORK.model_dump_json(),
        "training": training.model_dump_json(),
        "checkpoints": tmp_path / "checkpoints",
        "threads": 2,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "ocsrflow", "launch", "--gpus", "0", "--processes"]

    def logged() -> int:
        return sum(path.read_text().count("\n") for path in tmp_path.glob("checkpoints/*/metrics.jsonl"))

    for processes, going_on in ((2, False), (1, True)):
        before, seen = newest(tmp_path), logged()
        run = subprocess.Popen(
            [*command, str(processes), "--", "train", str(dataset / "images.h5"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda run=run, seen=seen: logged() > seen or run.poll() is not None, "a line more than before")
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=PATIENCE)
        assert run.returncode == 128 + signal.SIGTERM, err
        assert out.count("stopped by SIGTERM") == 1
        assert "Traceback" not in err
        assert ("going on from" in out) is going_on
        assert newest(tmp_path) > before


def test_a_changed_learning_rate_starts_afresh_and_other_threads_or_checkpoints_do_not(
    dataset: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(dataset, trained, training=TRAINING.model_copy(update={"encoder_lr": 1e-4}))
    assert "going on from" not in capsys.readouterr().out
    assert len(list((trained / "checkpoints").iterdir())) == 2
    run_train(dataset, trained, name="tiny", threads=2, checkpoint_minutes=3.0)
    assert "going on from" in capsys.readouterr().out
    assert len(list((trained / "checkpoints").iterdir())) == 2


def test_the_checkpoint_of_another_training_is_refused_by_what_differs(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    other = NETWORK.model_copy(update={"dim": 16})
    run_train(dataset, tmp_path / "other", network=other)
    (here,) = (trained / "checkpoints").iterdir()
    (there,) = (tmp_path / "other" / "checkpoints").iterdir()
    strange = sorted(there.glob("step-*.pt"))[-1]
    (here / "step-000000099.pt").write_bytes(strange.read_bytes())
    with pytest.raises(UserError, match=r"step-000000099.pt: the checkpoint of another training \(network differs\)"):
        run_train(dataset, trained)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"key": "k", "settings": {}, "state": Evil()}, tmp_path / "step-000000001.pt")
    assert Checkpoints(tmp_path, "k", {}).newest() is None
    assert not (tmp_path / "executed").exists()
    assert "is damaged" in capsys.readouterr().out


def test_a_finished_training_writes_its_files_again_without_a_step(dataset: Path, trained: Path) -> None:
    expected = {name: (trained / name).read_bytes() for name in ("weights.safetensors", "metrics.jsonl")}
    facts = json.loads((trained / "model.json").read_text())
    for name in expected:
        (trained / name).unlink()
    run_train(dataset, trained)
    assert {name: (trained / name).read_bytes() for name in expected} == expected
    assert json.loads((trained / "model.json").read_text()) == facts
    assert len(lines(trained)) == 4
