"""Stage ``train``: one model, with one process or several under torchrun."""

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .cli import run
from .errors import UserError
from .files import sha256, whole, write_json, write_text
from .loader import Batch, EpochBatches, Loader
from .metrics import is_valid, tanimoto
from .model import Reader, autocast
from .packed import Packed
from .progress import progress
from .settings.network import Network
from .settings.training import Training
from .tokenizer import decode
from .tracking import Tracker

CHECKPOINT_SECONDS = 600.0
KEPT = 2  # checkpoints
LOG_STEPS = 20  # steps between two lines of metrics

# What decides the weights besides the settings: an edit of one of these starts a training afresh, where an edit of
# tracking or of the progress bar goes on from the checkpoint.
DEFINING = ("train", "model", "encoders", "loader", "tokenizer", "packed")


@dataclass
class Place:
    """One process among those of the training."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0


@dataclass
class Course:
    """How far the training is; with the weights, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # within the epoch
    steps: int = 0  # in all
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


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
    tracking: Path | None = None,
    threads: int = 1,
) -> None:
    """Train one model, going on from its last checkpoint where there is one.

    Parameters
    ----------
    data
        Packed data set.
    out
        safetensors file for the weights of the epoch with the best validation Tanimoto similarity.
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
        Folder for checkpoints; those of this very training are found by a hash of what defines it.
    tracking
        JSON file of the stage ``tracking``; without it nothing is logged to MLflow.
    threads
        Threads of this process on a CPU, or worker processes that read pictures for a GPU.

    Raises
    ------
    UserError
        When the data set is too small, the weights do not fit, or the loss is not a number.
    """
    place = _place(threads)
    packed = Packed(data)
    state = _imagenet(network, weights)
    members = packed.members("train")
    if len(members) < place.world:
        raise UserError(f"{data}: {len(members)} training pictures are too few for {place.world} processes")
    if not len(packed.members("validation")):
        raise UserError(f"{data}: its validation split is empty; draw more molecules or give it a larger share")
    key = _key(packed, network, training, weights)
    folder = checkpoints / f"{name}-{key}"
    torch.manual_seed(training.seed)
    try:
        reader = Reader(network, len(packed.vocabulary), state).to(place.device)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if place.device.type == "cuda":
        reader = reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps_an_epoch = len(EpochBatches(members, training.batch, seed=0, epoch=0, world=place.world))
    optimiser, schedule = _optimiser(reader, training, steps_an_epoch * training.epochs)
    course = _resume(folder, reader, optimiser, schedule, place)
    # Dropout differs between processes, and is the same when a process goes on.
    if course.steps == 0:
        torch.manual_seed(training.seed + 1 + place.rank)
    tracker = Tracker(tracking if place.first else None, key=f"model:{name}:{key}", name=name, tags={"stage": "train"})
    tracker.parameters(_flat(network=network, training=training) | {"dataset": dataset, "data": packed.digest})
    for line in course.history:  # what the run does not have yet: the store may be new, or have been away
        tracker.point({k: v for k, v in line.items() if k not in ("step", "epoch")}, int(line["step"]))
    try:
        _fit(
            packed,
            members,
            reader,
            optimiser,
            schedule,
            course,
            training,
            place,
            folder,
            tracker,
            threads,
            name,
        )
    except UserError:
        tracker.close("FAILED")
        raise
    if place.first:
        with whole(out) as part:
            part.write_bytes((folder / "best.safetensors").read_bytes())
        write_text(metrics, "".join(json.dumps(line) + "\n" for line in course.history))
        write_json(
            description,
            {
                "name": name,
                "key": key,
                "dataset": dataset,
                "network": network.model_dump(),
                "training": training.model_dump(),
                "vocabulary": packed.vocabulary,
                "parameters": sum(p.numel() for p in reader.parameters()),
                "training_pictures": len(members),
                "best_epoch": course.best_epoch,
                "validation_tanimoto": course.best,
                "seconds": round(course.seconds, 1),
            },
        )
        tracker.close()
        print(
            f"{name}: best validation Tanimoto {course.best:.4f} after epoch {course.best_epoch} "
            f"of {training.epochs}, {course.seconds:.0f} s"
        )
    if dist.is_initialized():
        dist.destroy_process_group()


