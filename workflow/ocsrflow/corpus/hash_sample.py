"""The k rows with the lowest hashes, found in one pass: a random sample that depends on nothing but seed and CIDs."""

import numpy as np
from numpy.typing import NDArray


def hash64(cids: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit hash of (seed, CID): SplitMix64's finaliser over CID + SplitMix64(seed).

    Different CIDs have different hashes. Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators", with the constants of Vigna's public-domain splitmix64.c. Written out here so that no library's
    version can change it.

    Parameters
    ----------
    cids
        Shape (n,), int64.
    seed
        Any non-negative number below 2⁶⁴.

    Returns
    -------
    Shape (n,), uint64.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return _mix((cids.astype(np.uint64) + start) + np.uint64(0x9E3779B97F4A7C15))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Lowest:
    """The rows with the lowest hashes, so many of each group, from batches in any order and of any size."""

    HELD = 1 << 19  # rows held beside those that are kept, before they are sorted out

    def __init__(self, limits: NDArray[np.int64], bound: NDArray[np.uint64] | None = None) -> None:
        """Begin.

        Parameters
        ----------
        limits
            How many of each group, numbered from 0, at most.
        bound
            Highest hash of each group that is looked at; without it all are. One that lets few more through than
            are wanted saves most of the sorting.
        """
        self.limits = limits
        self._bound = np.full(len(limits), np.iinfo(np.uint64).max, np.uint64) if bound is None else bound.copy()
        self._kept = (np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64))
        self._parts = [self._kept]

    def add(self, groups: NDArray[np.int64], hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Look at some more rows; all three arrays have shape (n,)."""
        below = np.flatnonzero(hashes <= self._bound[groups])
        self._parts.append((groups[below], hashes[below], rows[below]))
        if sum(len(part[0]) for part in self._parts) > 2 * len(self._kept[0]) + self.HELD:
            self._shrink()

    def _shrink(self) -> None:
        groups, hashes, rows = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        order = np.lexsort((hashes, groups))
        groups, hashes, rows = groups[order], hashes[order], rows[order]
        first = np.searchsorted(groups, np.arange(len(self.limits)))
        keep = np.arange(len(groups)) - first[groups] < self.limits[groups]
        self._kept = groups[keep], hashes[keep], rows[keep]
        self._parts = [self._kept]
        groups, hashes, _ = self._kept
        full = np.flatnonzero(np.bincount(groups, minlength=len(self.limits)) >= np.maximum(self.limits, 1))
        self._bound[full] = hashes[np.searchsorted(groups, full, side="right") - 1]

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Groups and rows, by group and then by hash."""
        self._shrink()
        groups, _, rows = self._kept
        return groups, rows
