"""One training step, the same for one process and for several, on GPUs and on the CPU."""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.training import Training
from ..network.batches import Batch, Share
from ..network.model import EncoderDecoder
from ..runtime.errors import TrainingFailed
from .augment import augment
from .process_group import ProcessGroup


class Engine:
    """Network, optimiser and schedule of a training, and what a step does with them."""

    def __init__(self, model: EncoderDecoder, training: Training, group: ProcessGroup, steps: int) -> None:
        """Put a network on this process's device.

        Parameters
        ----------
        model
            The network, the same in all processes.
        training
            How it is trained.
        group
            This process among the others.
        steps
            Length of the training in steps, for the schedule.
        """
        self.training, self.group = training, group
        self.model = model.to(group.device)
        self.model.set_precision(training.precision, group.device)
        if group.cuda:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if training.compile:
            torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
            self.model.encoder.compile(dynamic=False)  # all batches have one size
        self.parallel: nn.Module = self.model
        if group.world_size > 1:
            # Said of depthwise weights at every start; it concerns a few kilobytes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            devices = [group.device] if group.cuda else None
            # Batch statistics are not sent at every step: a step does not depend on them, and they are aligned before
            # each validation.
            self.parallel = DistributedDataParallel(
                self.model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimiser = _optimiser(model, training)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: learning_rate_factor(step, steps, training)
        )
        self.averaged = copy.deepcopy(self.model).requires_grad_(False) if training.ema else None

    @property
    def evaluated(self) -> EncoderDecoder:
        """The network that is validated and kept: that of the averaged weights, where they are averaged."""
        return self.model if self.averaged is None else self.averaged

    def step(self, batch: Batch, share: Share, number: int) -> Tensor:
        """One optimiser step.

        Parameters
        ----------
        batch
            This process's pictures and texts.
        share
            What they are the share of.
        number
            Of the step, from 0, for the random numbers of the augmentation.

        Returns
        -------
        This process's part of the cross-entropy a token of the global batch, in nats; on the device, not waited for.
        The parts of all processes add up.
        """
        training, group = self.training, self.group
        pictures, tokens, targets = (
            part.to(group.device, non_blocking=True) for part in (batch.pictures, batch.tokens, batch.targets)
        )
        pictures = augmented(pictures, training, number, group)
        with self.model.autocast():
            entropy, penalty = self.parallel(pictures, tokens, batch.steps, targets)
        loss = entropy / share.tokens + training.attention_penalty * penalty / share.pictures
        self.optimiser.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients over processes: times their number it is the sum, so that a step
        # is that of the global batch, however many share it.
        (group.world_size * loss).backward()
        torch.nn.utils.clip_grad_value_(self.model.parameters(), training.gradient_clip)
        self.optimiser.step()
        self.schedule.step()
        if self.averaged is not None:
            average(self.averaged, self.model, training.ema if number else 0.0)
        part: Tensor = entropy.detach() / share.tokens
        return part

    def state(self) -> dict[str, Any]:
        """Everything a later training needs to go on from here."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


def augmented(pictures: Tensor, training: Training, number: int, group: ProcessGroup) -> Tensor:
    """Pictures of step ``number``, changed at random where the training asks for it, in each process otherwise."""
    if not training.augmentation.on:
        return pictures
    seed = np.random.SeedSequence([training.seed, number, group.rank]).generate_state(1)[0]
    return augment(pictures, training.augmentation, torch.Generator().manual_seed(int(seed)))


@contextmanager
def enough_memory(
    training: Training, group: ProcessGroup, *, batch: int | None = None, setting: str = "training.batch"
) -> Iterator[None]:
    """Say what can be done where the GPU's memory is too small for what is in this block.

    Parameters
    ----------
    training, group
        How the network is trained, and this process among the others.
    batch, setting
        Pictures of a step and the configuration's key, where they are not those of the training by cross-entropy.

    Raises
    ------
    TrainingFailed
        In place of PyTorch's ``OutOfMemoryError``.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        batch = batch or training.batch
        raise TrainingFailed(
            f"out of GPU memory with {math.ceil(batch / group.world_size)} pictures on a GPU ({batch} a "
            f"step over {group.world_size}); lower {setting} or network.image_size, or give the model more gpus"
        ) from None


@torch.no_grad()
def average(averaged: EncoderDecoder, model: EncoderDecoder, decay: float) -> None:
    """Move the averages towards the weights and statistics of now.

    PyTorch's AveragedModel does the same, but waits for the GPU twice a step.
    """
    pairs = list(zip(_values(averaged), _values(model), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([kept for kept, _ in floats], [now for _, now in floats], 1 - decay)
    for kept, now in pairs:
        if not kept.is_floating_point():  # numbers of batches
            kept.copy_(now)


def _values(model: EncoderDecoder) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _optimiser(model: EncoderDecoder, training: Training) -> torch.optim.Optimizer:
    """Adam with a learning rate for the encoder and one for the decoder."""
    groups = [
        {"params": [p for p in model.encoder.parameters() if p.requires_grad], "lr": training.encoder_lr},
        {"params": list(model.decoder.parameters()), "lr": training.decoder_lr},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


def learning_rate_factor(step: int, steps: int, training: Training) -> float:
    """What both learning rates are multiplied with at a step of ``steps``: linear warm-up, then the schedule."""
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    if training.schedule == "constant":
        return warm
    after = max(0, step - training.warmup_steps) / max(1, steps - training.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, after)))
