"""What both phases of a training share: its network, data and checkpoints, how far it is, validation, what is kept."""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.network import Network
from ..config.training import Training
from ..network.batches import Epochs, Loader, Share
from ..network.model import EncoderDecoder
from ..pictures.packed_file import Packed
from ..runtime.errors import TrainingFailed
from .checkpoints import Checkpoints
from .engine import Engine
from .process_group import ProcessGroup
from .risk import RiskEngine
from .throughput import medians, peak, training_flops
from .training_log import TrainingLog
from .validation import validate

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
    stale: int = 0  # validations since the best one
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def current_epoch(self) -> int:
        """The epoch that it is in, from 1; 0 before the first step; in the phase of minimum risk the last one."""
        return self.epoch + (self.phase == CROSS_ENTROPY and self.steps > 0)


@dataclass
class Trainer:
    """A training: what it works with and, from :meth:`resume` on, how far it is."""

    name: str
    packed: Packed
    network: Network
    training: Training
    group: ProcessGroup
    model: EncoderDecoder
    checkpoints: Checkpoints
    threads: int
    checkpoint_minutes: float
    until: int  # the epoch after which it is left for now

    def __post_init__(self) -> None:
        training, group = self.training, self.group
        self.workers = max(1, self.threads // group.world_size)  # of this process
        self.members = self.packed.members("train")
        self.epochs = self._epochs(training.batch, "training.batch")
        if training.risk is not None:  # here, so that a batch that is too large is found before all else
            self.risk_epochs = self._epochs(training.risk.batch, "training.risk.batch")
        self.steps = len(self.epochs) * training.epochs
        self.engine: Engine | RiskEngine = Engine(self.model, training, group, self.steps)
        self.flops = training_flops(self.network, len(self.packed.vocabulary), self.packed.shape)
        self.peak = peak(group.device)
        self.state: TrainState
        self.training_log: TrainingLog
        self.best: dict[str, Tensor] = {}  # the weights to be kept, on the host
        self.pending: list[tuple[Share, Tensor]] = []  # steps whose loss has not been looked at
        self.last: Share  # the last one that was
        self.began = self.last_save = time.monotonic()

    def _epochs(self, batch: int, setting: str) -> Epochs:
        rank, world_size, seed = self.group.rank, self.group.world_size, self.training.seed
        return Epochs(self.packed, self.members, batch, seed=seed, rank=rank, world_size=world_size, setting=setting)

    def loader(self, batches: Iterable[NDArray[np.int64]], batch: int, setting: str = "training.batch") -> Loader:
        """Reads this process's part of global batches of ``batch`` pictures, ahead where a GPU trains."""
        cuda, largest = self.group.cuda, math.ceil(batch / self.group.world_size)
        workers = self.workers if cuda else 0
        return Loader(self.packed, batches, largest, workers=workers, pin=cuda, setting=setting)

    def log(self, values: dict[str, float]) -> None:
        """A line of metrics."""
        state = self.state
        self.training_log.log(values, step=state.steps, epoch=state.current_epoch, phase=state.phase)

    def validate(self) -> None:
        """Score the weights on the validation split, and keep them where they are the best so far.

        Raises
        ------
        TrainingFailed
            When a loss or a weight is not a number.
        """
        self._check_finite()
        state, evaluated = self.state, self.engine.evaluated
        self.group.broadcast_buffers(evaluated)
        with torch.compiler.set_stance("force_eager"):  # its batches have other sizes, not worth a compilation
            scores = validate(evaluated, self.packed, self.training, self.group)
        state.stale += 1
        if scores["tanimoto"] > state.best:
            state.best, state.best_epoch, state.best_phase = scores["tanimoto"], state.current_epoch, state.phase
            state.stale = 0
            self.best = {k: v.detach().cpu().clone() for k, v in evaluated.state_dict().items()}
        self.log({f"validation_{key}": value for key, value in scores.items()})
        if self.group.is_main:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            where = f"epoch {state.current_epoch}/{self.training.epochs}"
            if self.training.risk is not None and state.phase == MINIMUM_RISK:
                where = f"minimum risk, step {state.risk_steps}/{self.training.risk.steps}"
            print(f"{self.name} {where}, validation: {shown}", flush=True)

    def mean_losses(self, *names: str) -> dict[str, float]:
        """Means of the losses since the last call, of each of those that a step gives; waits for the device.

        Raises
        ------
        TrainingFailed
            When one is not a number.
        """
        self._collect_losses()
        columns = zip(*self.state.losses, strict=True) if len(names) > 1 else [self.state.losses]
        means = dict(zip(names, map(statistics.fmean, columns), strict=True))
        self.state.losses = []
        return means

    def _collect_losses(self) -> None:
        if not self.pending:
            return
        losses = self.group.all_reduce(torch.stack([loss for _, loss in self.pending])).cpu()
        first = self.state.steps - len(losses) + 1
        for step, (loss, (share, _)) in enumerate(zip(losses, self.pending, strict=True), first):
            if not bool(loss.isfinite().all()):
                self._refuse(f"the loss is {loss.tolist()} at step {step}", share)
        self.state.losses += losses.tolist()
        self.last, self.pending = self.pending[-1][0], []

    def _check_finite(self) -> None:
        """Refuse losses and weights that are not finite: a step may spoil weights after its loss was right."""
        self._collect_losses()
        finite = torch.stack([value.isfinite().all() for value in self.model.parameters()]).all()
        if not bool(finite):
            self._refuse(f"the weights are no numbers after step {self.state.steps}", self.last)

    def _refuse(self, what: str, share: Share) -> NoReturn:
        """End the training for non-finite values, found in or after a batch."""
        ids = ", ".join(str(cid) for cid in self.packed.cid[share.all_positions])
        kept = self.checkpoints.paths()
        raise TrainingFailed(
            f"{self.name}: {what}; lower the learning rates or the gradient clip. "
            f"Last good checkpoint: {kept[-1] if kept else 'none yet'}. CIDs of the batch: {ids}"
        )

    def save_if_due(self) -> bool:
        """Write a checkpoint if it is time; whether one was written. To be called by all processes after each step.

        Raises
        ------
        Stopped
            When a process got a signal to stop; the state is right for a checkpoint.
        """
        due = self.group.check_stop(due=time.monotonic() - self.last_save > 60 * self.checkpoint_minutes)
        if due:
            self.save()
        return due

    def save(self) -> None:
        """Write a checkpoint; to be called by all processes.

        Raises
        ------
        TrainingFailed
            When a loss or a weight is not a number.
        """
        self._check_finite()
        self.state.seconds = time.monotonic() - self.began
        own = {"cpu": torch.get_rng_state()}
        if self.group.cuda:
            own["cuda"] = torch.cuda.get_rng_state()
        random = self.group.all_gather(own)
        if self.group.is_main:
            parts = {"engine": self.engine.state(), "state": asdict(self.state), "best": self.best, "random": random}
            self.checkpoints.save(self.state.steps, parts)
        self.last_save = time.monotonic()

    def resume(self) -> None:
        """Take up the newest checkpoint that can be read; a new training where there is none."""
        group = self.group
        found = self.checkpoints.newest() if group.is_main else None
        path = group.broadcast(found[0] if found else None)
        if path is None:
            # Dropout differs between processes.
            torch.manual_seed(self.training.seed + 1 + group.rank)
            self.state = TrainState()
            return
        parts = found[1] if found else self.checkpoints.load(path)
        self.state = state = TrainState(**parts["state"])
        self.began = time.monotonic() - state.seconds
        if state.phase == MINIMUM_RISK and self.training.risk is not None:
            self.engine = RiskEngine(self.model, self.training, self.training.risk, group)
        self.engine.load(parts["engine"])
        self.best = parts["best"]
        if len(parts["random"]) == group.world_size:
            torch.set_rng_state(parts["random"][group.rank]["cpu"])
            if group.cuda and "cuda" in parts["random"][group.rank]:
                torch.cuda.set_rng_state(parts["random"][group.rank]["cuda"])
        else:
            torch.manual_seed(self.training.seed + 1 + group.rank + state.steps * group.world_size)
        if group.is_main:
            where = f"epoch {state.current_epoch}, step {state.steps}"
            print(f"{self.name}: going on from {path}, {where}", flush=True)

    def facts(self) -> dict[str, Any]:
        """What a finished training leaves in ``model.json`` of itself."""
        state = self.state
        return {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "training_pictures": len(self.members),
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "best_phase": state.best_phase,
            "validation_tanimoto": state.best,
            "seconds": round(state.seconds, 1),
            "processes": self.group.world_size,
            "precision": self.model.encoder.precision,
            "device": torch.cuda.get_device_name() if self.group.cuda else f"CPU, {self.threads} threads",
            "speed": medians([line for line in state.history if line["phase"] == CROSS_ENTROPY]),
            "risk_speed": medians([line for line in state.history if line["phase"] == MINIMUM_RISK]),
        }
