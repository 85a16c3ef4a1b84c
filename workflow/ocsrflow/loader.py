"""Batches of a packed data set, in an order that depends on seed and epoch alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .packed import Packed
from .tokenizer import END, PAD, START

AHEAD = 3  # batches that each process reads ahead


@dataclass
class Batch:
    """Pictures with their tokens, from the longest text to the shortest."""

    positions: list[int]  # in the packed data set
    pictures: Tensor  # (batch, channels, height, width) uint8; overwritten once two more batches were taken
    tokens: Tensor  # (batch, longest + 1) int64: start, tokens, padding
    steps: list[int]  # rows still running at every step
    targets: Tensor  # (sum of steps,) int64: the tokens that follow, in the order of a PackedSequence

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader, for copies that overlap with the GPU's work."""
        self.pictures, self.tokens = self.pictures.pin_memory(), self.tokens.pin_memory()
        self.targets = self.targets.pin_memory()
        return self


class Pictures(Dataset[Batch]):
    """Whole batches of a packed data set by their positions, read into memory that is used over and over.

    New memory for every batch would cost more than the reading. So there are ``slots`` places for a batch, shared
    with the reading processes, and a batch is valid until two more are taken.
    """

    def __init__(self, packed: Packed, largest: int, slots: int, *, shared: bool) -> None:
        self.packed = packed
        self.slots = [torch.empty((largest, *packed.shape), dtype=torch.uint8) for _ in range(slots)]
        if shared:
            for slot in self.slots:
                slot.share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, item: tuple[int, NDArray[np.int64]]) -> Batch:
        number, positions = item
        return collate(self.packed, positions, self.slots[number % len(self.slots)])


def collate(packed: Packed, positions: NDArray[np.int64], slot: Tensor | None = None) -> Batch:
    """The batch of some pictures of a packed data set, in a given place or in new memory."""
    texts = [packed.tokens_of(int(at)) for at in positions]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    longest = len(texts[order[0]])
    tokens = np.full((len(order), longest + 2), PAD, dtype=np.int64)
    tokens[:, 0] = START
    for row, i in enumerate(order):
        text = texts[i]
        tokens[row, 1 : 1 + len(text)] = text
        tokens[row, 1 + len(text)] = END
    lengths = np.array([len(texts[i]) + 1 for i in order])
    steps = [int((lengths > t).sum()) for t in range(longest + 1)]
    targets = np.concatenate([tokens[:n, t + 1] for t, n in enumerate(steps)])
    where = [int(positions[i]) for i in order]
    if slot is None:
        slot = torch.empty((len(where), *packed.shape), dtype=torch.uint8)
    pictures = slot[: len(where)]
    packed.pictures(where, pictures.numpy())
    return Batch(
        where,
        pictures,
        torch.from_numpy(tokens[:, :-1].copy()),
        steps,
        torch.from_numpy(targets),
    )


class EpochBatches:
    """Positions of every batch of one epoch, for one of several processes.

    The order of the pictures depends on seed and epoch alone. A global batch is dealt out to the processes, so that
    a step means the same however many there are; the last, smaller batch is kept where every process gets a picture.
    """

    def __init__(
        self, members: NDArray[np.int64], batch: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1
    ) -> None:
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(members)
        whole = [order[at : at + batch] for at in range(0, len(order), batch)]
        self.batches = [positions[rank::world] for positions in whole if len(positions) >= world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.batches)

    def after(self, step: int) -> list[NDArray[np.int64]]:
        """The batches from number ``step`` on."""
        return self.batches[step:]


def load(packed: Packed, batches: list[NDArray[np.int64]], *, workers: int, pin: bool) -> DataLoader[Batch]:
    """A loader over given batches; ``workers`` processes read ahead, 0 reads in this process."""
    # Batch n may use the place of batch n - slots: it is begun when batch n - workers · AHEAD is handed out.
    pictures = Pictures(packed, max(map(len, batches), default=0), workers * AHEAD + 2, shared=workers > 0)
    return DataLoader(
        pictures,
        sampler=list(enumerate(batches)),  # type: ignore[arg-type]  # an "index" is a number and a batch's positions
        batch_size=None,
        # Else an iterator draws from the global random state, and a training that goes on would not be the same.
        generator=torch.Generator(),
        num_workers=workers,
        pin_memory=pin,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=AHEAD if workers else None,
    )
