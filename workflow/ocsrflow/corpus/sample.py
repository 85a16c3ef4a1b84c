"""Stage ``sample``: draw a data set's molecules and put each into a split.

A draw fills slots. A uniform data set has ``per_length`` slots of every length, any other one has slots for molecules
of whatever length; each slot takes the next usable molecule of its length, in the order of a 64-bit hash of (seed,
CID). So neither the order of the source nor the way it is read matters, and a smaller draw is contained in a larger
one. With ``size``, so many slots are filled, in an order of their own hash: a second random draw, as the talk has it,
that never asks RDKit about molecules which it would not take.
"""

import json
import multiprocessing
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..chem.molecules import canonical, fraction
from ..runtime.csv_tables import write_csv, write_rejects
from ..runtime.errors import UserError, of_the_system
from ..runtime.files import whole
from ..runtime.parent_watch import follow_parent
from ..runtime.progress import progress
from .hash_sample import Lowest, hash64

MARGIN, SLACK = 1.25, 1000  # candidates for each molecule wanted, for those that RDKit will refuse
CHUNK = 256  # SMILES handed to a process at a time
SPARES = 1000  # one spare for so many molecules, and one more: for those that cannot be drawn
SCHEMA = pa.schema(
    [
        ("cid", pa.int64()),
        ("smiles", pa.string()),
        ("canonical", pa.string()),
        ("length", pa.uint16()),
        ("split", pa.string()),
        ("file", pa.string()),
        ("spare", pa.bool_()),
    ]
)

# Texts of more than 2 GB in all fit into no array of Arrow's plain strings.
FETCHED = pa.schema([("cid", pa.int64()), ("smiles", pa.large_string()), ("file", pa.large_string())])

Canonical = Callable[[list[str]], Iterator[str | None]]


