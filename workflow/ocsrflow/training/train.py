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
from .process_group import Place, Stopped, join
from .rewards import Rewards
from .risk import RiskEngine
from .throughput import Meter, medians, peak, training_flops
from .training_log import Recorder
from .validation import validate

LOG_STEPS = 20  # steps between two lines of metrics
CROSS_ENTROPY, MINIMUM_RISK = "cross_entropy", "minimum_risk"  # the phases of a training, in their order


@dataclass
class Course:
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
        precision = place.firsts(reader.set_precision(training.precision, place.device))
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
        course = loop.resume()
        mirror = Mirror(
            tracking if place.first else None,
            key=key,
            name=name,
            parameters={part: about[part] for part in ("network", "training")} | {"dataset": dataset},
            tags={**as_tags(of_cluster()), f"data.{dataset}": packed.digest},
        )
        loop.recorder = Recorder(saved.folder / "metrics.jsonl" if place.first else None, course.history, mirror)
        loop.run(course)
        if place.first:
            with whole(out) as part:
                save_file({k: v.contiguous() for k, v in loop.best.items()}, part)
            write_text(metrics, "".join(json.dumps(line) + "\n" for line in course.history))
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
            write_json(description, facts | loop.facts(course))
            loop.recorder.close("FINISHED")
            print(
                f"{name}: best validation Tanimoto {course.best:.4f} after epoch {course.best_epoch} "
                f"of {course.epoch}{', minimum risk' * (course.best_phase == MINIMUM_RISK)}, {course.seconds:.0f} s"
            )


