"""Stage ``train``: one model, with one process or several under torchrun."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..config.network import Network
from ..config.training import Training
from ..network.model import EncoderDecoder, copy_weights, imagenet
from ..network.precision import warn_if_slow
from ..pictures.packed_file import Packed
from ..runtime.code_version import code_version
from ..runtime.errors import TrainingFailed, UserError
from ..runtime.files import sha256, whole, write_json, write_text
from ..runtime.slurm_job import as_tags, of_cluster
from ..tracking.live_curves import LiveCurves
from .checkpoints import Checkpoints
from .engine import enough_memory
from .loop import run
from .parent import Parent
from .process_group import ProcessGroup, join
from .trainer import MINIMUM_RISK, Trainer
from .training_log import TrainingLog


def train(
    data: Path,
    *,
    out: Path,
    metrics: Path,
    description: Path,
    network: Network,
    training: Training,
    name: str = "model",
    dataset: str = "",
    weights: Path | None = None,
    checkpoints: Path = Path("checkpoints"),
    checkpoint_minutes: float = 10.0,
    tracking: Path | None = None,
    threads: int = 1,
    until: int | None = None,
) -> None:
    """Train one model, going on from its last checkpoint where there is one.

    Exit status 143 (130) means that SIGTERM (SIGINT) stopped it: a checkpoint was saved, and the same command goes
    on from there.

    Parameters
    ----------
    data
        Packed data set.
    out
        safetensors file for the weights with the best validation Tanimoto similarity.
    metrics
        JSON lines: one for every few steps and one for every validation.
    description
        JSON file: everything needed to use the weights.
    network
        Shape of the network.
    training
        How to train it.
    name
        Name of the model.
    dataset
        Name of the data set, for the record.
    weights
        ImageNet weights of the encoder, where ``network.pretrained`` asks for them.
    checkpoints
        Folder for checkpoints; those of this very training are found by a hash of what defines it. There is a
        ``metrics.jsonl`` beside them that grows while it goes on.
    checkpoint_minutes
        Minutes between two checkpoints; one is saved after each validation too.
    tracking
        JSON file of the stage ``tracking``; without it nothing is logged to MLflow.
    threads
        Threads of all processes together on a CPU, or worker processes of all that read pictures for GPUs.
    until
        The epoch after which the training is left for now, with a checkpoint: the same command with a later one goes on
        from there, on the schedule of the whole length. By default it goes to its end.

    Raises
    ------
    UserError
        When the data set is too small, the weights do not fit, or the training may not start from the parent that
        ``network.pretrained`` names.
    TrainingFailed
        When the GPU's memory is too small, the loss is not a number, or a batch does not fit data and processes.
    """
    group = join(threads)
    with group.active(), ExitStack() as stack:
        packed = _checked(Packed(data), name, training, group)
        parent = Parent.read(Path(network.parent)) if network.parent is not None else None
        if parent:
            parent.check(network, packed.split_into, packed.vocabulary)
        torch.manual_seed(training.seed)
        try:
            model = EncoderDecoder(network, len(packed.vocabulary), imagenet(network, weights))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        if parent:
            copy_weights(model, parent.description, parent.weights)
        # From here on training.precision is the one that is used.
        precision = group.broadcast(model.set_precision(training.precision, group.device))
        training = training.model_copy(update={"precision": precision})
        if group.is_main:
            warn_if_slow(precision, group.device)
        settings: dict[str, Any] = {
            "network": network.model_dump(),
            "training": training.model_dump(),
            "vocabulary": packed.vocabulary,
            "parent": parent.record() if parent else None,
        }
        key = _key(packed, network, training, parent.weights if parent else weights)
        saved = Checkpoints(checkpoints / f"{name}-{key}", key, settings)
        stack.enter_context(enough_memory(training, group))
        if group.is_main:
            stack.enter_context(saved.lock())
        end = min(training.epochs, until or training.epochs)
        trainer = Trainer(name, packed, network, training, group, model, saved, threads, checkpoint_minutes, end)
        trainer.resume()
        history = trainer.state.history
        curves = LiveCurves(
            tracking if group.is_main else None,
            key=key,
            name=name,
            parameters={part: settings[part] for part in ("network", "training")} | {"dataset": dataset},
            tags={**as_tags(of_cluster()), f"data.{dataset}": packed.digest},
        )
        trainer.training_log = TrainingLog(saved.folder / "metrics.jsonl" if group.is_main else None, history, curves)
        run(trainer)
        if not group.is_main:
            return
        with whole(out) as part:
            # save_file would make a file that nobody but its owner may read.
            part.write_bytes(save({k: v.contiguous() for k, v in trainer.best.items()}))
        write_text(metrics, "".join(json.dumps(line) + "\n" for line in history))
        facts: dict[str, Any] = {
            "name": name,
            "key": key,
            "dataset": dataset,
            "data": packed.digest,
            # What it learnt to read, so that pictures from elsewhere can be fitted to the same frame.
            "depiction": packed.depiction.model_dump(),
            "split": packed.split_into.model_dump() if packed.split_into else None,
            **settings,
            **of_cluster(),
            **trainer.facts(),
        }
        write_json(description, facts)
        trainer.training_log.close("FINISHED")
        state = trainer.state
        print(
            f"{name}: best validation Tanimoto {state.best:.4f} after epoch {state.best_epoch} of {state.epoch}"
            f"{', minimum risk' * (state.best_phase == MINIMUM_RISK)}, {state.seconds:.0f} s"
        )


def _checked(packed: Packed, name: str, training: Training, group: ProcessGroup) -> Packed:
    """The data set, large enough for a validation, and batches for every process."""
    if not len(packed.members("validation")):
        raise UserError(f"{packed.path}: its validation split is empty; draw more molecules or give it a larger share")
    batches = {"training.batch": training.batch}
    if training.risk is not None:
        batches["training.risk.batch"] = training.risk.batch
    for setting, batch in batches.items():
        if batch < group.world_size:
            raise TrainingFailed(f"{name}: {setting} {batch} is too small for {group.world_size} processes")
    return packed


def _key(packed: Packed, network: Network, training: Training, weights: Path | None) -> str:
    """Twelve hexadecimal digits of everything that decides the weights; ``weights`` are those that it starts from."""
    # A parent counts by its weights, wherever they lie.
    kind = network.pretrained if network.parent is None else "parent"
    parts: list[Any] = [packed.digest, network.model_dump() | {"pretrained": kind}, training.model_dump()]
    parts.append(code_version("training.train"))
    parts.append(sha256(weights) if weights and network.pretrained != "none" else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
