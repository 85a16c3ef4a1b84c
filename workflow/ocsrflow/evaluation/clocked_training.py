"""Some steps of a training against the clock: what the processes of the stage ``speed_training`` run."""

import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config.network import Network
from ..config.training import Training
from ..network.batches import Epochs, Loader, Share
from ..network.model import EncoderDecoder
from ..pictures.packed_file import Packed
from ..runtime.errors import UserError
from ..runtime.files import write_json
from ..training.engine import Engine, enough_memory
from ..training.process_group import ProcessGroup, Stopped, join
from ..training.throughput import peak, training_flops

WARM_UP = 5  # steps before the clock counts: readers start, kernels are chosen, memory is taken
WINDOW = 5  # steps timed together, about: to wait for the device after each would slow it down
PATIENCE = 60.0  # seconds after which no other window begins, so that a slow machine is measured too


@dataclass(frozen=True)
class Window:
    """Some steps of one process."""

    steps: int
    seconds: float
    waited: float  # seconds of them, for the next batch
    pictures: int
    tokens: int


def clocked_training(
    data: Path,
    *,
    out: Path,
    name: str,
    network: Network,
    training: Training,
    steps: int = 30,
    threads: int = 1,
) -> None:
    """Measure the speed of a training, shared by the processes that torchrun started.

    The steps are those that the stage ``train`` would begin with, the reading of their pictures included. Only the
    weights are random: they make a step neither faster nor slower.

    Parameters
    ----------
    data
        Packed data set.
    out
        JSON file: ``processes``, ``device``, ``steps`` measured, and medians over windows of some steps
        (``images_per_second`` and ``step_seconds`` of all processes together; ``data_wait``, the share of the time;
        ``teraflops`` and ``mfu`` of each one); ``windows`` (images per second in each), ``gpu_memory_gib`` (of the
        fullest). Where the GPU's memory is too small, ``not_measured`` says so in a file beside it (its name with the
        process's rank).
    name
        Name of the model.
    network
        Shape of the network.
    training
        How it is trained.
    steps
        Steps measured, after a warm-up; fewer where they take longer than :data:`PATIENCE`.
    threads
        Threads of all processes together on a CPU, or worker processes of all that read pictures for GPUs.

    Raises
    ------
    UserError
        When the data set is too small, the network cannot be built, or the GPU's memory is too small.
    """
    group = join(threads)
    try:
        with group.active():
            packed = Packed(data)
            flops = training_flops(network, len(packed.vocabulary), packed.shape)
            windows = _windows(packed, name, network, training, group, steps, threads, out)
            all_windows = group.all_gather(windows)
            memory = group.all_gather(torch.cuda.max_memory_allocated() / 2**30 if group.cuda else None)
            if group.is_main:
                device = torch.cuda.get_device_name() if group.cuda else f"CPU, {threads} threads"
                steps = sum(window.steps for window in windows)
                found = {"processes": group.world_size, "device": device, "steps": steps}
                found |= _medians(all_windows, flops, peak(group.device))
                if group.cuda:
                    found["gpu_memory_gib"] = round(max(memory), 3)
                write_json(out, found)
    except Stopped as stopped:
        sys.exit(stopped.status)


def _windows(
    packed: Packed,
    name: str,
    network: Network,
    training: Training,
    group: ProcessGroup,
    steps: int,
    threads: int,
    out: Path,
) -> list[Window]:
    """Train for some steps; what this process did in each window after the warm-up."""
    torch.manual_seed(training.seed)
    try:
        model = EncoderDecoder(network, len(packed.vocabulary))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    epochs = Epochs(
        packed,
        packed.members("train"),
        training.batch,
        seed=training.seed,
        rank=group.rank,
        world_size=group.world_size,
    )
    rounds = math.ceil((WARM_UP + steps) / len(epochs))
    engine = Engine(model, training, group, WARM_UP + steps)
    engine.model.train()
    workers = max(1, threads // group.world_size) if group.cuda else 0
    largest = math.ceil(training.batch / group.world_size)
    stream = iter(Loader(packed, epochs.stream(0, 0, rounds), largest, workers=workers, pin=group.cuda))
    shares = enumerate(chain.from_iterable(map(epochs.epoch, range(rounds))))
    sizes = [WARM_UP, *(len(part) for part in np.array_split(range(steps), max(1, steps // WINDOW)))]
    windows: list[Window] = []
    began = time.monotonic()
    for size in sizes:
        if len(windows) > 1 and group.check_stop(due=time.monotonic() - began > PATIENCE):
            break
        windows.append(_window(engine, stream, islice(shares, size), size, out))
    return windows[1:]


def _window(
    engine: Engine, stream: Iterator[Any], shares: Iterator[tuple[int, Share]], steps: int, out: Path
) -> Window:
    """Some steps, from a device that has nothing to do to a device that has done them."""
    group = engine.group
    waited, pictures, tokens = 0.0, 0, 0
    began = time.perf_counter()
    for number, share in shares:
        before = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - before
        pictures, tokens = pictures + len(batch.positions), tokens + len(batch.targets)
        try:
            with enough_memory(engine.training, group):
                engine.step(batch, share, number)
        except UserError as error:  # too little memory, for one process or for several: a result, too
            failed = out.with_name(f"{out.stem}-{group.rank}{out.suffix}")
            write_json(failed, {"processes": group.world_size, "not_measured": str(error)})
            raise
        group.check_stop()
    if group.cuda:
        torch.cuda.synchronize()
    return Window(steps, time.perf_counter() - began, waited, pictures, tokens)


def _medians(
    all_windows: list[list[Window]], flops: tuple[float, float], peak_flops: float | None
) -> dict[str, float | list[float]]:
    """Medians over the windows.

    Parameters
    ----------
    all_windows
        The windows of each process.
    flops
        Operations for each picture and for each token.
    peak_flops
        Operations a second that a device could do, where that is known.
    """
    rows = []
    for parts in zip(*all_windows, strict=True):
        seconds = max(part.seconds for part in parts)  # the step is done when the last one has done it
        done = sum(part.pictures * flops[0] + part.tokens * flops[1] for part in parts) / len(parts)
        row = {
            "images_per_second": sum(part.pictures for part in parts) / seconds,
            "step_seconds": seconds / parts[0].steps,
            "data_wait": statistics.fmean(part.waited / part.seconds for part in parts),
            "teraflops": done / seconds / 1e12,
        }
        rows.append(row | ({"mfu": done / seconds / peak_flops} if peak_flops else {}))
    found: dict[str, float | list[float]] = {
        key: round(statistics.median(row[key] for row in rows), 6) for key in rows[0]
    }
    return found | {"windows": [round(row["images_per_second"], 3) for row in rows]}
