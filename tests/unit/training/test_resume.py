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
from ocsrflow.training.checkpoints import KEPT
from safetensors.torch import load_file
from support.attempts import Attempts
from support.faults import FULL, Faults
from support.training import NETWORK, TRAINING, lines, newest, run_train, without_times
from support.waiting import PATIENCE, wait_until

KILLS = 24 if FULL else 8
STEPS = 120  # of the whole training


def test_a_training_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(
    attempts: Attempts, tmp_path: Path, faults: Faults
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert attempts.run(whole, "LONG") == 0
    rng = random.Random(0)
    reached = []
    while newest(killed) < STEPS - 15 and len(reached) < KILLS:
        at = newest(killed) + rng.choice([0, 1, 1, 2, 3])
        child = attempts.begin(killed, "LONG", 0.0)  # a checkpoint after every step
        wait_until(lambda at=at: newest(killed) >= at, f"the checkpoint of step {at}")
        time.sleep(rng.uniform(0, 0.1))  # anywhere in a step, a validation, the writing of a checkpoint
        os.kill(child, signal.SIGKILL)
        assert attempts.end() == -signal.SIGKILL
        reached.append(newest(killed))
    assert len(reached) >= KILLS - 4
    assert len(set(reached)) > KILLS / 4
    with faults.tried("SIGKILL, a checkpoint each step", "train", len(reached)) as fault:
        assert attempts.run(killed, "LONG", 0.0) == 0
        first, second = (load_file(folder / "weights.safetensors") for folder in (whole, killed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert without_times(whole) == without_times(killed)
        assert len(list(killed.glob("checkpoints/*/step-*.pt"))) == KEPT
        (live,) = killed.glob("checkpoints/*/metrics.jsonl")
        assert live.read_text() == (killed / "metrics.jsonl").read_text()
        fault.lost(killed.with_suffix(".steps").stat().st_size - STEPS, "steps")


@pytest.fixture(scope="module")
def whole(attempts: Attempts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert attempts.run(folder, "FOUR_EPOCHS") == 0
    return folder


@pytest.mark.parametrize(("where", "number", "step"), [("step", "SIGTERM", 2), ("validation", "SIGINT", 4)])
def test_a_training_that_gets_a_signal_saves_and_goes_on(
    attempts: Attempts, whole: Path, tmp_path: Path, where: str, number: str, step: int
) -> None:
    folder = tmp_path / "stopped"
    status = attempts.run(folder, "FOUR_EPOCHS", stop=(where, 2, number))
    assert status == 128 + signal.Signals[number].value, attempts.said
    assert f"stopped by {number} at step {step}; saved, the same command goes on from here" in attempts.said
    assert "Traceback" not in attempts.said
    assert newest(folder) == step
    assert attempts.run(folder, "FOUR_EPOCHS") == 0
    assert "going on from" in attempts.said
    assert without_times(folder) == without_times(whole)


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A finished training, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "trained"))


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


def test_checkpoints_after_two_damaged_ones_are_kept(attempts: Attempts, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "damaged")
    kept = sorted(folder.glob("checkpoints/*/step-*.pt"))
    assert len(kept) == KEPT
    for path in kept:
        path.write_bytes(b"damaged")
    assert attempts.run(folder, "FOUR_EPOCHS") == 0
    assert sorted(folder.glob("checkpoints/*/step-*.pt")) == kept


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
    run_train(dataset, tmp_path / "other", network=other, training=TRAINING.model_copy(update={"epochs": 1}))
    (here,) = (trained / "checkpoints").iterdir()
    (there,) = (tmp_path / "other" / "checkpoints").iterdir()
    strange = sorted(there.glob("step-*.pt"))[-1]
    (here / "step-000000099.pt").write_bytes(strange.read_bytes())
    with pytest.raises(UserError, match=r"step-000000099.pt: .* another training \(network, training differ\)"):
        run_train(dataset, trained)


def test_a_finished_training_writes_its_files_again_without_a_step(dataset: Path, trained: Path) -> None:
    expected = {name: (trained / name).read_bytes() for name in ("weights.safetensors", "metrics.jsonl")}
    facts = json.loads((trained / "model.json").read_text())
    for name in expected:
        (trained / name).unlink()
    run_train(dataset, trained)
    assert {name: (trained / name).read_bytes() for name in expected} == expected
    assert json.loads((trained / "model.json").read_text()) == facts
    assert len(lines(trained)) == 4
