"""Batches of a packed data set, in an order that depends on seed and epoch alone."""

import itertools
import signal
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..chem.tokenizer import END, PAD, START
from ..pictures.packed_file import Packed
from ..runtime.errors import UserError
from ..runtime.isolated import without_ctrl_c

AHEAD = 3  # batches that each process reads ahead


@dataclass
class Batch:
    """Pictures with their tokens, from the longest text to the shortest."""

    positions: list[int]  # in the packed data set
    pictures: Tensor  # (batch, channels, height, width) uint8; overwritten once two more batches were taken
    tokens: Tensor  # (batch, longest + 1) int64: start, tokens, padding
    steps: list[int]  # rows still running at every step
    targets: Tensor  # (sum of steps,) int64: the tokens that follow, in the order of a PackedSequence


@dataclass
class Sent:
    """A batch as a reading process sends it: the pictures stay where they are, in memory that both have.

    Tensors sent by PyTorch would each take a connection and a new mapping of memory, some milliseconds a batch.
    """

    key: int  # of the :class:`Pictures`
    slot: int
    positions: list[int]
    tokens: NDArray[np.int64]
    steps: list[int]
    targets: NDArray[np.int64]

    def batch(self) -> Batch:
        """The batch, in the process that made the :class:`Pictures`."""
        pictures = PICTURES[self.key].slots[self.slot][: len(self.positions)]
        tokens, targets = torch.from_numpy(self.tokens), torch.from_numpy(self.targets)
        return Batch(self.positions, pictures, tokens, self.steps, targets)

    def pin_memory(self) -> Batch:
        """Called by the DataLoader's thread, for copies that overlap with the GPU's work."""
        batch = self.batch()
        batch.pictures, batch.tokens = batch.pictures.pin_memory(), batch.tokens.pin_memory()
        batch.targets = batch.targets.pin_memory()
        return batch


class Pictures(Dataset[Sent | UserError]):
    """Whole batches of a packed data set by their positions, read into memory that is used over and over.

    New memory for every batch would cost more than the reading. So there are ``slots`` places for a batch, shared
    with the reading processes, and a batch is valid until two more are taken.
    """

    def __init__(self, packed: Packed, largest: int, slots: int, *, shared: bool) -> None:
        self.packed, self.key = packed, next(KEYS)
        self.slots = [torch.empty((largest, *packed.shape), dtype=torch.uint8) for _ in range(slots)]
        if shared:
            for slot in self.slots:
                slot.share_memory_()  # type: ignore[no-untyped-call]
        PICTURES[self.key] = self

    def __getitem__(self, item: tuple[int, NDArray[np.int64]]) -> Sent | UserError:
        number, positions = item[0] % len(self.slots), item[1]
        where, tokens, steps, targets = _texts(self.packed, positions)
        try:
            self.packed.pictures(where, self.slots[number][: len(where)].numpy())
        except UserError as error:
            return error  # told by the process that asked: PyTorch would wrap it into a traceback
        return Sent(self.key, number, where, tokens, steps, targets)


KEYS = itertools.count()
PICTURES: weakref.WeakValueDictionary[int, Pictures] = weakref.WeakValueDictionary()


def _texts(
    packed: Packed, positions: NDArray[np.int64]
) -> tuple[list[int], NDArray[np.int64], list[int], NDArray[np.int64]]:
    """Positions from the longest text to the shortest, tokens, steps and targets, as in a :class:`Batch`."""
    order, tokens, steps, targets = in_steps([packed.tokens_of(int(at)) for at in positions])
    return [int(positions[i]) for i in order], tokens, steps, targets


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
    everyones: NDArray[np.int64]  # the pictures of all processes
    tokens: int  # of all processes, each text with its end

    @property
    def pictures(self) -> int:
        """Pictures of all processes."""
        return len(self.everyones)


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
        world: int = 1,
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
        rank, world
            This process among all.
        setting
            The configuration's key of ``batch``, for the message.

        Raises
        ------
        UserError
            When there are fewer pictures than one batch takes.
        """
        if len(members) < batch:
            raise UserError(
                f"{packed.path}: {len(members)} training pictures are less than one batch of {batch}; draw more "
                f"molecules or lower {setting}"
            )
        self.members, self.batch, self.seed = members, batch, seed
        self.rank, self.world = rank, world
        self.lengths = np.diff(packed.offsets) + 1

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.members) // self.batch

    def epoch(self, number: int) -> list[Share]:
        """The batches of an epoch, from 0."""
        random = np.random.Generator(np.random.PCG64([self.seed, number]))
        order = random.permutation(self.members)[: len(self) * self.batch]
        cut = [order[at : at + self.batch] for at in range(0, len(order), self.batch)]
        return [Share(part[self.rank :: self.world], part, int(self.lengths[part].sum())) for part in cut]

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
            Processes that read ahead; 0 reads in this process.
        pin
            Whether batches are copied into memory that a GPU reads by itself.
        """
        # Batch n may use the place of batch n - slots: it is begun when batch n - workers · AHEAD is handed out.
        slots = workers * AHEAD + 2
        self._pictures = Pictures(packed, largest, slots, shared=workers > 0)
        self._loader: DataLoader[Sent | UserError] = DataLoader(
            self._pictures,
            sampler=enumerate(batches),  # type: ignore[arg-type]  # an "index": a number, a batch's positions
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
        for sent in received:
            if isinstance(sent, UserError):
                raise sent
            yield sent.batch() if isinstance(sent, Sent) else sent  # else pinned, and a batch already


def _ignore_signals(_: int) -> None:
    """What stops a job is sent to all its processes, but the one that trains must still be able to finish its step.

    A reading process ends when the other says so, or has ended.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(sent: Any) -> Any:
    return sent  # PyTorch would make tensors of the arrays
