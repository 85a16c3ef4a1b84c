"""Two readers of the same pictures: how far their scores differ, and whether chance alone would do that."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, monte_carlo_test, permutation_test

from .scores import Score, bootstrap

FLIPS = 9999  # of the permutation test, the observed one not among them
DRAWS = 1_000_000  # signs at a time, for its memory


@dataclass(frozen=True)
class Tested:
    """Means of one score over the same pictures."""

    a: float
    b: float
    difference: Score  # B - A, with the paired 95 % bootstrap interval
    differing: int  # pictures on which A and B differ
    p: float
    p_holm: float = 1.0


def same_pictures(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The pictures in both tables, a row each: the columns of A and B with the endings ``_a`` and ``_b``.

    A picture is known by its cid, id and, where both tables have it, canonical reference: a picture whose reference
    was changed is another one.

    Raises
    ------
    ValueError
        Where a table has a picture more than once.
    """
    by = [name for name in ("cid", "id", "reference") if name in a and name in b]
    scores = ["tanimoto", "exact"]
    return a[by + scores].merge(b[by + scores], on=by, suffixes=("_a", "_b"), validate="one_to_one")


def paired_mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> Tested:
    """The difference of two means; p is that of :func:`sign_flip`. Both of shape (pictures,)."""
    return Tested(float(a.mean()), float(b.mean()), bootstrap(b - a), int((a != b).sum()), sign_flip(b - a))


def paired_share(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Tested:
    """The difference of two shares; p is that of :func:`mcnemar`. Both of shape (pictures,)."""
    difference = bootstrap(b.astype(float) - a.astype(float))
    return Tested(float(a.mean()), float(b.mean()), difference, int((a != b).sum()), mcnemar(a, b))


def sign_flip(differences: NDArray[np.float64]) -> float:
    """Two-sided p of a paired permutation test of the mean (Fisher 1935; Phipson and Smyth 2010).

    Were A and B alike, each difference, shape (pictures,), might as well have the other sign. Every choice of signs is
    tried where there are at most 9,999, else so many random ones of a fixed seed.
    """
    moved = differences[differences != 0]  # flipping a zero changes nothing
    n = len(moved)
    if n < 2:  # a single difference may have either sign
        return 1.0
    if 2**n <= FLIPS:
        return float(permutation_test((moved,), np.mean, permutation_type="samples", n_resamples=FLIPS).pvalue)
    random = np.random.default_rng(0)

    def flipped(size: tuple[int, int]) -> NDArray[np.float64]:
        # permutation_test draws and sorts a random number for each sign; a bit will do, and takes a tenth of the time.
        bytes_ = random.integers(0, 256, (size[0], -(-n // 8)), dtype=np.uint8)
        signs = np.unpackbits(bytes_, axis=1, count=n).astype(bool)
        sample: NDArray[np.float64] = np.where(signs, moved, -moved)
        return sample

    batch = max(1, DRAWS // n)
    return float(monte_carlo_test(moved, flipped, np.mean, n_resamples=FLIPS, batch=batch, vectorized=True).pvalue)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Two-sided p of the exact McNemar test (McNemar 1947): a binomial test on the pictures that only one has right."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for there being several tests, in the same order (Holm 1979)."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]
