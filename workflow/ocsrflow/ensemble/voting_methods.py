"""How the members of an ensemble decide about one picture: the pair rule of the slides, and others beside it.

Every method is a function of a :class:`Candidates`, which holds what the members read in the picture, and of what RDKit
makes of those texts. Two texts are the same molecule where their canonical isomeric SMILES are equal. Where RDKit can
parse no member's answer, every method that picks an answer takes the first member's, as the pair rule has it.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..chem.similarity import ParsedMolecule, parse_cached, parsed_similarities, parsed_similarity

# Of every text that a member had in mind; None where RDKit cannot parse it.
Molecules = Mapping[str, ParsedMolecule | None]
Similarity = Sequence[Sequence[float]]  # Tanimoto similarity of every two members' answers; 0 with an invalid one


@dataclass(frozen=True)
class PoolEntry:
    """A text that some members had in mind, and how well it fits the picture."""

    text: str
    likelihoods: tuple[float, ...]  # natural logarithm of its probability by each member; empty where unknown
    distance: float  # of its drawing from the picture; NaN where unknown


@dataclass(frozen=True)
class Candidates:
    """What the members read in one picture, in the order of the members."""

    answers: tuple[str, ...]
    log_probabilities: tuple[float, ...]  # natural logarithm, of its own answer by each member
    pool: tuple[PoolEntry, ...] = ()  # the candidates of all members


@dataclass(frozen=True)
class Decision:
    """The text that a method takes, and how much speaks for it."""

    text: str
    winner: int | None  # the first member whose answer it is
    agreement: float  # mean Tanimoto similarity with the answers of all members, in [0, 1]; invalid ones count 0
    log_probability: float  # mean over the members where the pool has it, else by the winner
    distance: float  # of its drawing from the picture; NaN where unknown
    points: tuple[int, ...] = ()  # of the pair rule, by member; all 0 where no vote was needed


@dataclass(frozen=True)
class Vote:
    """Whose answer the pair rule takes."""

    winner: int
    points: tuple[int, ...]  # by member; all 0 where no vote was needed


Method = Callable[[Candidates, Molecules], Decision]


def similarities(answers: Sequence[ParsedMolecule | None]) -> list[list[float]]:
    """Tanimoto similarity of every two answers; 0 with one that is None.

    Members mostly agree, so each different molecule is compared once.
    """
    different = {own.canonical: own for own in answers if own is not None}
    others = list(different.values())
    rows = {own.canonical: dict(zip(different, parsed_similarities(own, others), strict=True)) for own in others}
    return [
        [rows[a.canonical][b.canonical] if a is not None and b is not None else 0.0 for b in answers] for a in answers
    ]


def similarity_of_answers(
    answers: Sequence[Sequence[str]], molecules: Molecules
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Similarity of the answers of every two members to many pictures.

    Parameters
    ----------
    answers
        Of each picture, of each member.
    molecules
        What RDKit makes of them.

    Returns
    -------
    Tanimoto similarities (pictures, members, members), 0 with an invalid answer; whether each is valid
    (pictures, members).
    """
    found = [[molecules[text] for text in row] for row in answers]
    valid = [[own is not None for own in row] for row in found]
    return np.array([similarities(row) for row in found]), np.array(valid, dtype=bool)


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


def pair_vote(similarity: Similarity, valid: Sequence[int]) -> Vote:
    """The pair rule, as the slides have it.

    Parameters
    ----------
    similarity
        Of every two members' answers.
    valid
        Members whose answer RDKit parses, in their order, which decides ties: the earlier member wins.
    """
    none = (0,) * len(similarity)
    if len(valid) < 2:
        return Vote(valid[0] if valid else 0, none)
    pairs = {(i, j): similarity[i][j] for i, j in itertools.combinations(valid, 2)}
    best = max(pairs, key=lambda pair: pairs[pair])  # the first of equal ones
    if pairs[best] == 1.0:
        return Vote(best[0], none)
    points = pair_points(pairs, len(similarity))
    return Vote(max(valid, key=lambda i: points[i]), points)


def pair_rule(predictions: list[str]) -> Vote:
    """The pair rule for one picture, from one SMILES of each member."""
    found = [parse_cached(text) for text in predictions]
    return pair_vote(similarities(found), [i for i, own in enumerate(found) if own is not None])


def pairs(candidates: Candidates, molecules: Molecules) -> Decision:
    """The pair rule of the slides."""
    found = pair_vote(similarities([molecules[text] for text in candidates.answers]), _valid(candidates, molecules))
    return _answer(candidates, molecules, found.winner, found.points)


def medoid(candidates: Candidates, molecules: Molecules) -> Decision:
    """The valid answer most similar to the other answers, by the sum of its Tanimoto similarities to them."""
    similarity = similarities([molecules[text] for text in candidates.answers])
    # Sums rounded once, so that those of the same numbers in another order are equal and tie.
    total = [math.fsum(value for j, value in enumerate(row) if j != i) for i, row in enumerate(similarity)]
    return _answer(candidates, molecules, max(_valid(candidates, molecules), key=lambda i: total[i], default=0))


