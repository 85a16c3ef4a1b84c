"""Scores of predicted SMILES against reference SMILES, as the field defines them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, DataStructs

from .chemistry import parse

BOOTSTRAPS = 1000
LEVEL = 0.95
Z = 1.959963984540054  # normal quantile of (1 + LEVEL) / 2


@lru_cache(maxsize=200_000)
def fingerprint(smiles: str) -> DataStructs.ExplicitBitVect | None:
    """RDKit's path fingerprint with its defaults, or None where RDKit cannot parse the text."""
    molecule = parse(smiles)
    return None if molecule is None else Chem.RDKFingerprint(molecule)


def tanimoto(first: str, second: str) -> float:
    """Tanimoto similarity of two SMILES in [0, 1]; 0 where RDKit cannot parse one of them.

    ``RDKFingerprint`` with RDKit's defaults, as the contest's rules had it. A molecule without a bond (methane, a lone
    ion) has an empty fingerprint, which RDKit finds similar to nothing, itself included: 0.
    """
    a, b = fingerprint(first), fingerprint(second)
    return 0.0 if a is None or b is None else float(DataStructs.TanimotoSimilarity(a, b))


def is_valid(smiles: str) -> bool:
    """Whether RDKit parses the text."""
    return fingerprint(smiles) is not None


def _without_cis_trans(smiles: str) -> str:
    return smiles.replace("/", "").replace("\\", "")


@lru_cache(maxsize=200_000)
def _identities(smiles: str) -> tuple[str, str, str, str] | None:
    """Canonical texts in the four senses of :data:`EXACT`; None where RDKit cannot parse the text."""
    molecule = parse(smiles)
    if molecule is None:
        return None
    flat = parse(_without_cis_trans(smiles))
    return (
        Chem.MolToSmiles(molecule),
        Chem.MolToSmiles(flat) if flat is not None else "",
        Chem.MolToSmiles(molecule, isomericSmiles=False),
        Chem.MolToInchi(molecule),
    )


# The names of the exact matches, in the order of ``_identities``.
EXACT = ("exact", "exact_no_cis_trans", "exact_no_stereo", "exact_inchi")


@dataclass(frozen=True)
class Score:
    """A mean or a share over pictures, with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Score:
    """A share with its Wilson 95 % interval (Wilson 1927)."""
    if n == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Score(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> Score:
    """A mean with its 95 % percentile bootstrap interval, 1,000 resamples of a fixed seed."""
    if len(values) == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    means = [random.choice(values, len(values)).mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Evaluation:
    """Scores of a list of predictions, and what they are made of."""

    scores: dict[str, Score]
    similarity: NDArray[np.float64]  # (used,) Tanimoto of every pair used
    exact: NDArray[np.bool_]  # (used,) whether the canonical isomeric SMILES are equal
    used: NDArray[np.int64]  # (used,) positions of the pairs used
    dropped_references: int


def evaluate(predictions: list[str], references: list[str]) -> Evaluation:
    r"""Score predictions against references, pair by pair.

    A prediction that RDKit cannot parse scores 0 in everything; a reference that RDKit cannot parse is dropped and
    counted.

    Returns
    -------
    Scores by name: ``tanimoto`` (mean, bootstrap interval), and as shares with Wilson intervals ``exact`` (RDKit
    canonical isomeric SMILES equal), ``exact_no_cis_trans`` (``/`` and ``\`` deleted first), ``exact_no_stereo``,
    ``exact_inchi`` (standard InChI equal), ``validity`` (RDKit parses the prediction), ``perfect`` (Tanimoto 1).

    Raises
    ------
    ValueError
        Where the two lists differ in length.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    used = np.array([i for i, text in enumerate(references) if is_valid(text)], dtype=np.int64)
    pairs = [(predictions[i], references[i]) for i in used]
    similarity = np.array([tanimoto(p, r) for p, r in pairs], dtype=np.float64)
    scores = {"tanimoto": bootstrap(similarity)}
    same = np.array([_same(p, r) for p, r in pairs], dtype=bool).reshape(len(pairs), len(EXACT))
    for column, name in enumerate(EXACT):
        scores[name] = wilson(int(same[:, column].sum()), len(pairs))
    scores["validity"] = wilson(sum(is_valid(p) for p, _ in pairs), len(pairs))
    scores["perfect"] = wilson(int((similarity == 1.0).sum()), len(pairs))
    return Evaluation(scores, similarity, same[:, 0], used, len(references) - len(used))


def _same(prediction: str, reference: str) -> tuple[bool, ...]:
    a, b = _identities(prediction), _identities(reference)
    if a is None or b is None:
        return (False,) * len(EXACT)
    return tuple(x == y and x != "" for x, y in zip(a, b, strict=True))