def _place(threads: int) -> Place:
    """Join the other processes that torchrun started, if any, and take this one's device."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, threads // world))
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return Place(rank, world, device)


def _imagenet(network: Network, weights: Path | None) -> dict[str, Tensor] | None:
    if network.pretrained == "none":
        return None
    if weights is None:
        raise UserError("network.pretrained is imagenet: give the file of ImageNet weights with --weights")
    try:
        state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001  (the reader raises many kinds)
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights}: no PyTorch weights file ({reason}); remove it and run again") from None
    return state


def _key(packed: Packed, network: Network, training: Training, weights: Path | None) -> str:
    """Twelve hexadecimal digits of everything that decides the weights."""
    here = Path(__file__).parent
    parts: list[Any] = [packed.digest, network.model_dump(), training.model_dump()]
    parts += [sha256(here / f"{module}.py") for module in DEFINING]
    parts.append(sha256(weights) if weights and network.pretrained != "none" else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _flat(**sections: Network | Training) -> dict[str, Any]:
    return {f"{section}.{k}": v for section, values in sections.items() for k, v in values.model_dump().items()}


Schedule = torch.optim.lr_scheduler.LambdaLR


def _optimiser(reader: Reader, training: Training, steps: int) -> tuple[torch.optim.Optimizer, Schedule]:
    """Adam with a learning rate for the encoder and one for the decoder."""
    encoder = [p for p in reader.encoder.parameters() if p.requires_grad]
    groups = [
        {"params": encoder, "lr": training.encoder_lr},
        {"params": list(reader.decoder.parameters()), "lr": training.decoder_lr},
    ]
    optimiser = torch.optim.Adam([g for g in groups if g["params"]], fused=True)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
        if training.schedule == "constant":
            return warm
        after = max(0, step - training.warmup_steps) / max(1, steps - training.warmup_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, after)))

    return optimiser, Schedule(optimiser, factor)


def _fit(
    packed: Packed,
    members: np.ndarray,
    reader: Reader,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    course: Course,
    training: Training,
    place: Place,
    folder: Path,
    tracker: Tracker,
    threads: int,
    name: str,
) -> None:
    """Epoch after epoch, to the end of the course."""
    network: nn.Module = reader
    if place.world > 1:
        devices = [place.device] if place.device.type == "cuda" else None
        network = DistributedDataParallel(reader, device_ids=devices)
    cuda = place.device.type == "cuda"
    saved, began = time.monotonic(), time.monotonic() - course.seconds
    while course.epoch < training.epochs:
        batches = EpochBatches(
            members,
            training.batch,
            seed=training.seed,
            epoch=course.epoch,
            rank=place.rank,
            world=place.world,
        )
        loader = Loader(packed, batches.after(course.step), workers=threads if cuda else 0, pin=cuda)
        reader.train()
        label = f"{name} epoch {course.epoch + 1}/{training.epochs}"
        bar = progress(total=len(batches), what=label, unit="steps") if place.first else None
        if bar is not None:
            bar.update(course.step)
        window, pictures, since = [], 0, time.monotonic()
        for batch in loader:
            window.append(_step(network, batch, optimiser, schedule, training, place))
            pictures += len(batch.positions) * place.world
            course.step += 1
            course.steps += 1
            if bar is not None:
                bar.update()
            if course.steps % LOG_STEPS == 0 or course.step == len(batches):
                loss = _mean_loss(window, course, batch, folder)
                speed = pictures / (time.monotonic() - since)
                _log(course, tracker, {"loss": loss, "images_per_second": speed})
                window, pictures, since = [], 0, time.monotonic()
                if bar is not None:
                    bar.set_postfix_str(f"loss {loss:.3f}, {speed:.0f} images/s", refresh=False)
            # Right after a look at the loss, so that no checkpoint holds weights that are no numbers.
            if not window and _agree(time.monotonic() - saved > CHECKPOINT_SECONDS, place):
                course.seconds = time.monotonic() - began
                _save(folder, reader, optimiser, schedule, course, place)
                saved = time.monotonic()
        if bar is not None:
            bar.close()
        course.epoch, course.step = course.epoch + 1, 0
        if course.epoch % training.validate_every == 0 or course.epoch == training.epochs:
            scores = _validate(packed, reader, training, place)
            _log(course, tracker, {f"validation_{key}": value for key, value in scores.items()})
            if scores["tanimoto"] > course.best:
                course.best, course.best_epoch = scores["tanimoto"], course.epoch
                if place.first:
                    with whole(folder / "best.safetensors") as part:
                        save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, part)
            if place.first:
                shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
                print(f"{name} epoch {course.epoch}/{training.epochs}, validation: {shown}", flush=True)
        course.seconds = time.monotonic() - began
        _save(folder, reader, optimiser, schedule, course, place)
        saved = time.monotonic()


def _agree(due: bool, place: Place) -> bool:
    """The first process's answer: saving needs all of them, and their clocks differ."""
    if place.world == 1:
        return due
    answer = torch.tensor([int(due)], device=place.device)
    dist.broadcast(answer, 0)
    return bool(answer.item())