def votes(candidates: Candidates, molecules: Molecules) -> Decision:
    """The molecule with most votes of the members, each weighed by the probability that it gives to its answer."""
    weights: dict[str, list[float]] = {}
    first: dict[str, int] = {}  # member that answered it
    for i in _valid(candidates, molecules):
        canonical = _canonical(molecules[candidates.answers[i]])
        value = candidates.log_probabilities[i]
        weights.setdefault(canonical, []).append(0.0 if math.isnan(value) else math.exp(value))
        first.setdefault(canonical, i)
    best = max(weights, key=lambda canonical: math.fsum(weights[canonical]), default=None)
    return _answer(candidates, molecules, 0 if best is None else first[best])


def rescored(candidates: Candidates, molecules: Molecules) -> Decision:
    """The molecule of the pool that all members together find likeliest: by the mean of their log-probabilities.

    A member's probability of a molecule is the sum over the spellings of it in the pool, so that a molecule that the
    members spell in several ways does not lose for it. The text is the likeliest spelling. Equal ones: the earlier in
    the pool. An empty pool: as :func:`pairs`.
    """
    best = max(_pool(candidates, molecules), key=lambda molecule: molecule.score, default=None)
    return pairs(candidates, molecules) if best is None else _from_pool(candidates, molecules, best)


def redrawn(candidates: Candidates, molecules: Molecules) -> Decision:
    """The molecule of the pool whose drawing is nearest to the picture; of equally near ones the likelier.

    A molecule without a drawing is farther than any. An empty pool: as :func:`pairs`.
    """
    pool = _pool(candidates, molecules)
    best = max(pool, key=lambda molecule: (-_or_infinite(molecule.distance), molecule.score), default=None)
    return pairs(candidates, molecules) if best is None else _from_pool(candidates, molecules, best)


METHODS: dict[str, Method] = {method.__name__: method for method in (pairs, medoid, votes, rescored, redrawn)}
POOLED = ("rescored", "redrawn")  # those that look at more than the members' answers


def oracle(candidates: Candidates, reference: str, molecules: Molecules) -> Decision:
    """The best member of each picture, which is known only with the reference: the ceiling of those that pick one.

    The answer with the highest Tanimoto similarity to the reference; of equal ones the reference itself, then a valid
    one, then the earlier member's, so that it is the ceiling for exact matches and validity too.
    """
    right = molecules[reference]

    def worth(i: int) -> tuple[float, bool, bool]:
        found = molecules[candidates.answers[i]]
        if found is None or right is None:
            return 0.0, False, found is not None
        return parsed_similarity(found, right), found.canonical == right.canonical, True

    return _answer(candidates, molecules, max(range(len(candidates.answers)), key=worth))


@dataclass(frozen=True)
class _Molecule:
    """The spellings of a molecule in the pool, as one."""

    text: str  # the likeliest spelling
    score: float  # mean over the members of its log-probability; minus infinity where unknown
    distance: float  # the smallest; NaN where unknown


def _molecule(spellings: Sequence[PoolEntry]) -> _Molecule:
    distance = min((s.distance for s in spellings), key=_or_infinite)
    if not spellings[0].likelihoods:
        return _Molecule(spellings[0].text, -math.inf, distance)
    best = max(spellings, key=lambda s: math.fsum(s.likelihoods))
    likelihoods = best.likelihoods
    if len(spellings) > 1:
        likelihoods = np.logaddexp.reduce([s.likelihoods for s in spellings]).tolist()
    return _Molecule(best.text, math.fsum(likelihoods) / len(likelihoods), distance)


def _pool(candidates: Candidates, molecules: Molecules) -> list[_Molecule]:
    """The different molecules of the pool, in its order."""
    spellings: dict[str, list[PoolEntry]] = {}
    for entry in candidates.pool:
        if (found := molecules[entry.text]) is not None:
            spellings.setdefault(found.canonical, []).append(entry)
    return [_molecule(same) for same in spellings.values()]


def _answer(candidates: Candidates, molecules: Molecules, winner: int, points: tuple[int, ...] = ()) -> Decision:
    """Take a member's answer."""
    text, own = candidates.answers[winner], candidates.log_probabilities[winner]
    canonical = _canonical(molecules[text])
    spellings = [p for p in candidates.pool if canonical and _canonical(molecules[p.text]) == canonical]
    agreement = _agreement(candidates, molecules, text)
    if not spellings:
        return Decision(text, winner, agreement, own, math.nan, points)
    molecule = _molecule(spellings)
    log_probability = molecule.score if math.isfinite(molecule.score) else own
    return Decision(text, winner, agreement, log_probability, molecule.distance, points)


def _from_pool(candidates: Candidates, molecules: Molecules, chosen: _Molecule) -> Decision:
    """Take a molecule of the pool."""
    canonical = _canonical(molecules[chosen.text])
    winner = next((i for i, text in enumerate(candidates.answers) if _canonical(molecules[text]) == canonical), None)
    return Decision(chosen.text, winner, _agreement(candidates, molecules, chosen.text), chosen.score, chosen.distance)


def _agreement(candidates: Candidates, molecules: Molecules, text: str) -> float:
    chosen = molecules[text]
    if chosen is None:
        return 0.0
    others = [own for answer in candidates.answers if (own := molecules[answer]) is not None]
    return math.fsum(parsed_similarities(chosen, others)) / len(candidates.answers)


def _valid(candidates: Candidates, molecules: Molecules) -> list[int]:
    return [i for i, text in enumerate(candidates.answers) if molecules[text] is not None]


def _canonical(molecule: ParsedMolecule | None) -> str:
    return "" if molecule is None else molecule.canonical


def _or_infinite(distance: float) -> float:
    return math.inf if math.isnan(distance) else distance
