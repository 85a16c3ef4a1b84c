"""The stages speed_training and speed_prediction, with real processes on the CPU."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ocsrflow.config import experiment as config
from ocsrflow.config.reading import Reading
from ocsrflow.config.training import Training
from ocsrflow.evaluation import clocked_training, speed_training
from ocsrflow.evaluation import speed_prediction as prediction_stage
from ocsrflow.evaluation.speed_prediction import SideBySide
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import TrainingFailed, UserError
from support.data import TINY, make_model
from support.processes import program

TRAINING = Training(batch=16, decode_length=10)


def measure(dataset: Path, out: Path, **changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"name": "tiny", "network": TINY, "training": TRAINING, "processes": [1, 2]} | changed
    speed_training.speed_training(dataset / "images.h5", out=out, **settings)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_one_process_and_two_train_on_the_cpu(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = measure(dataset, tmp_path / "s.json", processes=[1, 2, 3, 32], steps=5, threads=2)
    one, two, three, many = found["rows"]
    assert [row["processes"] for row in found["rows"]] == [1, 2, 3, 32]
    for row in (one, two):
        assert row["device"] == found["device"] == "CPU, 2 threads"
        assert (row["steps"], len(row["windows"])) == (5, 1)
        assert row["images_per_second"] == pytest.approx(row["windows"][0], rel=1e-2)
        assert row["images_per_second"] * row["step_seconds"] == pytest.approx(16, rel=1e-2)
        assert 0 <= row["data_wait"] < 1
        assert row["teraflops"] > 0
        assert "gpu_memory_gib" not in row
    assert one["speed_up"] == one["efficiency"] == 1
    assert two["efficiency"] == pytest.approx(two["speed_up"] / 2, abs=1e-3)
    assert three == {"processes": 3, "not_measured": "only 2 threads here"}
    assert many == {"processes": 32, "not_measured": "a step has only 16 pictures"}
    said = capfd.readouterr().out
    assert "tiny with 2 processes: " in said
    assert "tiny with 3 processes: not measured: only 2 threads here" in said


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose nvidia-smi, made up, lists two GPUs; what it says can be changed."""
    listing = "printf 'GPU 0: Made-up (UUID: GPU-a)\\nGPU 1: Made-up (UUID: GPU-b)\\n'"
    found = program(tmp_path / "bin/nvidia-smi", listing)
    monkeypatch.setenv("PATH", str(found.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_too_few_gpus_are_reported_and_no_error(
    dataset: Path, tmp_path: Path, two_gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Any]] = []

    def measured(words: list[Any]) -> dict[str, Any]:  # GPUs cannot be had here
        asked.append(words[:6])
        values = {"images_per_second": 100.0 * words[1], "data_wait": 0.0}
        return {"processes": words[1], "device": "Made-up", **values}

    monkeypatch.setattr(speed_training, "_measured", measured)
    out = tmp_path / "s.json"
    found = measure(dataset, out, processes=[2, 4], gpus=4, granted=4)
    assert asked == [["--gpus", 2, "--granted", 4, "--", "clocked_training"]]
    assert found["rows"][1] == {"processes": 4, "not_measured": "only 2 GPUs here"}
    assert "speed_up" not in found["rows"][0]  # against nothing
    found = measure(dataset, out, gpus=2, granted=1)
    assert found["rows"][0]["speed_up"] == 1
    assert found["rows"][1]["not_measured"].startswith("only 1 of 2 GPUs granted by Snakemake: --resources gpu=2")
    two_gpus.write_text("#!/bin/sh\nexit 6\n")
    found = measure(dataset, out, gpus=2, granted=2)
    assert found["rows"] == [{"processes": n, "not_measured": "no GPU here"} for n in (1, 2)]
    assert found["device"] is None


FAILING = """
import os, sys
if "clocked_training" in sys.orig_argv and "launch" not in sys.orig_argv:  # a process of the launcher
    with open(sys.orig_argv[-1].replace(".json", "-1.json"), "w") as file:
        file.write('{"not_measured": "memory"}')
    os._exit(1)
"""


def test_too_little_memory_is_a_result(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:  # as the engine does; memory of a GPU cannot be had here
        raise UserError("out of GPU memory with 16 pictures on a GPU")

    monkeypatch.setattr(clocked_training.Engine, "step", step)
    settings: dict[str, Any] = {"name": "tiny", "network": TINY, "training": TRAINING}
    with pytest.raises(UserError, match="out of GPU memory"):
        clocked_training.clocked_training(dataset / "images.h5", out=tmp_path / "speed.json", **settings)
    assert not (tmp_path / "speed.json").exists()
    assert json.loads((tmp_path / "speed-0.json").read_text()) == {
        "processes": 1,
        "not_measured": "out of GPU memory with 16 pictures on a GPU",
    }
    # The launcher's status says that the processes failed, and the stage takes their word.
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert speed_training._measured(["--gpus", 0, "--", "clocked_training"]) == {"not_measured": "memory"}


def test_a_slow_machine_does_fewer_steps(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocked_training, "PATIENCE", 0.0)
    out = tmp_path / "speed.json"
    settings: dict[str, Any] = {"name": "tiny", "network": TINY, "training": TRAINING, "steps": 500}
    clocked_training.clocked_training(dataset / "images.h5", out=out, **settings)
    found = json.loads(out.read_text())
    assert (found["steps"], len(found["windows"])) == (5, 1)


def test_a_failure_has_one_line_and_its_status(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        measure(dataset, tmp_path / "s.json", training=TRAINING.model_copy(update={"batch": 4000}), processes=[1])
    assert left.value.code == TrainingFailed.status
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "training pictures are less than one batch of 4000" in line
    assert not (tmp_path / "s.json").exists()


@pytest.fixture(scope="module")
def members(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two models of random weights."""
    home = tmp_path_factory.mktemp("models")
    folders = [make_model(dataset, home / name, seed) for seed, name in enumerate(("first", "second"))]
    return {
        "descriptions": [folder / "model.json" for folder in folders],
        "weights": [folder / "weights.safetensors" for folder in folders],
    }


def predict(dataset: Path, out: Path, members: dict[str, list[Path]], **changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = (
        {"name": "both", "timed_images": 2, "threads": 2, "reading": Reading()} | members | changed
    )
    prediction_stage.speed_prediction(dataset / "images.h5", out=out, **settings)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_members_of_the_choice_read_the_same_side_by_side(
    dataset: Path, tmp_path: Path, members: dict[str, list[Path]]
) -> None:
    (tmp_path / "choice.json").write_text(json.dumps({"members": ["second", "first"]}))
    found = predict(dataset, tmp_path / "p.json", members, choice=tmp_path / "choice.json")
    assert [member["name"] for member in found["members"]] == ["second", "first"]
    assert all(member["seconds_per_image"] > 0 for member in found["members"])
    assert (found["images"], found["gpus"], found["threads"], found["threads_each"]) == (2, 0, 2, 1)
    for way in ("one_after_the_other", "side_by_side"):
        assert 0 < found[way]["low"] <= found[way]["seconds_per_image"] <= found[way]["high"]
    assert found["same_texts"]
    assert found["device"] == "CPU, 2 threads"


def test_other_texts_side_by_side_are_an_error_of_ours(
    dataset: Path, tmp_path: Path, members: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(SideBySide):
        def __init__(self, *_: object) -> None:
            self._connections, self._processes = [], []

        def ready(self) -> list[str]:
            return ["CPU"]

        def read(self, picture: object) -> list[str]:
            return ["CCO", "CCN"]

    monkeypatch.setattr(prediction_stage, "SideBySide", Wrong)
    with pytest.raises(RuntimeError, match=r"other texts side by side than one after the other, of CIDs \[\d+"):
        predict(dataset, tmp_path / "p.json", members)
    assert not (tmp_path / "p.json").exists()


def test_damaged_weights_are_reported_in_one_line(
    dataset: Path, tmp_path: Path, members: dict[str, list[Path]]
) -> None:
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(members["weights"][0].read_bytes()[:-100])
    with pytest.raises(UserError, match=r"weights.safetensors: damaged, or not the weights of .*model.json") as caught:
        predict(dataset, tmp_path / "p.json", members | {"weights": [members["weights"][0], damaged]})
    assert "\n" not in str(caught.value)


def test_a_member_that_ends_is_reported(dataset: Path, members: dict[str, list[Path]]) -> None:
    picture = Packed(dataset / "images.h5").pictures([0])
    files = list(zip(members["descriptions"], members["weights"], strict=True))
    with SideBySide([files[1]], ["cpu"], 1, Reading()) as alone:
        assert alone.ready() == ["CPU"]
        assert len(alone.read(picture)) == 1
        alone._processes[0].kill()
        alone._processes[0].join()
        with pytest.raises(UserError, match=r"the process of second ended \(status -9\)"):
            alone.read(picture)


@pytest.mark.parametrize(
    ("speed", "message"),
    [
        ({"training": ["tiny", "nobody"]}, "speed.training.1: 'nobody' is not one of tiny"),
        ({"ensembles": ["all"]}, "speed.ensembles.0: 'all' is not one of "),
        ({"training": ["tiny", "tiny"]}, "speed.training: a name is given twice"),
        ({"processes": [2, 1]}, "speed.processes: ascending numbers are expected, each once"),
    ],
)
def test_a_wrong_section_is_reported_by_its_key(speed: dict[str, Any], message: str) -> None:
    experiment = {
        "sources": [{"name": "nci", "kind": "nci"}],
        "datasets": [{"name": "short", "source": "nci"}],
        "models": [{"name": "tiny", "dataset": "short", "network": {"encoder": "resnet18"}, "training": {}}],
        "test_sets": [{"name": "held-out", "dataset": "short"}],
    }
    assert config.load(experiment).speed.training == []  # without the section
    with pytest.raises(UserError) as error:
        config.load({**experiment, "speed": speed})
    assert message in str(error.value)
