"""Stage ``train``: one model, with one process or several under torchrun."""

import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config.network import Network
from ..config.risk import Risk
from ..config.training import Training
from ..network.batches import Epochs, Loader, Share
from ..network.model import Reader, imagenet, take_up
from ..network.precision import warn_if_slow
from ..pictures.packed_file import Packed
from ..runtime.code_version import code_version
from ..runtime.errors import UserError
from ..runtime.files import sha256, whole, write_json, write_text
from ..runtime.progress import progress
from ..runtime.slurm_job import as_tags, of_cluster
from ..tracking.live_curves import Mirror
from .checkpoints import Checkpoints
from .engine import Engine, enough_memory
from .parent import Parent
from .process_group import ProcessGroup, Stopped, join
from .rewards import Rewards
from .risk import RiskEngine
from .throughput import Meter, medians, peak, training_flops
from .training_log import Recorder
from .validation import validate

LOG_STEPS = 20  # steps between two lines of metrics
CROSS_ENTROPY, MINIMUM_RISK = "cross_entropy", "minimum_risk"  # the phases of a training, in their order


@dataclass
class TrainState:
    """How far a training is; with the engine's state, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # within the epoch
    steps: int = 0  # in all
    seconds: float = 0.0
    phase: str = CROSS_ENTROPY
    risk_steps: int = 0  # in the phase of minimum risk
    risk_validated: int = 0  # of these at the last validation
    losses: list[Any] = field(default_factory=list)  # of the steps since the last line of metrics
    best: float = -1.0  # validation Tanimoto similarity
    best_epoch: int = 0
    best_phase: str = CROSS_ENTROPY
    validated: int = 0  # epochs at the last validation
    stale: int = 0  # validations since the best one
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def current_epoch(self) -> int:
        """The epoch that it is in, from 1; in the phase of minimum risk the last one."""
        return self.epoch + (self.phase == CROSS_ENTROPY)


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

    Raises
    ------
    UserError
        When the data set is too small, the weights do not fit, the GPU's memory is too small, the loss is not a
        number, or the training may not start from the parent that ``network.pretrained`` names.
    """
    place = join(threads)
    with place.together(), ExitStack() as stack:
        packed = _checked(Packed(data), name, training, place)
        parent = Parent.read(Path(network.parent)) if network.parent is not None else None
        if parent:
            parent.check(network, packed.split_into, packed.vocabulary)
        torch.manual_seed(training.seed)
        try:
            reader = Reader(network, len(packed.vocabulary), imagenet(network, weights))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        if parent:
            take_up(reader, parent.description, parent.weights)
        # From here on training.precision is the one that is used.
        precision = place.broadcast(reader.set_precision(training.precision, place.device))
        training = training.model_copy(update={"precision": precision})
        if place.first:
            warn_if_slow(precision, place.device)
        about: dict[str, Any] = {
            "network": network.model_dump(),
            "training": training.model_dump(),
            "vocabulary": packed.vocabulary,
            "parent": parent.record() if parent else None,
        }
        key = _key(packed, network, training, parent.weights if parent else weights)
        saved = Checkpoints(checkpoints / f"{name}-{key}", key, about)
        stack.enter_context(enough_memory(training, place))
        if place.first:
            stack.enter_context(saved.alone())
        loop = Loop(name, packed, network, training, place, reader, saved, threads, checkpoint_minutes)
        train_state = loop.resume()
        mirror = Mirror(
            tracking if place.first else None,
            key=key,
            name=name,
            parameters={part: about[part] for part in ("network", "training")} | {"dataset": dataset},
            tags={**as_tags(of_cluster()), f"data.{dataset}": packed.digest},
        )
        loop.recorder = Recorder(saved.folder / "metrics.jsonl" if place.first else None, train_state.history, mirror)
        loop.run(train_state)
        if place.first:
            with whole(out) as part:
                save_file({k: v.contiguous() for k, v in loop.best.items()}, part)
            write_text(metrics, "".join(json.dumps(line) + "\n" for line in train_state.history))
            # What it learnt to read, so that pictures from elsewhere can be fitted to the same frame.
            depiction = packed.depiction.model_dump()
            facts: dict[str, Any] = {
                "name": name,
                "key": key,
                "dataset": dataset,
                "data": packed.digest,
                "depiction": depiction,
            }
            facts["split"] = packed.split_into.model_dump() if packed.split_into else None
            facts |= {**about, **of_cluster()}
            write_json(description, facts | loop.facts(train_state))
            loop.recorder.close("FINISHED")
            print(
                f"{name}: best validation Tanimoto {train_state.best:.4f} after epoch {train_state.best_epoch} "
                f"of {train_state.epoch}{', minimum risk' * (train_state.best_phase == MINIMUM_RISK)}, "
                f"{train_state.seconds:.0f} s"
            )


