"""The points of a search: a scrambled Sobol sequence over its space.

A point depends on the space, the seed and its number alone, so that more trials are the same ones with others after
them.
"""

import math
from typing import Any

from scipy.stats import qmc

from ..config.searches import Range, Space

DIGITS = 4  # of a real number that is tried: it is read and typed by people


def point(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Settings of a trial.

    Parameters
    ----------
    space
        What is varied, and between which values.
    seed
        Of the sequence's scrambling (Owen 1998, as SciPy does it).
    number
        Of the trial, from 0.

    Returns
    -------
    A value for each key of the space, in alphabetical order of the keys.
    """
    sequence = qmc.Sobol(len(space), scramble=True, rng=seed)
    if number:
        sequence.fast_forward(number)
    shares = sequence.random(1)[0].tolist()  # in [0, 1)
    return {key: _value(space[key], share) for key, share in zip(sorted(space), shares, strict=True)}


def _value(values: Range | list[Any], share: float) -> Any:
    """The value so far into a range or a list."""
    if not isinstance(values, Range):
        return values[int(share * len(values))]
    if values.integers:
        low, high = values.integers
        return low + int(share * (high - low + 1))
    if values.log:
        low, high = map(math.log, values.log)
        found = math.exp(low + share * (high - low))
    else:
        low, high = values.ends
        found = low + share * (high - low)
    first, last = values.ends
    return min(max(float(f"{found:.{DIGITS}g}"), first), last)
