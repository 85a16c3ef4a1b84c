"""The points of a search: a scrambled Sobol sequence over its space.

A point depends on the space, the seed and its number alone, so that more trials are the same ones with others after
them.
"""

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
        first, last = values.integers
        return first + int(share * (last - first + 1))
    low, high = values.ends
    found = low * (high / low) ** share if values.log else low + share * (high - low)
    return min(max(float(f"{found:.{DIGITS}g}"), low), high)