def _step(
    network: nn.Module,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    training: Training,
    place: Place,
) -> Tensor:
    """One optimiser step; returns the cross-entropy a token of the global batch, on the device."""
    pictures = batch.pictures.to(place.device, non_blocking=True)
    tokens = batch.tokens.to(place.device, non_blocking=True)
    targets = batch.targets.to(place.device, non_blocking=True)
    counts = torch.tensor([len(targets), len(pictures)], dtype=torch.float32, device=place.device)
    if place.world > 1:
        dist.all_reduce(counts)
    with autocast(place.device):
        entropy, penalty = network(pictures, tokens, batch.steps, targets)
    # DistributedDataParallel averages gradients over processes: times the world it is the sum, so that a step is
    # that of the global batch, however many processes share it.
    loss = place.world * (entropy / counts[0] + training.attention_penalty * penalty / counts[1])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_value_(network.parameters(), training.gradient_clip)
    optimiser.step()
    schedule.step()
    total = entropy.detach()
    if place.world > 1:
        dist.all_reduce(total)
    loss_a_token: Tensor = total / counts[0]
    return loss_a_token


def _mean_loss(window: list[Tensor], course: Course, batch: Batch, folder: Path) -> float:
    """Mean loss of the last steps; a loss that is no number ends the training, the last checkpoint kept."""
    loss = float(torch.stack(window).mean())
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {course.steps} (last batch: pictures {batch.positions[:5]} …); "
            f"lower the learning rates or the gradient clip. The last good checkpoint is kept in {folder}"
        )
    return loss


def _log(course: Course, tracker: Tracker, values: dict[str, float]) -> None:
    # Exact after a resume: the step is counted on, so no point comes twice.
    line = {"step": course.steps, "epoch": course.epoch, **{k: round(v, 6) for k, v in values.items()}}
    course.history.append(line)
    tracker.point(values, course.steps)


def _validate(packed: Packed, reader: Reader, training: Training, place: Place) -> dict[str, float]:
    """Teacher-forced loss, and the scores of greedy reading, over the first pictures of the validation split."""
    members = packed.members("validation")[: training.validation_size][place.rank :: place.world]
    totals = np.zeros(5)  # entropy, tokens, similarity, valid, pictures
    reader.eval()
    parts = [members[at : at + training.batch] for at in range(0, len(members), training.batch)]
    bar = progress(total=len(parts), what="validating", unit="batches") if place.first else None
    with torch.inference_mode(), autocast(place.device):
        for batch in Loader(packed, parts, workers=0, pin=False):
            features = reader.encoder(batch.pictures.to(place.device))
            scores, _ = reader.decoder(features, batch.tokens.to(place.device), batch.steps)
            targets = batch.targets.to(place.device)
            entropy = nn.functional.cross_entropy(scores.float(), targets, reduction="sum")
            decoded = reader.decoder.greedy(features, training.decode_length)
            texts = [decode(numbers) for numbers in decoded.tokens]
            references = [decode(packed.tokens_of(at)) for at in batch.positions]
            if bar is not None:
                bar.update()
            totals += [
                float(entropy),
                len(targets),
                sum(map(tanimoto, texts, references)),
                sum(map(is_valid, texts)),
                len(texts),
            ]
    if bar is not None:
        bar.close()
    if place.world > 1:
        summed = torch.tensor(totals, device=place.device)
        dist.all_reduce(summed)
        totals = summed.cpu().numpy()
    loss, tokens, similarity, valid, pictures = totals.tolist()
    return {"loss": loss / tokens, "tanimoto": similarity / pictures, "validity": valid / pictures}


def _save(
    folder: Path,
    reader: Reader,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    course: Course,
    place: Place,
) -> None:
    """Write a checkpoint, whole or not at all, and keep the last two."""
    rng: list[Any] = [None] * place.world
    own = {"cpu": torch.get_rng_state()}
    if place.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state()
    if place.world > 1:
        dist.all_gather_object(rng, own)
    else:
        rng = [own]
    if place.first:
        path = folder / f"step-{course.steps:09d}.pt"
        with whole(path) as part:
            torch.save(
                {
                    "reader": reader.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "course": vars(course),
                    "rng": rng,
                },
                part,
            )
        for old in _checkpoints(folder)[:-KEPT]:
            old.unlink()
    if place.world > 1:
        dist.barrier()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


def _resume(folder: Path, reader: Reader, optimiser: torch.optim.Optimizer, schedule: Schedule, place: Place) -> Course:
    """Load the newest checkpoint that can be read; a new course where there is none."""
    for path in reversed(_checkpoints(folder)):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            reader.load_state_dict(saved["reader"])
        except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
            reason = str(error).splitlines()[0]
            print(f"{path} cannot be read ({reason}): going on from the one before", flush=True)
            continue
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        if len(saved["rng"]) == place.world:
            torch.set_rng_state(saved["rng"][place.rank]["cpu"])
            if place.device.type == "cuda" and "cuda" in saved["rng"][place.rank]:
                torch.cuda.set_rng_state(saved["rng"][place.rank]["cuda"])
        course = Course(**saved["course"])
        if place.first:
            print(f"going on from {path}, epoch {course.epoch}, step {course.steps}", flush=True)
        return course
    return Course()


if __name__ == "__main__":
    run(train)
