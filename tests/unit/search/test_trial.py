"""The stage trial: a training left after a rung and taken up in the next is the ordinary one; failures are results."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ocsrflow.search.results import Result
from ocsrflow.search.trial import trial
from safetensors.torch import load_file
from support.training import NETWORK, TRAINING, run_train, without_times

SPACE = '{"training.decoder_lr": [0.001, 1e30], "training.encoder_lr": {"log": [0.0001, 0.01]}}'
GOOD, BAD = 0, 1  # numbers of trials: with the small learning rate, and with the one that no loss survives
WHOLE = TRAINING.model_copy(update={"epochs": 3, "schedule": "cosine", "ema": 0.9})


def run_trial(dataset: Path, folder: Path, place: int, epochs: int, **more: Any) -> Result:
    settings: dict[str, Any] = {
        "search": "rates",
        "rung": 0,
        "space": SPACE,
        "seed": 1,
        "network": NETWORK,
        "training": WHOLE,
        "checkpoints": folder / "checkpoints",
        "out": folder / f"{place}.json",
    }
    trial(dataset / "images.h5", place=place, epochs=epochs, **(settings | more))
    return Result(**json.loads((folder / f"{place}.json").read_text()))


def test_a_training_that_was_left_and_taken_up_is_the_ordinary_one(dataset: Path, tmp_path: Path) -> None:
    for until in (1, 2, None):
        run_train(dataset, tmp_path / "left", training=WHOLE, until=until)
    run_train(dataset, tmp_path / "whole", training=WHOLE)
    assert without_times(tmp_path / "left") == without_times(tmp_path / "whole")
    left, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("left", "whole"))
    assert all(torch.equal(left[key], whole[key]) for key in whole)
    left, whole = (json.loads((tmp_path / name / "model.json").read_text()) for name in ("left", "whole"))
    assert left["key"] == whole["key"]


def test_a_trial_goes_on_from_the_rung_before_and_ends_as_its_training_would(dataset: Path, tmp_path: Path) -> None:
    first = run_trial(dataset, tmp_path, GOOD, 1)
    assert (first.trial, first.failed, [point["epoch"] for point in first.curve]) == (GOOD, "", [1])
    (tmp_path / "rung-0.json").write_text(f"[{GOOD}]")
    later = {"rung": 1, "promoted": tmp_path / "rung-0.json"}
    last = run_trial(dataset, tmp_path, 0, 3, **later)
    assert (last.trial, last.rung, last.key) == (GOOD, 1, first.key)
    assert last.curve[0] == first.curve[0]  # with its date: that epoch was not trained again
    assert [point["epoch"] for point in last.curve] == [1, 2, 3]
    # Once it is there, nothing is trained: the first rung again, though its training has gone on.
    saved = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*/step-*.pt")}
    again = run_trial(dataset, tmp_path, GOOD, 1)
    assert again.curve == first.curve
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*/step-*.pt")} == saved
    # A place that no trial is left for.
    assert run_trial(dataset, tmp_path, 1, 3, **later).trial is None

    training = WHOLE.model_copy(update={key.split(".")[1]: value for key, value in last.values.items()})
    run_train(dataset, tmp_path / "ordinary", training=training)
    facts = json.loads((tmp_path / "ordinary/model.json").read_text())
    assert facts["key"] == last.key
    assert facts["validation_tanimoto"] == max(point["validation_tanimoto"] for point in last.curve)


def test_a_loss_that_is_no_number_is_a_result(dataset: Path, tmp_path: Path) -> None:
    found = run_trial(dataset, tmp_path, BAD, 1)
    assert found.values["training.decoder_lr"] == 1e30
    assert found.failed.startswith("the loss is nan at step")
    assert len(found.failed) <= 200
    assert found.curve == []


def test_a_batch_that_is_too_large_is_a_result(dataset: Path, tmp_path: Path) -> None:
    found = run_trial(dataset, tmp_path, 0, 1, space='{"training.batch": [4096]}')
    assert "training pictures are less than one batch of 4096" in found.failed


def test_what_the_machine_is_to_blame_for_is_no_result(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run_trial(dataset, tmp_path, 1, 1, gpus=1)  # none is granted
    assert ended.value.code == 1
    assert [*tmp_path.glob("*.json")] == []


def test_a_signal_stops_the_training_and_is_no_result(dataset: Path, tmp_path: Path) -> None:
    training = WHOLE.model_copy(update={"epochs": 5000, "validate_every": 5000})
    options = {
        "search": "rates", "rung": 0, "place": GOOD, "epochs": 5000, "space": SPACE, "seed": 1,
        "network": NETWORK.model_dump_json(), "training": training.model_dump_json(),
        "checkpoints": tmp_path / "checkpoints", "checkpoint-minutes": 0.001, "out": tmp_path / "out.json",
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "ocsrflow", "trial", str(dataset / "images.h5"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        limit = time.monotonic() + 300
        while not [*tmp_path.glob("checkpoints/*/step-*.pt")]:
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        output = process.communicate()[0]
    assert process.returncode == 143, output
    assert "saved, the same command goes on from here" in output
    assert [*tmp_path.glob("*.json")] == []
