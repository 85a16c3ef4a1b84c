"""The stage train: it learns, it goes on where it was, and it says what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ocsrflow import train as stage
from ocsrflow.errors import UserError
from ocsrflow.loader import EpochBatches, Loader
from ocsrflow.packed import Packed
from ocsrflow.predict import predict
from ocsrflow.settings.network import Network
from ocsrflow.settings.training import Training
from ocsrflow.tokenizer import END, START
from ocsrflow.tracking import Tracker, tracking
from safetensors.torch import load_file

NETWORK = Network(
    encoder="shufflenet_v2_x0_5", pretrained="none", frozen_children=0, image_size=64, stride=16, grid=4, dim=32
)
TRAINING = Training(
    batch=16, epochs=2, encoder_lr=2e-3, decoder_lr=5e-3, validation_size=8, decode_length=20, attention_penalty=0
)


def run_train(dataset: Path, folder: Path, **changed: Any) -> None:
    settings = {
        "network": NETWORK,
        "training": TRAINING,
        "name": "tiny",
        "dataset": "short",
        "checkpoints": folder / "checkpoints",
    } | changed
    stage.train(
        dataset / "images.h5",
        out=folder / "weights.safetensors",
        metrics=folder / "metrics.jsonl",
        description=folder / "model.json",
        **settings,
    )


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines(folder)]


def test_a_training_writes_weights_description_and_metrics(dataset: Path, tmp_path: Path) -> None:
    run_train(dataset, tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["training_pictures"] == len(Packed(dataset / "images.h5").members("train"))
    assert facts["training"]["epochs"] == 2
    assert facts["network"]["encoder"] == "shufflenet_v2_x0_5"
    validated = [line for line in lines(tmp_path) if "validation_tanimoto" in line]
    assert [line["epoch"] for line in validated] == [1, 2]
    assert all("loss" in line or "validation_loss" in line for line in lines(tmp_path))
    predict(
        dataset / "images.h5",
        weights=tmp_path / "weights.safetensors",
        description=tmp_path / "model.json",
        out=tmp_path / "p.parquet",
        facts=tmp_path / "p.json",
        timed_images=2,
    )
    rows = pd.read_parquet(tmp_path / "p.parquet")
    sample = pd.read_parquet(dataset / "sample.parquet").query("split == 'test' and not spare")
    assert rows["cid"].tolist() == sample["cid"].tolist()
    assert rows["reference"].tolist() == sample["smiles"].tolist()
    assert (rows["log_probability"] < 0).all()
    assert json.loads((tmp_path / "p.json").read_text())["seconds_per_image"] > 0


def test_it_learns_by_heart_what_it_sees(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 60, "validate_every": 60})
    run_train(dataset, tmp_path, training=training, network=NETWORK.model_copy(update={"dropout": 0.0, "dim": 256}))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[0] > 3
    assert losses[-1] < 0.5


KILL = """
import os, sys
from pathlib import Path
from ocsrflow import train as stage
sys.path.insert(0, sys.argv[3])
from test_train import run_train, TRAINING
kill_at, saves = int(sys.argv[4]), [0]
real = stage._save
def save(*args):
    real(*args)
    saves[0] += 1
    if saves[0] == kill_at:
        os._exit(9)