@dataclass
class Loop:
    """The training loop, and what it works with."""

    name: str
    packed: Packed
    network: Network
    training: Training
    place: Place
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

    def run(self, course: Course) -> None:
        """Go on to the end of the course, or save and leave the process when it is told to stop.

        Raises
        ------
        UserError
            When the loss is not a number, or the GPU's memory is too small.
        """
        try:
            self._run(course)
        except Exception:
            self.recorder.close("FAILED", patience=5.0)
            raise

    def _run(self, course: Course) -> None:
        try:
            self.began, self.last_save = time.monotonic() - course.seconds, time.monotonic()
            if course.phase == CROSS_ENTROPY:
                self.go_on(course)
            risk = self.training.risk
            if risk is not None and course.risk_validated < risk.steps:
                self.reduce_risk(course, risk)
        except Stopped as stopped:
            self.save(course)
            self.place.firsts(None)  # torchrun ends the others when one has left: not before the first one has saved
            self.recorder.close("KILLED", patience=5.0)
            if self.place.first:
                with suppress(BrokenPipeError):
                    line = f"{self.name}: {stopped} at step {course.steps}; saved, the same command goes on from here"
                    print(line, flush=True)
            sys.exit(stopped.status)

    def go_on(self, course: Course) -> None:
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
        batches = self.epochs.stream(course.epoch, course.step, training.epochs)
        largest = math.ceil(training.batch / place.world)
        loader = Loader(self.packed, batches, largest, workers=workers, pin=place.cuda)
        bar = progress(total=self.steps, initial=course.steps, what=self.name, unit="steps", shown=place.first)
        with closing(iter(loader)) as stream, bar:
            while course.epoch < training.epochs and course.stale < (training.patience or math.inf):
                self.reader.train()
                meter = Meter(self.flops, self.peak, place)
                for share in islice(self.epochs.epoch(course.epoch), course.step, None):
                    batch = meter.wait(stream, share)
                    self.pending.append((share, engine.step(batch, share, course.steps)))
                    course.step, course.steps = course.step + 1, course.steps + 1
                    if course.steps % LOG_STEPS == 0 or course.step == len(self.epochs):
                        self.settle(course)
                        values = {"loss": statistics.fmean(course.losses), **meter.read()}
                        course.losses = []
                        self.log(course, values)
                        shown = f"epoch {course.epoch + 1}/{training.epochs}, loss {values['loss']:.3f}"
                        bar.set_postfix_str(f"{shown}, {values['images_per_second']:.0f} images/s", refresh=False)
                    # Before anything is shown: who stops this process may have closed its terminal too.
                    if place.heed(due=time.monotonic() - self.last_save > 60 * self.checkpoint_minutes):
                        self.save(course)
                        meter.restart()
                    bar.update()
                if self.validation_is_due(course.epoch + 1) and course.validated <= course.epoch:
                    self.validate(course)
                    course.validated = course.epoch + 1
                course.epoch, course.step = course.epoch + 1, 0
                if course.validated == course.epoch:
                    self.save(course)

    def reduce_risk(self, course: Course, risk: Risk) -> None:
        """The phase of minimum risk, from the weights that were best in validations, or from a parent's.

        Raises
        ------
        Stopped
            As :meth:`go_on`.
        """
        training, place, epochs = self.training, self.place, self.risk_epochs
        if course.phase == CROSS_ENTROPY:
            if not self.best:  # no epoch before it: the parent's weights are those to be improved
                self.validate(course)
            course.phase = MINIMUM_RISK
            self.reader.load_state_dict(self.best)
            self.engine = RiskEngine(self.reader, training, risk, place)
        engine, done = self.engine, course.risk_steps
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
            self.validate_risk(course, risk)  # where it was stopped in a validation
            meter = Meter(self.flops, None, place)
            for share in shares():
                batch = meter.wait(stream, share)
                self.pending.append((share, engine.step(batch, share, course.steps, rewards)))
                course.risk_steps, course.steps = course.risk_steps + 1, course.steps + 1
                if course.risk_steps % LOG_STEPS == 0 or course.risk_steps == risk.steps:
                    self.settle(course)
                    means = map(statistics.fmean, zip(*course.losses, strict=True))
                    values = dict(zip(("risk", "cross_entropy", "reward"), means, strict=True)) | meter.read()
                    del values["teraflops"]  # those of the candidates are not counted
                    course.losses = []
                    self.log(course, values)
                    shown = f"risk {values['risk']:.3f}, {values['images_per_second']:.1f} images/s"
                    bar.set_postfix_str(shown, refresh=False)
                if place.heed(due=time.monotonic() - self.last_save > 60 * self.checkpoint_minutes):
                    self.save(course)
                    meter.restart()
                bar.update()
                if self.validate_risk(course, risk):
                    meter.restart()

    def validate_risk(self, course: Course, risk: Risk) -> bool:
        """Whether a validation was due in the phase of minimum risk; it is done and a checkpoint saved."""
        due = course.risk_steps % risk.validate_every == 0 or course.risk_steps == risk.steps
        if not due or course.risk_validated == course.risk_steps:
            return False
        self.settle(course)
        self.validate(course)
        course.risk_validated = course.risk_steps
        self.save(course)
        return True

    def log(self, course: Course, values: dict[str, float]) -> None:
        """A line of metrics."""
        self.recorder.log(values, step=course.steps, epoch=course.current_epoch, phase=course.phase)

    def validation_is_due(self, epochs: int) -> bool:
        """Whether there is a validation after so many epochs."""
        return epochs % self.training.validate_every == 0 or epochs == self.training.epochs

    def validate(self, course: Course) -> None:
        """Score the weights on the validation split, and keep them where they are the best so far."""
        self.look_at_weights(course)
        self.place.align(self.engine.judged)
        with torch.compiler.set_stance("force_eager"):  # its batches have other sizes, not worth a compilation
            scores = validate(self.engine.judged, self.packed, self.training, self.place)
        course.stale += 1
        if scores["tanimoto"] > course.best:
            course.best, course.best_epoch, course.stale = scores["tanimoto"], course.current_epoch, 0
            course.best_phase = course.phase
            self.best = {k: v.detach().cpu().clone() for k, v in self.engine.judged.state_dict().items()}
        values = {f"validation_{key}": value for key, value in scores.items()}
        self.log(course, values)
        if self.place.first:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            where = f"epoch {course.current_epoch}/{self.training.epochs}"
            if self.training.risk is not None and course.phase == MINIMUM_RISK:
                where = f"minimum risk, step {course.risk_steps}/{self.training.risk.steps}"
            print(f"{self.name} {where}, validation: {shown}", flush=True)

    def settle(self, course: Course) -> None:
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
                self.refuse(f"the loss is {loss.tolist()} at step {course.steps - len(losses) + i + 1}", share)
        course.losses += losses.tolist()
        self.last, self.pending = self.pending[-1][0], []

    def look_at_weights(self, course: Course) -> None:
        """Refuse weights that are no numbers: a step may spoil them after its loss was right.

        Raises
        ------
        UserError
            When one is not a number.
        """
        sound = torch.stack([value.isfinite().all() for value in self.reader.parameters()]).all()
        if not bool(sound):
            self.refuse(f"the weights are no numbers after step {course.steps}", self.last)

    def refuse(self, what: str, share: Share) -> NoReturn:
        """End the training for numbers that are none, found in or after a batch."""
        ids = ", ".join(str(cid) for cid in self.packed.cid[share.everyones])
        kept = self.saved.paths()
        raise UserError(
            f"{self.name}: {what}; lower the learning rates or the gradient clip. "
            f"Last good checkpoint: {kept[-1] if kept else 'none yet'}. CIDs of the batch: {ids}"
        )

    def save(self, course: Course) -> None:
        """Write a checkpoint; to be called by all processes."""
        self.settle(course)
        self.look_at_weights(course)
        course.seconds = time.monotonic() - self.began
        own = {"cpu": torch.get_rng_state()}
        if self.place.cuda:
            own["cuda"] = torch.cuda.get_rng_state()
        random = self.place.everybodys(own)
        if self.place.first:
            state = {"engine": self.engine.state(), "course": asdict(course), "best": self.best, "random": random}
            self.saved.save(course.steps, state)
        self.last_save = time.monotonic()

    def resume(self) -> Course:
        """Take up the newest checkpoint that can be read; a new course where there is none."""
        place = self.place
        found = self.saved.newest() if place.first else None
        path = place.firsts(found[0] if found else None)
        if path is None:
            # Dropout differs between processes.
            torch.manual_seed(self.training.seed + 1 + place.rank)
            return Course()
        state = found[1] if found else self.saved.load(path)
        course = Course(**state["course"])
        if course.phase == MINIMUM_RISK and self.training.risk is not None:
            self.engine = RiskEngine(self.reader, self.training, self.training.risk, place)
        self.engine.load(state["engine"])
        self.best = state["best"]
        if len(state["random"]) == place.world:
            torch.set_rng_state(state["random"][place.rank]["cpu"])
            if place.cuda and "cuda" in state["random"][place.rank]:
                torch.cuda.set_rng_state(state["random"][place.rank]["cuda"])
        else:
            torch.manual_seed(self.training.seed + 1 + place.rank + course.steps * place.world)
        if place.first:
            print(f"{self.name}: going on from {path}, epoch {course.current_epoch}, step {course.steps}", flush=True)
        return course

    def facts(self, course: Course) -> dict[str, Any]:
        """What there is to say of a finished training."""
        return {
            "parameters": sum(p.numel() for p in self.reader.parameters()),
            "training_pictures": len(self.members),
            "epochs": course.epoch,
            "best_epoch": course.best_epoch,
            "best_phase": course.best_phase,
            "validation_tanimoto": course.best,
            "seconds": round(course.seconds, 1),
            "processes": self.place.world,
            "precision": self.reader.encoder.precision,
            "device": torch.cuda.get_device_name() if self.place.cuda else f"CPU, {self.threads} threads",
            "speed": medians([line for line in course.history if line["phase"] == CROSS_ENTROPY]),
            "risk_speed": medians([line for line in course.history if line["phase"] == MINIMUM_RISK]),
        }


def _checked(packed: Packed, name: str, training: Training, place: Place) -> Packed:
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