class Kept:
    """The Parquet file of the stage ``filter``, read a row group at a time."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        self.path, self.threads = path, threads
        with self._told():
            self.file = pq.ParquetFile(path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, KeyError) as error:
            raise of_the_system(error, self.path) or UserError(
                f"{self.path}: not a whole file of filtered molecules ({error}); remove it and run the workflow again"
            ) from None

    def columns(self, *names: str) -> Iterator[list[pa.ChunkedArray]]:
        """Some columns of every row group; the next ones are read meanwhile."""
        opened = threading.local()

        def read(group: int) -> list[pa.ChunkedArray]:
            if not hasattr(opened, "file"):
                opened.file = pq.ParquetFile(self.path)  # not to be shared between threads
            table = opened.file.read_row_group(group, columns=list(names), use_threads=False)
            return [table[name] for name in names]

        with ThreadPoolExecutor(self.threads) as pool, self._told():
            waiting: deque[Future[list[pa.ChunkedArray]]] = deque()
            for group in range(self.file.num_row_groups):
                waiting.append(pool.submit(read, group))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def available(self, max_length: int) -> NDArray[np.int64]:
        """Molecules of each length from 0 to ``max_length``."""
        counts = np.zeros(max_length + 1, np.int64)
        for (length,) in self.columns("length"):
            counts += np.bincount(length.to_numpy(), minlength=max_length + 1)[: max_length + 1]
        return counts

    def lowest(
        self, limits: NDArray[np.int64], of_group: NDArray[np.int64], max_length: int, seed: int
    ) -> tuple[NDArray[np.int64], pa.Table]:
        """The first candidates: their groups, and their rows (cid, smiles, file), by group and then by hash.

        ``limits`` has about how many are wanted of every length, or one number for all lengths together; ``of_group``
        has how many there are.
        """
        lowest, base = Lowest(limits, _bound(limits, of_group)), 0
        bar = progress(total=self.file.metadata.num_rows, what="looking for the lowest hashes", unit="molecules")
        with bar:
            for cid, length in self.columns("cid", "length"):
                lengths = length.to_numpy()
                short = np.flatnonzero(lengths <= max_length)
                groups = lengths[short].astype(np.int64) if len(limits) > 1 else np.zeros(len(short), np.int64)
                lowest.add(groups, hash64(cid.to_numpy()[short], seed), base + short)
                base += len(lengths)
                bar.update(len(lengths))
        groups, rows = lowest.result()
        return groups, self._take(rows)

    def _take(self, rows: NDArray[np.int64]) -> pa.Table:
        """Some rows, in the order asked for."""
        order = np.argsort(rows, kind="stable")
        wanted, base, found = rows[order], 0, [FETCHED.empty_table()]
        for columns in self.columns(*FETCHED.names):
            end = base + len(columns[0])
            low, high = np.searchsorted(wanted, [base, end])
            if high > low:
                found.append(pa.table(columns, FETCHED.names).take(pa.array(wanted[low:high] - base)).cast(FETCHED))
            base = end
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(found).combine_chunks().take(pa.array(back))


@dataclass
class Slots:
    """The slots of a draw, in the order in which they are filled."""

    groups: NDArray[np.int64]  # of every slot: a length for a uniform data set, 0 for any other
    size: int | None  # so many filled ones are wanted; None for all but the last ``last``
    last: int = 0  # slots for spares at the end; with a size, spares fill what follows

    @property
    def likely(self) -> NDArray[np.int64]:
        """The slots that are likely to be filled."""
        return self.groups if self.size is None else self.groups[: self.size + self.spares]

    @property
    def spares(self) -> int:
        """How many more are filled where a size is wanted."""
        return _spares(self.size) if self.size is not None else 0


def slots(available: NDArray[np.int64], per_length: int | None, size: int | None, seed: int) -> Slots:
    """Lay out the slots of a draw.

    Parameters
    ----------
    available
        Molecules of each length, from 0.
    per_length, size, seed
        As for :func:`sample`.
    """
    if per_length is None:
        molecules = int(available.sum())
        zeros = np.broadcast_to(np.int64(0), molecules)  # takes no memory
        return Slots(zeros, size)
    most = np.minimum(available, per_length)
    groups = np.repeat(np.arange(len(most)), most)
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(most) - most, most)
    if size is None:
        # Round after round through the lengths, and then the spares of each.
        spares = np.repeat(np.arange(len(most)), np.where(available > most, _spares(per_length), 0))
        return Slots(np.concatenate([groups[np.lexsort((groups, rank))], spares]), None, len(spares))
    # A hash of its own: that of the molecules would prefer the lengths with many candidates.
    order = np.argsort(hash64((groups << 32) + rank, seed + (1 << 32)))
    return Slots(groups[order], size)


def _bound(limits: NDArray[np.int64], of_group: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hashes are uniform: below this bound are about ``limits`` of each group, or all where there are no more."""
    share = np.minimum(limits / np.maximum(of_group, 1), 1)
    whole = np.iinfo(np.uint64).max
    return np.where(share < 1, (share * 2.0**63).astype(np.uint64) * np.uint64(2), whole).astype(np.uint64)


def _spares(molecules: int) -> int:
    return 1 + molecules // SPARES