stage._save = save
stage.CHECKPOINT_SECONDS = 0.0
stage.LOG_STEPS = 1
run_train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_training_ends_with_the_same_weights_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]
    kills = {"whole": [99], "killed": [1, 2, 1, 99]}
    for folder in folders:
        folder.mkdir()
        for kill_at in kills[folder.name]:
            command = [sys.executable, "-c", KILL, dataset, folder, Path(__file__).parent, str(kill_at)]
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == (9 if kill_at < 99 else 0), run.stderr
        assert len(list(folder.glob("checkpoints/*/step-*.pt"))) == stage.KEPT
    whole, killed = (load_file(folder / "weights.safetensors") for folder in folders)
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert without_speed(folders[0]) == without_speed(folders[1])
    assert "going on from" in run.stdout


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(dataset, tmp_path)
    expected = load_file(tmp_path / "weights.safetensors")
    newest = sorted(tmp_path.glob("checkpoints/*/step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    run_train(dataset, tmp_path)
    said = capsys.readouterr().out
    assert "cannot be read" in said
    assert "going on from" in said
    again = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(expected[name], again[name]) for name in expected)


def test_another_learning_rate_starts_afresh(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_train(dataset, tmp_path)
    run_train(dataset, tmp_path, training=TRAINING.model_copy(update={"encoder_lr": 1e-4}))
    assert "going on from" not in capsys.readouterr().out
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_loss_that_is_no_number_stops_with_the_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage._step
    monkeypatch.setattr(stage, "_step", lambda *args: real(*args) * float("nan"))
    with pytest.raises(UserError, match=r"the loss is nan at step 3 .*last good checkpoint"):
        run_train(dataset, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_imagenet_weights_are_asked_for(dataset: Path, tmp_path: Path) -> None:
    network = NETWORK.model_copy(update={"pretrained": "imagenet"})
    with pytest.raises(UserError, match="--weights"):
        run_train(dataset, tmp_path, network=network)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="no PyTorch weights file"):
        run_train(dataset, tmp_path, network=network, weights=tmp_path / "bad.pth")


def test_mlflow_has_every_point_once_after_a_second_start(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    where = tmp_path / "tracking.json"
    tracking(out=where, experiment="tiny", store=Path("mlflow.db"))
    run_train(dataset, tmp_path, tracking=where)
    for checkpoint in sorted(tmp_path.glob("checkpoints/*/step-*.pt"))[1:]:
        checkpoint.unlink()  # as if it had been killed before the last epoch was saved
    run_train(dataset, tmp_path, tracking=where)
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.encoder_lr"] == "0.002"
    assert run.data.params["network.encoder"] == "shufflenet_v2_x0_5"
    logged = [line for line in lines(tmp_path) if "validation_tanimoto" in line]
    history = client.get_metric_history(run.info.run_id, "validation_tanimoto")
    assert [point.step for point in history] == [line["step"] for line in logged]


def test_a_new_store_gets_the_curves_of_a_finished_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    run_train(dataset, tmp_path)
    tracking(out=tmp_path / "new.json", experiment="tiny", store=Path("new.db"))
    run_train(dataset, tmp_path, tracking=tmp_path / "new.json")
    client = MlflowClient("sqlite:///new.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    for curve in ("loss", "validation_tanimoto"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, curve)]
        assert steps == [line["step"] for line in lines(tmp_path) if curve in line]
        assert len(steps) == 2


def test_mlflow_away_does_not_stop_a_training(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "tracking.json"
    where.write_text('{"uri": "http://127.0.0.1:9", "experiment": "away"}')
    run_train(dataset, tmp_path, tracking=where)
    assert capsys.readouterr().err.count("MLflow does not take the run") == 1


def test_a_tracker_without_a_place_logs_nothing() -> None:
    tracker = Tracker(None, key="k", name="n")
    tracker.point({"loss": 1.0}, 1)
    tracker.close()


def test_two_processes_share_every_batch(dataset: Path) -> None:
    members = Packed(dataset / "images.h5").members("train")
    whole = list(EpochBatches(members, 16, seed=3, epoch=2))
    parts = [list(EpochBatches(members, 16, seed=3, epoch=2, rank=rank, world=2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted([*first, *second]) == sorted(batch)
    assert sorted(at for batch in whole for at in batch) == sorted(members)
    other = list(EpochBatches(members, 16, seed=3, epoch=3))
    assert [list(b) for b in other] != [list(b) for b in whole]


def test_a_batch_is_sorted_and_its_targets_follow_its_tokens(dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    (batch,) = Loader(packed, [packed.members("train")[:9]], workers=0, pin=False)
    lengths = [len(packed.tokens_of(at)) for at in batch.positions]
    assert lengths == sorted(lengths, reverse=True)
    assert batch.steps == [sum(n + 1 > t for n in lengths) for t in range(max(lengths) + 1)]
    assert (batch.tokens[:, 0] == START).all()
    targets = iter(batch.targets.tolist())
    for t, n in enumerate(batch.steps):
        for row in range(n):
            text = [*packed.tokens_of(batch.positions[row]).tolist(), END]
            assert next(targets) == text[t]


def test_torchrun_with_two_processes_trains_one_model(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    options = {
        "out": tmp_path / "weights.safetensors",
        "metrics": tmp_path / "metrics.jsonl",
        "description": tmp_path / "model.json",
        "network": NETWORK.model_dump_json(),
        "training": TRAINING.model_dump_json(),
        "checkpoints": tmp_path / "checkpoints",
        "threads": 2,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [*command, "ocsrflow.train", str(dataset / "images.h5"), *words],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert load_file(tmp_path / "weights.safetensors")
    assert json.loads((tmp_path / "model.json").read_text())["training_pictures"] > 0


def test_the_launcher_tells_one_line_and_no_traceback(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocsrflow.launch", "0", "ocsrflow.train", str(dataset / "images.h5")]
    names = {"out": "w", "metrics": "m", "description": "d", "checkpoints": "c"}
    words = [word for name, value in names.items() for word in (f"--{name}", str(tmp_path / value))]
    network = NETWORK.model_copy(update={"pretrained": "imagenet"}).model_dump_json()
    run = subprocess.run(
        [*command, *words, "--network", network, "--training", TRAINING.model_dump_json()],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "ocsrflow.train: error: network.pretrained is imagenet" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
