"""The molecules that the stage ``filter`` kept, read a row group at a time: counts by length, and the lowest hashes."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..runtime.errors import UserError, of_the_system
from ..runtime.progress import progress
from .hash_sample import Lowest, hash64

AHEAD = 2  # row groups that are read ahead, each by a thread
# Texts of more than 2 GB in all fit into no array of Arrow's plain strings.
FETCHED = pa.schema([("cid", pa.int64()), ("smiles", pa.large_string()), ("file", pa.large_string())])


class FilteredMolecules:
    """The Parquet file of the stage ``filter``, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self.file = pq.ParquetFile(path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
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

        with ThreadPoolExecutor(AHEAD) as pool, self._explained():
            waiting: deque[Future[list[pa.ChunkedArray]]] = deque()
            for group in range(self.file.num_row_groups):
                waiting.append(pool.submit(read, group))
                if len(waiting) > AHEAD:
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
        self, limits: NDArray[np.int64], available: NDArray[np.int64], max_length: int, seed: int
    ) -> tuple[NDArray[np.int64], pa.Table]:
        """The molecules with the lowest hashes of each group.

        Parameters
        ----------
        limits
            About how many are wanted of each group: of every length from 0, or one number for all lengths together.
        available
            How many there are of each group.
        max_length
            Longest SMILES, in characters.
        seed
            Of the hash.

        Returns
        -------
        Their groups, and their rows (cid, smiles, file), by group and then by hash.
        """
        lowest, base = Lowest(limits, _bound(limits, available)), 0
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


def _bound(limits: NDArray[np.int64], available: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hashes are uniform: below this bound are about ``limits`` of each group, or all where there are no more."""
    share = np.minimum(limits / np.maximum(available, 1), 1)
    everything = np.iinfo(np.uint64).max
    return np.where(share < 1, (share * 2.0**63).astype(np.uint64) * np.uint64(2), everything).astype(np.uint64)
