"""Which molecules a data set takes, and in which order.

A sampler fills slots. A uniform data set has ``per_length`` slots of every length, any other one has slots for
molecules of whatever length; each slot takes the next usable molecule of its length, in the order of a 64-bit hash of
(seed, CID). So neither the order of the source nor the way it is read matters, and a smaller sample is contained in a
larger one. With ``size``, so many slots are filled, in an order of their own hash: a second random sample, as the talk
has it, that never asks RDKit about molecules which it would not take.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..chem.molecules import canonical
from ..chem.split import split_of
from ..runtime.progress import progress
from .hash_sample import hash64

MOLECULES_A_SPARE = 1000  # one spare for so many molecules, and one more: for those that cannot be depicted
SLOTS = 1 << 16  # looked at together
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

Canonicalise = Callable[[list[str]], Iterator[str | None]]  # canonical SMILES of some texts, None if not parsed


@dataclass
class Slots:
    """The slots of a sample, in the order in which they are filled. A slot takes one molecule of its group."""

    groups: NDArray[np.int64]  # of every slot: a length for a uniform data set, 0 for any other
    size: int | None  # molecules wanted; None: one for each slot, but for the last ``spares`` slots
    spares: int = 0  # molecules wanted on top

    @property
    def likely(self) -> NDArray[np.int64]:
        """The groups of the slots that are likely to be filled."""
        return self.groups if self.size is None else self.groups[: self.size + self.spares]


def lay_out(available: NDArray[np.int64], per_length: int | None, size: int | None, seed: int) -> Slots:
    """Lay out the slots of a sample.

    Parameters
    ----------
    available
        Molecules of each length, from 0.
    per_length, size, seed
        As for :func:`ocsrflow.corpus.sample.sample`.
    """
    if per_length is None:
        molecules = int(available.sum())
        zeros = np.broadcast_to(np.int64(0), molecules)  # takes no memory
        return Slots(zeros, size, 0 if size is None else _spares(size))
    most = np.minimum(available, per_length)
    groups = np.repeat(np.arange(len(most)), most)
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(most) - most, most)  # of a slot among those of its length
    if size is None:
        # Round after round through the lengths, and then the spares of each.
        spares = np.repeat(np.arange(len(most)), np.where(available > most, _spares(per_length), 0))
        return Slots(np.concatenate([groups[np.lexsort((groups, rank))], spares]), None, len(spares))
    # A hash of its own: that of the molecules would prefer the lengths with many candidates.
    order = np.argsort(hash64((groups << 32) + rank, seed + (1 << 32)))
    return Slots(groups[order], size, _spares(size))


def _spares(molecules: int) -> int:
    return 1 + molecules // MOLECULES_A_SPARE


class Sampler:
    """Molecules put into slots; what RDKit refuses, and what came before in another spelling, is left out.

    Several supplied pictures of one molecule are all usable.
    """

    def __init__(
        self, groups: NDArray[np.int64], rows: pa.Table, available: NDArray[np.int64], canonicalise: Canonicalise
    ) -> None:
        """Begin with no slot filled.

        Parameters
        ----------
        groups, rows
            The candidates, by group and then by hash, as
            :meth:`ocsrflow.corpus.filtered_molecules.FilteredMolecules.lowest` gives them.
        available
            Molecules of each group in the source, of which the candidates are some.
        canonicalise
            Asks RDKit about many texts at once.
        """
        self.refused: list[tuple[str, str]] = []
        self.refused_of: Counter[tuple[int, str]] = Counter()  # by group and reason
        self.wanted: Counter[int] = Counter()  # slots by group, without the spares
        self.short: set[int] = set()  # groups that need more candidates than were fetched, and may have them
        self._rows, self._canonicalise = rows, canonicalise
        self._smiles, self._supplied = rows["smiles"], rows["file"].is_valid().to_pylist()
        self._available: list[int] = available.tolist()
        # The candidates of group g are the rows from first[g] to before end[g]; those before next[g] are used up.
        numbers = np.arange(len(available))
        self._first: list[int] = np.searchsorted(groups, numbers).tolist()
        self._end: list[int] = np.searchsorted(groups, numbers, side="right").tolist()
        self._next = self._first.copy()
        self._canonical: dict[int, str | None] = {}  # of the rows that RDKit was asked about
        self._seen: set[str] = set()  # canonical SMILES of the chosen rows
        self._chosen: list[int] = []  # rows
        self._taken = 0  # of these, those that are no spares

    def fill(self, slots: Slots) -> None:
        """Fill slots.

        A slot whose group has no more molecules is passed over: where a size is wanted, another one is filled in its
        place. The sample is good for nothing where a group is ``short`` afterwards.
        """
        self._ask_ahead(np.bincount(slots.likely, minlength=len(self._next)))
        first_spare = len(slots.groups) - slots.spares
        for start in range(0, len(slots.groups), SLOTS):
            for number, group in enumerate(slots.groups[start : start + SLOTS].tolist(), start):
                if slots.size is None:
                    is_wanted = number < first_spare
                elif len(self._chosen) < slots.size + slots.spares:
                    is_wanted = len(self._chosen) < slots.size
                else:
                    return
                self.wanted[group] += is_wanted
                if self._take(group):
                    self._taken += is_wanted
                elif self._end[group] - self._first[group] < self._available[group]:
                    self.short.add(group)

    def _ask_ahead(self, counts: NDArray[np.int64]) -> None:
        """Ask RDKit, in parallel, about what is likely to be wanted: so many of each group."""
        rows: list[int] = []
        for first, end, count in zip(self._first, self._end, counts.tolist(), strict=True):
            rows.extend(range(first, min(end, first + count + count // 50)))  # a few more, for those refused
        texts = self._smiles.take(pa.array(rows, pa.int64())).to_pylist()
        answers = progress(self._canonicalise(texts), total=len(rows), what="canonical SMILES", unit="molecules")
        self._canonical = dict(zip(rows, answers, strict=True))

    def _take(self, group: int) -> bool:
        """Choose the next usable molecule of a group; whether there was one."""
        while (row := self._next[group]) < self._end[group]:
            self._next[group] += 1
            if row not in self._canonical:  # more were refused than was expected
                more = range(row, min(row + 16, self._end[group]))
                texts = self._smiles[row : more.stop].to_pylist()
                self._canonical.update(zip(more, map(canonical, texts), strict=True))
            text = self._canonical[row]
            reason = None if text else "not_parsed"
            if text in self._seen and not self._supplied[row]:
                reason = "duplicate_molecule"
            if text and not reason:
                self._seen.add(text)
                self._chosen.append(row)
                return True
            self.refused.append((str(reason), self._smiles[row].as_py()))
            self.refused_of[group, str(reason)] += 1
        return False

    def table(self, *, validation: float, test: float, split_seed: int) -> pa.Table:
        """The molecules in the order of their slots, with their splits."""
        texts = [str(self._canonical[row]) for row in self._chosen]
        split = [split_of(text, validation=validation, test=test, seed=split_seed) for text in texts]
        rows = self._rows.take(pa.array(self._chosen, pa.int64()))
        length = pc.utf8_length(rows["smiles"])
        spare = np.arange(len(texts)) >= self._taken
        columns = [rows["cid"], rows["smiles"], texts, length, split, rows["file"], spare]
        arrays = [column if isinstance(column, pa.ChunkedArray) else pa.array(column) for column in columns]
        return pa.table(arrays, SCHEMA.names).cast(SCHEMA)
