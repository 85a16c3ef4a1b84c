"""A training of seconds, and what it wrote."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ocsrflow.config.network import Network
from ocsrflow.config.risk import Risk
from ocsrflow.config.training import Training
from ocsrflow.training.train import train

NETWORK = Network(
    encoder="shufflenet_v2_x0_5", pretrained="none", frozen_children=0, image_size=64, stride=16, grid=4, dim=32
)
TRAINING = Training(
    batch=16,
    epochs=2,
    encoder_lr=2e-3,
    decoder_lr=5e-3,
    validation_size=8,
    decode_length=20,
    attention_penalty=0,
    precision="float32",  # by default some processors compute in bfloat16, and what is compared is equal in part only
)
RISK = Risk(steps=6, batch=8, candidates=3, validate_every=4)
WITH_RISK = TRAINING.model_copy(update={"risk": RISK, "epochs": 1})
FOUR_EPOCHS = TRAINING.model_copy(update={"epochs": 4})
# A longer one in which every option that has a state of its own is on.
LONG = TRAINING.model_copy(update={"epochs": 60, "validate_every": 8, "ema": 0.9, "schedule": "cosine"})

# Without batch statistics, which each process takes of its own pictures, and without dropout.
EXACT = Network(
    encoder="vgg16", pretrained="none", frozen_children=0, image_size=64, stride=8, grid=2, dim=32, dropout=0
)


def run_train(dataset: Path, folder: Path, **changed: Any) -> None:
    settings = {
        "network": NETWORK,
        "training": TRAINING,
        "name": "tiny",
        "dataset": "short",
        "checkpoints": folder / "checkpoints",
    } | changed
    train(
        dataset / "images.h5",
        out=folder / "weights.safetensors",
        metrics=folder / "metrics.jsonl",
        description=folder / "model.json",
        **settings,
    )


def run_processes(
    dataset: Path, folder: Path, network: Network, training: Training
) -> subprocess.CompletedProcess[str]:
    """The same by two processes, as the launcher starts them."""
    options = {
        "out": folder / "weights.safetensors",
        "metrics": folder / "metrics.jsonl",
        "description": folder / "model.json",
        "network": network.model_dump_json(),
        "training": training.model_dump_json(),
        "checkpoints": folder / "checkpoints",
        "threads": 2,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "ocsrflow", "launch", "--gpus", "0", "--processes", "2", "--", "train"]
    return subprocess.run([*command, str(dataset / "images.h5"), *words], capture_output=True, text=True, check=False)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/*/step-*.pt")), default=0)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


TIMES = ("time", "images_per_second", "data_wait", "teraflops")


def without_times(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder)]
