"""Batches of a packed data set, in an order that depends on seed and epoch alone."""

import itertools
import math
import shutil
import signal
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..chem.tokenizer import END, PAD, START
from ..pictures.packed_file import Packed
from ..runtime.errors import TrainingFailed, UserError
from ..runtime.isolated import without_ctrl_c

AHEAD = 2  # batches that are read ahead, by all processes together
SHARED = Path("/dev/shm")  # noqa: S108  (where Linux keeps memory that processes share)


@dataclass
class Batch:
    """Pictures with their tokens, from the longest text to the shortest."""

    positions: list[int]  # in the packed data set
    pictures: Tensor  # (batch, channels, height, width) uint8; overwritten once two more batches were taken
    tokens: Tensor  # (batch, longest + 1) int64: start, tokens, padding
    steps: list[int]  # rows still running at every step
    targets: Tensor  # (sum of steps,) int64: the tokens that follow, in the order of a PackedSequence


@dataclass
class Texts:
    """The texts of a batch, as in a :class:`Batch`."""

    positions: list[int]
    tokens: NDArray[np.int64]
    steps: list[int]
    targets: NDArray[np.int64]


@dataclass
class Part:
    """Some pictures of a batch, as a reading process reports them: they stay in memory that both have.

    Tensors sent by PyTorch would each take a connection and a new mapping of memory, some milliseconds a batch.
    """

    key: int  # of the :class:`Pictures`
    batch: int  # its number
    rows: slice
    texts: Texts | None  # of the whole batch, with its first part

    def pin_memory(self) -> "Part":
        """Called by the DataLoader's one thread for that: copy the pictures to where a GPU reads by itself."""
        PICTURES[self.key].pin(self)
        return self


class Pictures(Dataset[Part | UserError]):
    """Batches of a packed data set by their positions, read into memory that is used over and over.

    New memory for every batch would cost more than the reading. So there are ``slots`` places for a batch, shared
    with the reading processes, and a batch is valid until two more are taken. Each process reads a part of every
    batch, so that the places needed do not grow with the processes.
    """

    def __init__(self, packed: Packed, largest: int, workers: int, setting: str) -> None:
        """Take the memory, which is shared where there are reading processes.

        Raises
        ------
        UserError
            Where there is too little of it.
        """
        self.packed, self.key, self.parts = packed, next(KEYS), max(1, workers)
        slots = AHEAD + 2 if workers else 2
        needed = slots * largest * math.prod(packed.shape)
        too_small = UserError(
            f"{SHARED} is too small for {slots} batches of {largest} pictures: {needed / 1e6:,.0f} MB are needed; "
            f"enlarge it (docker run --shm-size={math.ceil(1.25 * needed / 2**30)}g), or lower {setting}"
        )
        if workers and SHARED.is_dir() and shutil.disk_usage(SHARED).free < needed:
            raise too_small
        self.slots = [torch.empty((largest, *packed.shape), dtype=torch.uint8) for _ in range(slots)]
        try:
            for slot in self.slots if workers else ():
                slot.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:  # another process has taken what was free
            raise too_small from None
        self.pinned: dict[int, Tensor] = {}
        PICTURES[self.key] = self

    def __getitem__(self, item: tuple[int, int, NDArray[np.int64]]) -> Part | UserError:
        batch, part, positions = item
        ends = len(positions) * part // self.parts, len(positions) * (part + 1) // self.parts
        rows = slice(*ends)
        try:
            self.packed.pictures(positions[rows].tolist(), self.slot(batch)[rows].numpy())
        except UserError as error:
            return error  # raised by the process that asked: PyTorch would wrap it into a traceback
        return Part(self.key, batch, rows, None if part else self._texts(positions))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pinned": {}}

    def slot(self, batch: int) -> Tensor:
        """The place of a batch."""
        return self.slots[batch % len(self.slots)]

    def items(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """What the reading processes are asked for: number of a batch, part, positions from the longest text on."""
        for number, positions in enumerate(batches):
            lengths = self.packed.offsets[positions + 1] - self.packed.offsets[positions]
            ordered = positions[np.argsort(-lengths, kind="stable")]
            for part in range(self.parts):
                yield number, part, ordered

    def pin(self, part: Part) -> None:
        """Copy a part to the pinned memory of its batch, which its first part that comes takes."""
        whole = self.pinned.get(part.batch)
        if whole is None:
            whole = self.pinned[part.batch] = torch.empty_like(self.slots[0], pin_memory=True)
        whole[part.rows].copy_(self.slot(part.batch)[part.rows])

    def batch(self, number: int, texts: Texts) -> Batch:
        """A batch whose parts have all come."""
        pictures = self.pinned.pop(number, self.slot(number))[: len(texts.positions)]
        tokens, targets = torch.from_numpy(texts.tokens), torch.from_numpy(texts.targets)
        return Batch(texts.positions, pictures, tokens, texts.steps, targets)

    def _texts(self, positions: NDArray[np.int64]) -> Texts:
        order, tokens, steps, targets = in_steps([self.packed.tokens_of(int(at)) for at in positions])
        return Texts([int(positions[i]) for i in order], tokens, steps, targets)


KEYS = itertools.count()
PICTURES: weakref.WeakValueDictionary[int, Pictures] = weakref.WeakValueDictionary()


def in_steps(
    texts: Sequence[Sequence[int] | NDArray[np.uint16]],
) -> tuple[list[int], NDArray[np.int64], list[int], NDArray[np.int64]]:
    """Texts as a teacher-forced pass takes them.

    Parameters
    ----------
    texts
        Token numbers without start and end.

    Returns
    -------
    Where each row's text stands in ``texts``, from the longest to the shortest; tokens, steps and targets as in a
    :class:`Batch`.
    """
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
    return order, tokens[:, :-1].copy(), steps, targets


@dataclass(frozen=True)
class Share:
    """What one process gets of a global batch."""

    positions: NDArray[np.int64]  # its own pictures
    all_positions: NDArray[np.int64]  # the pictures of all processes
    tokens: int  # of all processes, each text with its end

    @property
    def pictures(self) -> int:
        """Pictures of all processes."""
        return len(self.all_positions)


class Epochs:
    """The batches of every epoch, for one of several processes.

    The order of the pictures depends on seed and epoch alone. A global batch is dealt out to the processes, so that
    a step means the same however many there are. The pictures left over at the end, fewer than a batch, wait for the
    next epoch, which has another order.
    """

    def __init__(
        self,
        packed: Packed,
        members: NDArray[np.int64],
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        setting: str = "training.batch",
    ) -> None:
        """Say how an epoch is cut.

        Parameters
        ----------
        packed
            The data set.
        members
            Positions of the training pictures.
        batch
            Pictures in a global batch.
        seed
            Of the order.
        rank, world_size
            This process among all.
        setting
            The configuration's key of ``batch``, for the message.

        Raises
        ------
        TrainingFailed
            When there are fewer pictures than one batch takes.
        """
        if len(members) < batch:
            raise TrainingFailed(
                f"{packed.path}: {len(members)} training pictures are less than one batch of {batch}; draw more "
                f"molecules or lower {setting}"
            )
        self.members, self.batch, self.seed = members, batch, seed
        self.rank, self.world_size = rank, world_size
        self.lengths = np.diff(packed.offsets) + 1

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.members) // self.batch

    def epoch(self, number: int) -> list[Share]:
        """The batches of an epoch, from 0."""
        random = np.random.Generator(np.random.PCG64([self.seed, number]))
        order = random.permutation(self.members)[: len(self) * self.batch]
        cut = [order[at : at + self.batch] for at in range(0, len(order), self.batch)]
        return [Share(part[self.rank :: self.world_size], part, int(self.lengths[part].sum())) for part in cut]

    def stream(self, epoch: int, step: int, epochs: int) -> Iterator[NDArray[np.int64]]:
        """Positions of its own, batch for batch, from a step of an epoch to the end of the last one."""
        for number in range(epoch, epochs):
            for share in self.epoch(number)[step:]:
                yield share.positions
            step = 0


