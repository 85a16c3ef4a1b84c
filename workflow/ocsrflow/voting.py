"""The pair rule of the slides, by which the members of an ensemble vote on a picture.

Predictions that RDKit cannot parse are dropped; the two that agree most by Tanimoto similarity win the most points,
and the prediction with most points is taken.
"""

import itertools
from dataclasses import dataclass

from .metrics import is_valid, tanimoto


@dataclass(frozen=True)
class Vote:
    """Which member's prediction is taken, and how much the members agree (mean similarity of all pairs)."""

    winner: int
    agreement: float
    points: tuple[int, ...]  # by member; all 0 where no vote was needed


def pair_points(similarity: dict[tuple[int, int], float], members: int) -> tuple[int, ...]:
    """Points of every member from the ranking of the pairs.

    The best of n pairs gives n points to both its members, the next n - 1, and so on. Pairs of equal similarity keep
    the order of their members. With three members and (0, 1) > (0, 2) > (1, 2) the totals are 5, 4, 3.

    Parameters
    ----------
    similarity
        Tanimoto similarity of every pair (i, j), i < j.
    members
        Number of members.
    """
    points = [0] * members
    ranked = sorted(similarity, key=lambda pair: (-similarity[pair], pair))
    for worth, pair in zip(range(len(ranked), 0, -1), ranked, strict=True):
        for member in pair:
            points[member] += worth
    return tuple(points)


def vote(predictions: list[str]) -> Vote:
    """The pair rule for one picture, as the slides have it.

    Parameters
    ----------
    predictions
        One SMILES of each member; the order decides ties, the earlier member wins.
    """
    none = (0,) * len(predictions)
    valid = [i for i, text in enumerate(predictions) if is_valid(text)]
    if not valid:
        return Vote(0, 0.0, none)
    if len(valid) == 1:
        return Vote(valid[0], 0.0, none)
    similarity = {(i, j): tanimoto(predictions[i], predictions[j]) for i, j in itertools.combinations(valid, 2)}
    # A prediction that cannot be parsed agrees with none.
    agreement = sum(similarity.values()) / (len(predictions) * (len(predictions) - 1) / 2)
    best = min(similarity, key=lambda pair: (-similarity[pair], pair))
    if similarity[best] == 1.0:
        return Vote(best[0], agreement, none)
    points = pair_points(similarity, len(predictions))
    return Vote(max(valid, key=lambda i: (points[i], -i)), agreement, points)