@dataclass
class Loop:
    """The training loop, and what it works with."""

    name: str
    packed: Packed
    network: Network
    training: Training
    place: ProcessGroup
    reader: Reader
    saved: Checkpoints
    threads: int
    checkpoint_minutes: float

    def __post_init__(self) -> None:
        training, place = self.training, self.place
        self.members = self.packed.members("train")
        self.epochs = Epochs(
            self.packed,
            self.members,
            training.batch,
            seed=training.seed,
            rank=place.rank,
            world=place.world,
        )
        self.steps = len(self.epochs) * training.epochs
        if training.risk is not None:  # here, so that a batch that is too large is found before all else
            self.risk_epochs = Epochs(
                self.packed,
                self.members,
                training.risk.batch,
                seed=training.seed,
                rank=place.rank,
                world=place.world,
                setting="training.risk.batch",
            )
        self.engine: Engine | RiskEngine = Engine(self.reader, training, place, self.steps)
        self.flops = training_flops(self.network, len(self.packed.vocabulary), self.packed.shape)
        self.peak = peak(place.device)
        self.best: dict[str, Tensor] = {}  # the weights to be kept, on the host
        self.pending: list[tuple[Share, Tensor]] = []  # steps whose loss has not been looked at
        self.last: Share  # the last one that was
        self.recorder: Recorder
        self.began = self.last_save = time.monotonic()

    def run(self, train_state: TrainState) -> None:
        """Go on to the end of the course, or save and leave the process when it is told to stop.

        Raises
        ------
        UserError
            When the loss is not a number, or the GPU's memory is too small.
        """
        try:
            self._run(train_state)
        except Exception:
            self.recorder.close("FAILED", patience=5.0)
            raise

    def _run(self, train_state: TrainState) -> None:
        try:
            self.began, self.last_save = time.monotonic() - train_state.seconds, time.monotonic()
            if train_state.phase == CROSS_ENTROPY:
                self.go_on(train_state)
            risk = self.training.risk
            if risk is not None and train_state.risk_validated < risk.steps:
                self.reduce_risk(train_state, risk)
        except Stopped as stopped:
            self.save(train_state)
            self.place.broadcast(None)  # torchrun ends the others when one has left: not before the first one has saved
            self.recorder.close("KILLED", patience=5.0)
            if self.place.first:
                with suppress(BrokenPipeError):
                    line = (
                        f"{self.name}: {stopped} at step {train_state.steps}; saved, the same command goes on from here"
                    )
                    print(line, flush=True)
            sys.exit(stopped.status)

    def go_on(self, train_state: TrainState) -> None:
        """Epoch after epoch, to the end of the course.

        Raises
        ------
        Stopped
            At a step boundary, when a signal told a process to stop; the course is right for a checkpoint.
        """
        training, place, engine = self.training, self.place, self.engine
        assert isinstance(engine, Engine)
        workers = max(1, self.threads // place.world) if place.cuda else 0
        # One stream over all epochs: readers start once, and read on during a validation.
        batches = self.epochs.stream(train_state.epoch, train_state.step, training.epochs)
        largest = math.ceil(training.batch / place.world)
        loader = Loader(self.packed, batches, largest, workers=workers, pin=place.cuda)
        bar = progress(total=self.steps, initial=train_state.steps, what=self.name, unit="steps", shown=place.first)
        with closing(iter(loader)) as stream, bar:
            while train_state.epoch < training.epochs and train_state.stale < (training.patience or math.inf):
                self.reader.train()
                meter = Meter(self.flops, self.peak, place)
                for share in islice(self.epochs.epoch(train_state.epoch), train_state.step, None):
                    batch = meter.wait(stream, share)
                    self.pending.append((share, engine.step(batch, share, train_state.steps)))
                    train_state.step, train_state.steps = train_state.step + 1, train_state.steps + 1
                    if train_state.steps % LOG_STEPS == 0 or train_state.step == len(self.epochs):
                        self.settle(train_state)
                        values = {"loss": statistics.fmean(train_state.losses), **meter.read()}
                        train_state.losses = []
                        self.log(train_state, values)
                        shown = f"epoch {train_state.epoch + 1}/{training.epochs}, loss {values['loss']:.3f}"
                        bar.set_postfix_str(f"{shown}, {values['images_per_second']:.0f} images/s", refresh=False)
                    # Before anything is shown: who stops this process may have closed its terminal too.
                    if place.check_stop(due=time.monotonic() - self.last_save > 60 * self.checkpoint_minutes):
                        self.save(train_state)
                        meter.restart()
                    bar.update()
                if self.validation_is_due(train_state.epoch + 1) and train_state.validated <= train_state.epoch:
                    self.validate(train_state)
                    train_state.validated = train_state.epoch + 1
                train_state.epoch, train_state.step = train_state.epoch + 1, 0
                if train_state.validated == train_state.epoch:
                    self.save(train_state)

    def reduce_risk(self, train_state: TrainState, risk: Risk) -> None:
        """The phase of minimum risk, from the weights that were best in validations, or from a parent's.

        Raises
        ------
        Stopped
            As :meth:`go_on`.
        """
        training, place, epochs = self.training, self.place, self.risk_epochs
        if train_state.phase == CROSS_ENTROPY:
            if not self.best:  # no epoch before it: the parent's weights are those to be improved
                self.validate(train_state)
            train_state.phase = MINIMUM_RISK
            self.reader.load_state_dict(self.best)
            self.engine = RiskEngine(self.reader, training, risk, place)
        engine, done = self.engine, train_state.risk_steps
        assert isinstance(engine, RiskEngine)
        first, within = divmod(done, len(epochs))

        def shares() -> Iterator[Share]:
            following = chain.from_iterable(map(epochs.epoch, count(training.epochs + first)))
            return islice(following, within, within + risk.steps - done)

        workers = max(1, self.threads // place.world)
        largest = math.ceil(risk.batch / place.world)
        batches = (share.positions for share in shares())
        loader = Loader(
            self.packed,
            batches,
            largest,
            workers=workers if place.cuda else 0,
            pin=place.cuda,
            setting="training.risk.batch",
        )
        bar = progress(
            total=risk.steps, initial=done, what=f"{self.name}, minimum risk", unit="steps", shown=place.first
        )
        memory = enough_memory(training, place, batch=risk.batch, setting="training.risk.batch or candidates")
        rewards = Rewards(risk.reward, processes=workers)
        with memory, rewards, closing(iter(loader)) as stream, bar:
            self.validate_risk(train_state, risk)  # where it was stopped in a validation
            meter = Meter(self.flops, None, place)
            for share in shares():
                batch = meter.wait(stream, share)
                self.pending.append((share, engine.step(batch, share, train_state.steps, rewards)))
                train_state.risk_steps, train_state.steps = train_state.risk_steps + 1, train_state.steps + 1
                if train_state.risk_steps % LOG_STEPS == 0 or train_state.risk_steps == risk.steps:
                    self.settle(train_state)
                    means = map(statistics.fmean, zip(*train_state.losses, strict=True))
                    values = dict(zip(("risk", "cross_entropy", "reward"), means, strict=True)) | meter.read()
                    del values["teraflops"]  # those of the candidates are not counted
                    train_state.losses = []
                    self.log(train_state, values)
                    shown = f"risk {values['risk']:.3f}, {values['images_per_second']:.1f} images/s"
                    bar.set_postfix_str(shown, refresh=False)
                if place.check_stop(due=time.monotonic() - self.last_save > 60 * self.checkpoint_minutes):
                    self.save(train_state)
                    meter.restart()
                bar.update()
                if self.validate_risk(train_state, risk):
                    meter.restart()

    def validate_risk(self, train_state: TrainState, risk: Risk) -> bool:
        """Whether a validation was due in the phase of minimum risk; it is done and a checkpoint saved."""
        due = train_state.risk_steps % risk.validate_every == 0 or train_state.risk_steps == risk.steps
        if not due or train_state.risk_validated == train_state.risk_steps:
            return False
        self.settle(train_state)
        self.validate(train_state)
        train_state.risk_validated = train_state.risk_steps
        self.save(train_state)
        return True

    def log(self, train_state: TrainState, values: dict[str, float]) -> None:
        """A line of metrics."""
        self.recorder.log(values, step=train_state.steps, epoch=train_state.current_epoch, phase=train_state.phase)

    def validation_is_due(self, epochs: int) -> bool:
        """Whether there is a validation after so many epochs."""
        return epochs % self.training.validate_every == 0 or epochs == self.training.epochs

    def validate(self, train_state: TrainState) -> None:
        """Score the weights on the validation split, and keep them where they are the best so far."""
        self.look_at_weights(train_state)
        self.place.align(self.engine.judged)
        with torch.compiler.set_stance("force_eager"):  # its batches have other sizes, not worth a compilation
            scores = validate(self.engine.judged, self.packed, self.training, self.place)
        train_state.stale += 1
        if scores["tanimoto"] > train_state.best:
            train_state.best, train_state.best_epoch, train_state.stale = (
                scores["tanimoto"],
                train_state.current_epoch,
                0,
            )
            train_state.best_phase = train_state.phase
            self.best = {k: v.detach().cpu().clone() for k, v in self.engine.judged.state_dict().items()}
        values = {f"validation_{key}": value for key, value in scores.items()}
        self.log(train_state, values)
        if self.place.first:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            where = f"epoch {train_state.current_epoch}/{self.training.epochs}"
            if self.training.risk is not None and train_state.phase == MINIMUM_RISK:
                where = f"minimum risk, step {train_state.risk_steps}/{self.training.risk.steps}"
            print(f"{self.name} {where}, validation: {shown}", flush=True)

    def settle(self, train_state: TrainState) -> None:
        """Look at the losses of the last steps, which waits for the device.

        Raises
        ------
        UserError
            When one is not a number.
        """
        if not self.pending:
            return
        losses = self.place.total(torch.stack([loss for _, loss in self.pending])).cpu()
        for i, (loss, (share, _)) in enumerate(zip(losses, self.pending, strict=True)):
            if not bool(loss.isfinite().all()):
                self.refuse(f"the loss is {loss.tolist()} at step {train_state.steps - len(losses) + i + 1}", share)
        train_state.losses += losses.tolist()
        self.last, self.pending = self.pending[-1][0], []

    def look_at_weights(self, train_state: TrainState) -> None:
        """Refuse weights that are no numbers: a step may spoil them after its loss was right.

        Raises
        ------
        UserError
            When one is not a number.
        """
        sound = torch.stack([value.isfinite().all() for value in self.reader.parameters()]).all()
        if not bool(sound):
            self.refuse(f"the weights are no numbers after step {train_state.steps}", self.last)

    def refuse(self, what: str, share: Share) -> NoReturn:
        """End the training for numbers that are none, found in or after a batch."""
        ids = ", ".join(str(cid) for cid in self.packed.cid[share.everyones])
        kept = self.saved.paths()
        raise UserError(
            f"{self.name}: {what}; lower the learning rates or the gradient clip. "
            f"Last good checkpoint: {kept[-1] if kept else 'none yet'}. CIDs of the batch: {ids}"
        )

    def save(self, train_state: TrainState) -> None:
        """Write a checkpoint; to be called by all processes."""
        self.settle(train_state)
        self.look_at_weights(train_state)
        train_state.seconds = time.monotonic() - self.began
        own = {"cpu": torch.get_rng_state()}
        if self.place.cuda:
            own["cuda"] = torch.cuda.get_rng_state()
        random = self.place.all_gather(own)
        if self.place.first:
            state = {"engine": self.engine.state(), "course": asdict(train_state), "best": self.best, "random": random}
            self.saved.save(train_state.steps, state)
        self.last_save = time.monotonic()

    def resume(self) -> TrainState:
        """Take up the newest checkpoint that can be read; a new course where there is none."""
        place = self.place
        found = self.saved.newest() if place.first else None
        path = place.broadcast(found[0] if found else None)
        if path is None:
            # Dropout differs between processes.
            torch.manual_seed(self.training.seed + 1 + place.rank)
            return TrainState()
        state = found[1] if found else self.saved.load(path)
        train_state = TrainState(**state["course"])
        if train_state.phase == MINIMUM_RISK and self.training.risk is not None:
            self.engine = RiskEngine(self.reader, self.training, self.training.risk, place)
        self.engine.load(state["engine"])
        self.best = state["best"]
        if len(state["random"]) == place.world:
            torch.set_rng_state(state["random"][place.rank]["cpu"])
            if place.cuda and "cuda" in state["random"][place.rank]:
                torch.cuda.set_rng_state(state["random"][place.rank]["cuda"])
        else:
            torch.manual_seed(self.training.seed + 1 + place.rank + train_state.steps * place.world)
        if place.first:
            print(
                f"{self.name}: going on from {path}, epoch {train_state.current_epoch}, step {train_state.steps}",
                flush=True,
            )
        return train_state

    def facts(self, train_state: TrainState) -> dict[str, Any]:
        """What there is to say of a finished training."""
        return {
            "parameters": sum(p.numel() for p in self.reader.parameters()),
            "training_pictures": len(self.members),
            "epochs": train_state.epoch,
            "best_epoch": train_state.best_epoch,
            "best_phase": train_state.best_phase,
            "validation_tanimoto": train_state.best,
            "seconds": round(train_state.seconds, 1),
            "processes": self.place.world,
            "precision": self.reader.encoder.precision,
            "device": torch.cuda.get_device_name() if self.place.cuda else f"CPU, {self.threads} threads",
            "speed": medians([line for line in train_state.history if line["phase"] == CROSS_ENTROPY]),
            "risk_speed": medians([line for line in train_state.history if line["phase"] == MINIMUM_RISK]),
        }


def _checked(packed: Packed, name: str, training: Training, place: ProcessGroup) -> Packed:
    """The data set, large enough for a validation, and batches for every process."""
    if not len(packed.members("validation")):
        raise UserError(f"{packed.path}: its validation split is empty; draw more molecules or give it a larger share")
    if training.batch < place.world:
        raise UserError(f"{name}: training.batch {training.batch} is too small for {place.world} processes")
    if training.risk is not None and training.risk.batch < place.world:
        raise UserError(f"{name}: training.risk.batch {training.risk.batch} is too small for {place.world} processes")
    return packed


def _key(packed: Packed, network: Network, training: Training, weights: Path | None) -> str:
    """Twelve hexadecimal digits of everything that decides the weights; ``weights`` are those that it starts from."""
    # A parent counts by its weights, wherever they lie.
    kind = network.pretrained if network.parent is None else "parent"
    parts: list[Any] = [packed.digest, network.model_dump() | {"pretrained": kind}, training.model_dump()]
    parts.append(code_version("training.train"))
    parts.append(sha256(weights) if weights and network.pretrained != "none" else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
