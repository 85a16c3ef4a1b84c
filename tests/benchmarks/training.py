"""Training end to end against the same network on made-up data in memory: what reading costs.

    python tests/benchmarks/training.py [--data images.h5] [--encoders resnet152 ...] [--batch 384] [--compile]

With a GPU the pictures come from the packed file by way of reading processes, pinned memory and the GPU's own resizing;
the made-up batch lies on the GPU from the start. Rounds of both are interleaved; medians are printed. Without a
``--data`` set, one of NCI molecules is made. Under torchrun each process takes its own GPU, as in a training.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import Network
from ocsrflow.config.training import Training
from ocsrflow.network.batches import Batch, Epochs, Loader, Share
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.training.engine import Engine
from ocsrflow.training.process_group import ProcessGroup, join
from ocsrflow.training.throughput import peak, training_flops
from pictures import make

TABLE = ("efficientnet_b0", "resnet152", "resnext101_32x8d", "wide_resnet101_2")


def wait_for(group: ProcessGroup) -> None:
    """Until the device has done what it was told."""
    if group.cuda:
        torch.cuda.synchronize()


def on_device(batch: Batch, group: ProcessGroup) -> Batch:
    """A copy of a batch that needs no more copying."""
    pictures, tokens, targets = (
        part.to(group.device, copy=True) for part in (batch.pictures, batch.tokens, batch.targets)
    )
    return Batch(batch.positions, pictures, tokens, batch.steps, targets)


def measure(encoder: str, packed: Packed, options: argparse.Namespace, group: ProcessGroup) -> dict[str, Any]:
    """One encoder's row: what was measured, by the name of the column."""
    if group.cuda:
        torch.cuda.reset_peak_memory_stats()
    network = Network(
        encoder=encoder,
        pretrained="none",
        frozen_children=0,
        image_size=options.image_size,
        stride=options.stride,
        grid=options.grid,
        dim=options.dim,
    )
    training = Training(batch=options.batch, compile=options.compile)
    engine = Engine(EncoderDecoder(network, len(packed.vocabulary)), training, group, 10**6)
    engine.model.train()
    epochs = Epochs(
        packed, packed.members("train"), training.batch, seed=0, rank=group.rank, world_size=group.world_size
    )
    workers = max(1, options.threads // group.world_size) if group.cuda else 0
    loader = Loader(packed, epochs.stream(0, 0, 10**6), training.batch, workers=workers, pin=group.cuda)
    shares: Iterator[Share] = itertools.chain.from_iterable(epochs.epoch(n) for n in itertools.count())
    seconds, waits = defaultdict(list), []
    with closing(iter(loader)) as stream:
        share = next(shares)
        held = on_device(next(stream), group)
        for step in range(3):  # warm-up
            engine.step(held, share, step)
        for _ in range(options.rounds):
            wait_for(group)
            began = time.perf_counter()
            for step in range(options.steps):
                engine.step(held, share, step)
            wait_for(group)
            seconds["in memory"].append((time.perf_counter() - began) / options.steps)
            next(shares), engine.step(next(stream), share, 0)  # the readers have had time to read ahead: not counted
            wait_for(group)
            began, waited, tokens = time.perf_counter(), 0.0, 0
            for step in range(options.steps):
                before = time.perf_counter()
                batch, own = next(stream), next(shares)
                waited += time.perf_counter() - before
                tokens += own.tokens
                engine.step(batch, own, step)
            wait_for(group)
            seconds["from the file"].append((time.perf_counter() - began) / options.steps)
            waits.append(waited / (time.perf_counter() - began))
    fast, real = (statistics.median(seconds[name]) for name in ("in memory", "from the file"))
    for_picture, for_token = training_flops(network, len(packed.vocabulary), packed.shape)
    flops = (for_picture * training.batch + for_token * share.tokens) / fast
    possible = peak(group.device)
    return {
        "encoder": encoder,
        "images/s in memory": f"{training.batch / fast:.1f}",
        "from the file": f"{training.batch / real:.1f}",
        "ratio": f"{fast / real:.3f}",
        "waiting": f"{statistics.median(waits):.1%}",
        "TFLOP/s": f"{flops / 1e12:.2f}",
        "MFU": f"{flops / possible / group.world_size:.1%}" if possible else "–",
        "GiB": f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if group.cuda else "–",
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pictures", type=int, default=2000, help="of the data set that is made")
    parser.add_argument("--encoders", nargs="+", default=TABLE)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--stride", type=int, default=32)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8, help="of all processes: computing on a CPU, reading for GPUs")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    group = join(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            make(Path(folder), None, options.pictures, Depiction())
        packed = Packed(options.data or Path(folder) / "images.h5")
        if group.is_main:
            where = torch.cuda.get_device_name() if group.cuda else f"CPU, {torch.get_num_threads()} threads"
            print(f"{group.world_size} × {where}, torch {torch.__version__}, pictures {packed.shape}\n")
            print("| encoder | images/s in memory | from the file | ratio | waiting | TFLOP/s | MFU | GiB |")
            print("|---|---|---|---|---|---|---|---|")
        with group.active():
            for encoder in options.encoders:
                row = measure(encoder, packed, options, group)
                if group.is_main:
                    print(f"| {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
