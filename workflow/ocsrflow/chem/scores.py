"""Scores of predicted SMILES against reference SMILES, as the field defines them."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula, CalcNumRings

from ..runtime.isolated import Failed, attempts, guarded
from ..runtime.progress import progress
from .molecules import canonical, canonical_text, parse, without_stereo
from .similarity import LIMIT, ParsedMolecule, limit_memory, parse_all_or_failed, parsed_similarity

BOOTSTRAPS = 1000
DRAWS = 1_000_000  # of the bootstrap at a time, for its memory
LEVEL = 0.95
Z = 1.959963984540054  # normal quantile of (1 + LEVEL) / 2

EXACT = ("exact", "exact_no_cis_trans", "exact_no_stereo", "exact_inchi")

# The groups that references are broken down by, in the order in which they are reported.
STEREO = ("none", "tetrahedral", "cis-trans", "both")
RINGS = ("0", "1", "2", "3", "4", "5 or more", "unknown")
ELEMENTS = ("C", "N", "O", "S", "P", "F", "Cl", "Br", "I", "B", "Si", "other")
BIN = 10  # characters


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


def bootstrap(values: NDArray[np.float64]) -> Score:
    """A mean with its 95 % percentile bootstrap interval, 1,000 resamples of a fixed seed."""
    n = len(values)
    if n == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(0)
    rows = max(1, DRAWS // n)
    means = [
        values[random.integers(0, n, (min(rows, BOOTSTRAPS - at), n))].mean(axis=1) for at in range(0, BOOTSTRAPS, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Evaluation:
    """Scores of a list of predictions, and what they are made of."""

    scores: dict[str, Score]
    similarity: NDArray[np.float64]  # (used,) Tanimoto of every pair used
    exact: NDArray[np.bool_]  # (used,) whether the canonical isomeric SMILES are equal
    valid: NDArray[np.bool_]  # (used,) whether RDKit parses the prediction
    used: NDArray[np.int64]  # (used,) positions of the pairs used
    dropped: NDArray[np.int64]  # (dropped,) positions of the references that were dropped
    groups: dict[str, list[dict[str, Any]]]  # by length, stereo, rings, elements: see evaluate
    given_up: dict[str, str]  # texts that hung or crashed RDKit, and what happened

    @property
    def dropped_references(self) -> int:
        """How many references were dropped."""
        return len(self.dropped)


class _Pair(NamedTuple):
    prediction: str | None  # None where it is not valid
    reference: str
    exact: bool  # equal canonical isomeric SMILES


class _Details(NamedTuple):
    same: tuple[bool, ...]  # in the other senses of EXACT
    rings: str
    elements: tuple[str, ...]


def evaluate(
    predictions: Sequence[str], references: Sequence[str], *, processes: int = 1, seconds: float = LIMIT
) -> Evaluation:
    r"""Score predictions against references, pair by pair.

    A prediction that RDKit cannot parse scores 0 in everything; a reference that RDKit cannot parse is dropped and
    counted. Texts that take RDKit longer than the limit, or crash it, count as not parsed. Where only the last three
    exact matches take longer, the InChI equals none, and the other two are as ``exact``.

    Parameters
    ----------
    predictions, references
        SMILES, in the same order.
    processes
        How many processes share the work.
    seconds
        Time limit of one text.

    Returns
    -------
    Scores by name: ``tanimoto`` (mean, bootstrap interval), and as shares with Wilson intervals ``exact`` (RDKit
    canonical isomeric SMILES equal), ``exact_no_cis_trans`` (``/`` and ``\`` deleted first), ``exact_no_stereo``
    (stereo removed, isotopes kept), ``exact_inchi`` (standard InChI equal; false where RDKit gives none), ``validity``
    (RDKit parses the prediction), ``perfect`` (Tanimoto 1).

    Groups of pictures by their references, rows of {group, images, tanimoto, exact, validity} for those that occur:
    ``length`` of the SMILES as written, ten characters a bin; ``stereo`` that it specifies; ``rings``, RDKit's count
    ("unknown" where these matches took too long); ``elements`` that it contains, a molecule being in several.

    Raises
    ------
    ValueError
        Where the two lists differ in length.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    texts = chain.from_iterable(zip(references, predictions, strict=True))
    tried = parse_all_or_failed(texts, processes=processes, seconds=seconds)
    parsed = {text: result for text, result in tried.items() if isinstance(result, ParsedMolecule)}
    used = [at for at, text in enumerate(references) if text in parsed]
    pairs = [_pair(predictions[at], references[at], parsed) for at in used]
    similarity = np.array([_similarity(pair, parsed) for pair in pairs], dtype=np.float64)
    details = _look_closer(pairs, processes, seconds)
    same = np.array([(pair.exact, *own.same) for pair, own in zip(pairs, details, strict=True)], dtype=bool)
    same = same.reshape(len(pairs), len(EXACT))
    valid = np.array([pair.prediction is not None for pair in pairs], dtype=bool)
    shares = {name: same[:, column] for column, name in enumerate(EXACT)}
    shares |= {"validity": valid, "perfect": similarity == 1.0}
    labels: dict[str, list[tuple[str, ...]]] = {
        "length": [(_length(pair.reference),) for pair in pairs],
        "stereo": [(_stereo(parsed[pair.reference].canonical),) for pair in pairs],
        "rings": [(own.rings,) for own in details],
        "elements": [own.elements for own in details],
    }
    return Evaluation(
        scores={"tanimoto": bootstrap(similarity)}
        | {name: wilson(int(column.sum()), len(pairs)) for name, column in shares.items()},
        similarity=similarity,
        exact=same[:, 0],
        valid=valid,
        used=np.array(used, dtype=np.int64),
        dropped=np.setdiff1d(np.arange(len(references)), used),
        groups={kind: _groups(own, similarity, same[:, 0], valid) for kind, own in labels.items()},
        given_up={text: str(result) for text, result in tried.items() if isinstance(result, Failed)},
    )