class Loader:
    """Given batches, one after the other; to be gone through by one at a time, since its memory is used again."""

    def __init__(
        self,
        packed: Packed,
        batches: Iterable[NDArray[np.int64]],
        largest: int,
        *,
        workers: int,
        pin: bool,
        setting: str = "training.batch",
    ) -> None:
        """Say what is read.

        Parameters
        ----------
        packed
            The data set.
        batches
            Positions of each batch; they may be worked out while it goes on.
        largest
            Pictures in the largest of them.
        workers
            Processes that read ahead, each a part of every batch; 0 reads in this process.
        pin
            Whether batches are copied into memory that a GPU reads by itself.
        setting
            The configuration's key of the pictures in a batch, for the message.

        Raises
        ------
        UserError
            Where there is too little shared memory.
        """
        # Batch n + AHEAD is begun when batch n is handed out, and batch n is valid until n + 2 is.
        self._pictures = Pictures(packed, largest, workers, setting)
        self._loader: DataLoader[Part | UserError] = DataLoader(
            self._pictures,
            sampler=self._pictures.items(batches),  # type: ignore[arg-type]  # its items are "indices"
            batch_size=None,
            # Else an iterator draws from the global random state, and a training that goes on would not be the same.
            generator=torch.Generator(),
            num_workers=workers,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=AHEAD if workers else None,
        )

    def __iter__(self) -> Generator[Batch]:
        with without_ctrl_c():
            received = iter(self._loader)
        texts: Texts | None = None
        for number, part in enumerate(received):
            if isinstance(part, UserError):
                raise part
            texts = part.texts or texts
            if (number + 1) % self._pictures.parts == 0:
                assert texts is not None
                yield self._pictures.batch(part.batch, texts)


def _ignore_signals(_: int) -> None:
    """What stops a job is sent to all its processes, but the one that trains must still be able to finish its step.

    A reading process ends when the other says so, or has ended.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(part: Any) -> Any:
    return part  # PyTorch would make tensors of the arrays
