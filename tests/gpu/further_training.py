"""The shipped model learns on from varied drawings, in the minutes that are left."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ship_model
import torch
import yaml
from ocsrflow.config.network import Network
from ocsrflow.config.training import Training
from ocsrflow.evaluation.clocked_training import clocked_training
from ocsrflow.network.model import load_model
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json
from ocsrflow.training.process_group import join
from ocsrflow.training.train import train
from ocsrflow.training.validation import validate
from plan import SHIPPED, Plan, Row, reference
from safetensors.torch import save_file

NAME = "resnet18-384-gpu"
PROFILE = Path(__file__).parents[2] / "workflow/profiles/reference/experiment.yaml"
LEAVE = 15.0  # seconds before the end at which a training that is not done is stopped
USED = 0.7  # share of the time for its steps, by the speed measured; the rest is for its start and its validations


def settings(plan: Plan, batch: int, **others: Any) -> Training:
    """How it is trained: as the reference profile does, with a rate for larger batches."""
    shared = yaml.safe_load(PROFILE.read_text())["training"]
    rate = min(2e-3, shared["encoder_lr"] * (batch / shared["batch"]) ** 0.5)
    changed = {"batch": batch, "encoder_lr": rate, "decoder_lr": rate, "warmup_steps": 50, "ema": 0.98, "risk": None}
    changed["validation_size"] = plan.sizes.validation_size
    return Training.model_validate(shared | changed | others)


def further_training(data: Path, plan: Plan) -> Iterator[Row]:
    """Choose a batch by the clock, train, and bring the model back as one that can be shipped."""
    packed, network = Packed(data), reference(plan.sizes.training_frame)
    pictures = len(packed.members("train"))
    yield {"what": "training pictures drawn", "value": pictures}
    batch, rate = 0, 0.0
    for batch in plan.sizes.batches:
        if batch > pictures // 2:
            continue
        try:
            found = _clocked(data, network, settings(plan, batch), plan)
        except UserError as error:  # too large for the GPU's memory, or for that which processes share
            yield {"what": f"batch of {batch}", "value": str(error)}
            continue
        rate, memory = found["images_per_second"], found.get("gpu_memory_gib", 0.0)
        speed = f"{rate:.0f} images/s, {memory:.1f} GiB, {found['data_wait']:.0%} waiting"
        yield {"what": f"batch of {batch}", "value": speed, "MFU": found.get("mfu")}
        if rate * _left(plan) * USED / batch >= plan.sizes.least_steps:
            break
    yield {"what": "before", **_before(packed, network, settings(plan, batch), plan)}
    epochs = min(plan.sizes.most_epochs, max(1, int(rate * _left(plan) * USED / pictures)))
    training = settings(plan, batch, epochs=epochs, validate_every=max(1, epochs // 4))
    folder = plan.work / NAME
    # Told to stop, it saves a checkpoint, and what was best so far is in it.
    stop = threading.Timer(_left(plan), os.kill, (os.getpid(), signal.SIGTERM))
    stop.start()
    with suppress(SystemExit):
        _train(data, network, training, folder, plan.cores)
    stop.cancel()
    curve = next(folder.glob("checkpoints/*/metrics.jsonl")).read_text()
    for line in map(json.loads, curve.splitlines()):
        if "validation_tanimoto" in line:
            yield {"what": f"step {line['step']}, epoch {line['epoch']} of {epochs}", **_scores(line, "validation_")}
    if not (folder / "model.json").exists():
        yield {"what": "stopped before its end", "value": "its last checkpoint is taken"}
        _rescue(folder, packed, network, training, curve)
    ship_model.REFERENCE = plan.out
    ship_model.ship(folder, None)
    yield {"what": "brought back", "value": f"models/{NAME}, {time.time() - plan.deadline:+.0f} s to the end"}


def _left(plan: Plan) -> float:
    return plan.deadline - LEAVE - time.time()


def _clocked(data: Path, network: Network, training: Training, plan: Plan) -> dict[str, Any]:
    out = plan.work / f"clock-{training.batch}.json"
    clocked_training(data, out=out, name=NAME, network=network, training=training, steps=5, threads=plan.cores)
    torch.cuda.empty_cache()
    found: dict[str, Any] = read_json(out)
    return found


def _before(packed: Packed, network: Network, training: Training, plan: Plan) -> dict[str, str]:
    """The scores of the shipped model in the larger frame, on the pictures that the training is validated on."""
    group = join(plan.cores)
    model, _ = load_model(SHIPPED.description, SHIPPED.weights, group.device)
    model.encoder.image_size, model.encoder.grid, model.decoder.grid = network.image_size, network.grid, network.grid
    model.set_precision("auto" if group.cuda else "float32", group.device)
    return _scores(validate(model, packed, training, group), "")


def _scores(line: dict[str, float], prefix: str) -> dict[str, str]:
    return {key: f"{line[prefix + key]:.4f}" for key in ("loss", "tanimoto", "validity")}


def _train(data: Path, network: Network, training: Training, folder: Path, cores: int) -> None:
    files = {"out": "weights.safetensors", "metrics": "metrics.jsonl", "description": "model.json"}
    paths: dict[str, Any] = {key: folder / name for key, name in files.items()}
    train(
        data, network=network, training=training, name=NAME, checkpoints=folder / "checkpoints", threads=cores, **paths
    )


def _rescue(folder: Path, packed: Packed, network: Network, training: Training, curve: str) -> None:
    """Make of the last checkpoint what the stage ``train`` would have left."""
    newest = sorted(folder.glob("checkpoints/*/step-*.pt"))[-1]
    state = torch.load(newest, map_location="cpu", weights_only=True)
    best = state["best"] or state["engine"]["averaged"]
    save_file({key: value.contiguous() for key, value in best.items()}, folder / "weights.safetensors")
    (folder / "metrics.jsonl").write_text(curve)
    facts = {
        "name": NAME,
        "key": newest.parent.name.removeprefix(f"{NAME}-"),
        "data": packed.digest,
        "depiction": packed.depiction.model_dump(),
        "split": packed.split_into.model_dump() if packed.split_into else None,
        "network": network.model_dump(),
        "training": training.model_dump(),
        "vocabulary": packed.vocabulary,
        "parent": SHIPPED.record(),
        "validation_tanimoto": state["state"]["best"],
        "seconds": state["state"]["seconds"],
    }
    write_json(folder / "model.json", facts)