class Draw:
    """Molecules put into slots; what RDKit refuses, and what came before in another spelling, is left out.

    Several supplied pictures of one molecule are all usable.
    """

    def __init__(self, groups: NDArray[np.int64], rows: pa.Table, of_group: NDArray[np.int64], ask: Canonical) -> None:
        """``groups`` and ``rows`` are the candidates, out of so many of each group."""
        numbers = np.arange(len(of_group))
        self.refused: list[tuple[str, str]] = []
        self.refused_of: Counter[tuple[int, str]] = Counter()  # by group and reason
        self.wanted: Counter[int] = Counter()  # slots by group, without the spares
        self.short: set[int] = set()  # groups that need more candidates than were fetched, and may have them
        self._rows, self._ask = rows, ask
        self._smiles, self._supplied = rows["smiles"], rows["file"].is_valid().to_pylist()
        self._next: list[int] = np.searchsorted(groups, numbers).tolist()
        self._end: list[int] = np.searchsorted(groups, numbers, side="right").tolist()
        self._of_group: list[int] = of_group.tolist()
        self._first = self._next.copy()
        self._text: dict[int, str | None] = {}  # canonical SMILES of the rows that RDKit was asked about
        self._known: set[str] = set()
        self._chosen: list[int] = []
        self._drawn = 0

    def fill(self, layout: Slots) -> None:
        """Fill slots.

        A slot whose group has no more molecules is passed over: where a size is wanted, another one is filled. The
        draw is good for nothing where a group is ``short`` afterwards.
        """
        self._ask_ahead(np.bincount(layout.likely, minlength=len(self._next)))
        size, filled, spares_from = layout.size, self._chosen, len(layout.groups) - layout.last
        for start in range(0, len(layout.groups), 1 << 16):
            for number, group in enumerate(layout.groups[start : start + (1 << 16)].tolist(), start):
                if size is not None and len(filled) >= size + layout.spares:
                    return
                if number < spares_from if size is None else len(filled) < size:
                    self.wanted[group] += 1
                    wanted = True
                else:
                    wanted = False
                if not self._take(group):
                    if self._end[group] - self._first[group] < self._of_group[group]:
                        self.short.add(group)
                elif wanted:
                    self._drawn += 1

    def _ask_ahead(self, counts: NDArray[np.int64]) -> None:
        """Ask RDKit, in parallel, about what is likely to be wanted."""
        rows: list[int] = []
        for first, end, count in zip(self._first, self._end, counts.tolist(), strict=True):
            rows.extend(range(first, min(end, first + count + count // 50)))  # a few more, for those refused
        texts = self._smiles.take(pa.array(rows, pa.int64())).to_pylist()
        answers = progress(self._ask(texts), total=len(rows), what="canonical SMILES", unit="molecules")
        self._text = dict(zip(rows, answers, strict=True))

    def _take(self, group: int) -> bool:
        """Choose the next usable molecule of a group."""
        while (at := self._next[group]) < self._end[group]:
            self._next[group] += 1
            if at not in self._text:
                more = range(at, min(at + 16, self._end[group]))
                self._text.update(zip(more, map(canonical, self._smiles[at : more.stop].to_pylist()), strict=True))
            text = self._text[at]
            reason = None if text else "not_parsed"
            if text in self._known and not self._supplied[at]:
                reason = "duplicate_molecule"
            if text and not reason:
                self._known.add(text)
                self._chosen.append(at)
                return True
            self.refused.append((str(reason), self._smiles[at].as_py()))
            self.refused_of[group, str(reason)] += 1
        return False

    def table(self, *, validation: float, test: float, split_seed: int) -> pa.Table:
        """The molecules in the order of their slots, with their splits."""
        texts = [str(self._text[at]) for at in self._chosen]
        share = np.array([fraction(text, split_seed) for text in texts])
        split = np.where(share < test, "test", np.where(share < test + validation, "validation", "train"))
        rows = self._rows.take(pa.array(self._chosen, pa.int64()))
        length = pc.utf8_length(rows["smiles"])
        spare = np.arange(len(texts)) >= self._drawn
        columns = [rows["cid"], rows["smiles"], texts, length, split.astype(object), rows["file"], spare]
        return pa.table([pa.array(c) if not isinstance(c, pa.ChunkedArray) else c for c in columns], SCHEMA.names).cast(
            SCHEMA
        )


def sample(
    kept: Path,
    *,
    out: Path,
    lengths: Path,
    rejects: Path,
    max_length: int,
    per_length: int | None = None,
    size: int | None = None,
    seed: int = 0,
    validation: float = 0.01,
    test: float = 0.01,
    split_seed: int = 0,
    processes: int = 1,
) -> None:
    """Draw a data set from a filtered source.

    Memory grows with the data set, not with the source.

    Parameters
    ----------
    kept
        Parquet file of the stage ``filter``.
    out
        Parquet file for the data set, in the order of the draw: cid, smiles, canonical, length, split, file, spare.
        Spares come last; the stage ``pack`` puts them in the place of what could not be drawn.
    lengths
        CSV for the counts by length: length, available, wanted, got, why (there are fewer than asked for).
    rejects
        CSV for the molecules that were drawn but not usable: reason, count, example.
    max_length
        Longest SMILES, in characters.
    per_length
        Molecules of each length; without it the source's own distribution is kept.
    size
        Molecules in all, drawn from those; without it all of them.
    seed
        Seed of the draw.
    validation, test
        Shares of these splits, in (0, 1); the rest is for training.
    split_seed
        Seed of the split, the same for all data sets.
    processes
        Processes for RDKit.

    Raises
    ------
    UserError
        When a split would be empty, or the source is damaged.
    """
    source = Kept(kept)
    available = source.available(max_length)
    layout = slots(available, per_length, size, seed)
    counts = np.bincount(layout.likely, minlength=len(available) if per_length else 1)
    with _canonical(processes) as ask:
        limits = (counts * MARGIN + SLACK).astype(np.int64)
        of_group = available if per_length else np.array([available.sum()])
        while True:
            draw = Draw(*source.lowest(limits, of_group, max_length, seed), of_group, ask)
            draw.fill(layout)
            if not draw.short:
                break
            limits[list(draw.short)] *= 4  # RDKit refused more than the margin
    table = draw.table(validation=validation, test=test, split_seed=split_seed)
    drawn = table.filter(pc.invert(table["spare"]))
    splits = Counter(drawn["split"].to_pylist())
    for split in ("train", "validation", "test"):
        if not splits[split]:
            raise UserError(
                f"{out.parent.name}: no molecule in the {split} split of {len(drawn)}; "
                "draw more molecules or give the split a larger share"
            )
    draw_of = {"max_length": max_length, "per_length": per_length, "size": size, "seed": seed}
    shares = {"validation": validation, "test": test, "split_seed": split_seed}
    by_length = per_length is not None and size is None
    notes = {"sample": json.dumps(draw_of | shares), "spares": "length" if by_length else "any"}
    with whole(out) as part:
        pq.write_table(table.replace_schema_metadata(notes), part, compression="zstd")
    got = np.bincount(drawn["length"].to_numpy(), minlength=len(available))
    columns = ("length", "available", "wanted", "got", "why")
    write_csv(lengths, columns, _by_length(available, draw, got, per_length, size))
    write_rejects(rejects, draw.refused)
    if size and len(drawn) < size:
        print(f"{out.parent.name}: the source has only {len(drawn)} of the {size} molecules wanted")
    print(f"{out.parent.name}: {len(drawn)} molecules, " + ", ".join(f"{n} {s}" for s, n in splits.most_common()))


@contextmanager
def _canonical(processes: int) -> Iterator[Canonical]:
    """A function that makes canonical SMILES, in so many processes."""
    if processes == 1:
        yield lambda texts: map(canonical, texts)
        return
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), follow_parent) as pool:
            yield lambda texts: pool.map(canonical, texts, chunksize=CHUNK)
    except BrokenProcessPool:
        raise UserError(
            "a process that asked RDKit for canonical SMILES died, perhaps for want of memory: give fewer processes"
        ) from None


def _by_length(
    available: NDArray[np.int64], draw: Draw, got: NDArray[np.int64], per_length: int | None, size: int | None
) -> list[tuple[object, ...]]:
    """Rows of length, available, wanted, got, why; ``wanted`` is empty where no length has a number of its own."""
    rows: list[tuple[object, ...]] = []
    for length in range(1, len(available)):
        if per_length is None:
            if available[length]:
                rows.append((length, available[length], "", got[length], ""))
            continue
        wanted = per_length if size is None else draw.wanted[length]
        why = []
        if got[length] < wanted:
            if available[length] < wanted:
                why.append(f"the source has {available[length]}")
            reasons = sorted((reason, n) for (group, reason), n in draw.refused_of.items() if group == length)
            why += [f"{n} {reason}" for reason, n in reasons]
        rows.append((length, available[length], wanted, got[length], ", ".join(why)))
    return rows