def _pair(prediction: str, reference: str, parsed: dict[str, ParsedMolecule]) -> _Pair:
    found = parsed.get(prediction)
    exact = found is not None and found.canonical == parsed[reference].canonical
    return _Pair(None if found is None else prediction, reference, exact)


def _similarity(pair: _Pair, parsed: dict[str, ParsedMolecule]) -> float:
    if pair.prediction is None:
        return 0.0
    return parsed_similarity(parsed[pair.prediction], parsed[pair.reference])


def _look_closer(pairs: Sequence[_Pair], processes: int, seconds: float) -> list[_Details]:
    """What takes a second look at the molecules: the other exact matches, rings and elements."""
    work = partial(attempts, _details)
    compared = guarded(work, pairs, seconds=seconds, prepare=limit_memory, processes=processes)
    with closing(compared):
        found = progress(compared, total=len(pairs), what="comparing", unit="pairs")
        return [
            _Details((pair.exact, pair.exact, False), "unknown", ()) if isinstance(details, Failed) else details
            for pair, details in zip(pairs, found, strict=True)
        ]


def _details(pair: _Pair) -> _Details:
    reference = parse(pair.reference)
    assert reference is not None  # it was parsed before
    symbols = {atom.GetSymbol() for atom in reference.GetAtoms()} - {"H"}
    elements = {symbol if symbol in ELEMENTS else "other" for symbol in symbols}
    return _Details(_same(pair, reference), RINGS[min(CalcNumRings(reference), 5)], tuple(elements))


def _same(pair: _Pair, reference: Chem.Mol) -> tuple[bool, bool, bool]:
    r"""Whether two molecules are the same without ``/`` and ``\``, without stereo, and by their standard InChI.

    No more is worked out than is needed: molecules of equal canonical SMILES are equal in the other senses too, if
    there is an InChI at all; molecules of different formulae are different. Deleting ``/`` and ``\`` changes the text,
    which may then mean anything, so there nothing is concluded from the whole texts.
    """
    if pair.prediction is None:
        return False, False, False
    flat = [text.replace("/", "").replace("\\", "") for text in (pair.prediction, pair.reference)]
    if flat == [pair.prediction, pair.reference]:
        no_cis_trans = pair.exact
    else:
        first, second = map(canonical, flat)
        no_cis_trans = first is not None and first == second
    if pair.exact:
        return no_cis_trans, True, bool(Chem.MolToInchi(reference))
    prediction = parse(pair.prediction)
    assert prediction is not None
    if CalcMolFormula(prediction) != CalcMolFormula(reference):
        return no_cis_trans, False, False
    no_stereo = len({canonical_text(without_stereo(molecule)) for molecule in (prediction, reference)}) == 1
    text = Chem.MolToInchi(reference)
    return no_cis_trans, no_stereo, bool(text) and Chem.MolToInchi(prediction) == text


def _length(reference: str) -> str:
    first = (len(reference) - 1) // BIN * BIN + 1
    return f"{first}-{first + BIN - 1}"


def _stereo(text: str) -> str:
    """What stereo a canonical SMILES specifies; in such a text nothing is marked that is no centre."""
    return STEREO[("@" in text) + 2 * ("/" in text or "\\" in text)]


def _groups(
    labels: Sequence[tuple[str, ...]],
    similarity: NDArray[np.float64],
    exact: NDArray[np.bool_],
    valid: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """The scores of every group that occurs; ``labels`` are those of each pair."""
    members: dict[str, list[int]] = defaultdict(list)
    for at, several in enumerate(labels):
        for label in several:
            members[label].append(at)
    rank = {label: position for position, label in enumerate((*STEREO, *RINGS, *ELEMENTS))}
    order = sorted(members, key=lambda text: rank[text] if text in rank else int(text.split("-")[0]))
    return [
        {
            "group": label,
            "images": len(members[label]),
            "tanimoto": bootstrap(similarity[members[label]]),
            "exact": wilson(int(exact[members[label]].sum()), len(members[label])),
            "validity": wilson(int(valid[members[label]].sum()), len(members[label])),
        }
        for label in order
    ]
