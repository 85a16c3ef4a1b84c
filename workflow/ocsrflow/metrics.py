"""Scores of predicted SMILES against reference SMILES, as the field defines them.

Anybody's predictions can be scored: ``python -m ocsrflow.metrics predictions.csv references.csv``.
"""

import csv
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula, CalcNumRings

from .chemistry import canonical, canonical_text, parse, without_stereo
from .cli import run
from .errors import UserError, visible
from .guarded import Failed, attempts, guarded
from .progress import progress
from .similarity import LIMIT, Known, known_or_failed, known_similarity, limit_memory
from .similarity import is_valid as is_valid  # known by these names to who looks for scores here
from .similarity import tanimoto as tanimoto

BOOTSTRAPS = 1000
DRAWS = 1_000_000  # of the bootstrap at a time, for its memory
LEVEL = 0.95
Z = 1.959963984540054  # normal quantile of (1 + LEVEL) / 2

EXACT = ("exact", "exact_no_cis_trans", "exact_no_stereo", "exact_inchi")

# The groups that references are broken down by, in the order in which they are told.
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


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> Score:
    """A mean with its 95 % percentile bootstrap interval, 1,000 resamples of a fixed seed."""
    n = len(values)
    if n == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
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
    tried = known_or_failed(texts, processes=processes, seconds=seconds)
    parsed = {text: result for text, result in tried.items() if isinstance(result, Known)}
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


def _pair(prediction: str, reference: str, parsed: dict[str, Known]) -> _Pair:
    found = parsed.get(prediction)
    exact = found is not None and found.canonical == parsed[reference].canonical
    return _Pair(None if found is None else prediction, reference, exact)


def _similarity(pair: _Pair, parsed: dict[str, Known]) -> float:
    if pair.prediction is None:
        return 0.0
    return known_similarity(parsed[pair.prediction], parsed[pair.reference])


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
    told = {label: place for place, label in enumerate((*STEREO, *RINGS, *ELEMENTS))}
    order = sorted(members, key=lambda text: told[text] if text in told else int(text.split("-")[0]))
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


def metrics(
    predictions: Path, references: Path, *, json: bool = False, processes: int | None = None, seconds: float = LIMIT
) -> None:
    """Score anybody's predicted SMILES against the right ones.

    Parameters
    ----------
    predictions
        CSV file in UTF-8 with the columns id and smiles; other columns are ignored, and so is the order of the rows.
    references
        Such a file, with the right SMILES of the same ids.
    json
        Print one JSON object in place of the table.
    processes
        Processes that compare molecules; by default one for every core.
    seconds
        Time limit of one molecule; a prediction that takes RDKit longer is invalid.

    Raises
    ------
    UserError
        Where a file is not such a CSV, or where the two are not about the same ids.
    """
    for name, value in (("processes", processes), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    predicted, right = _read(predictions), _read(references)
    if predicted.keys() != right.keys():
        sides = ((predictions, predicted.keys() - right), (references, right.keys() - predicted))
        only = ", ".join(f"{len(ids)} only in {path} ({_few(ids)})" for path, ids in sides if ids)
        raise UserError(f"{predictions} and {references} need the same ids: {only}")
    texts = [predicted[key] for key in right]
    processes = processes or len(os.sched_getaffinity(0))
    found = evaluate(texts, list(right.values()), processes=processes, seconds=seconds)
    for path, own, what in ((predictions, predicted, "counted as invalid"), (references, right, "dropped")):
        for key, text in own.items():
            if text in found.given_up:
                line = f"{path}: id {key}: {what}, RDKit was given up: {found.given_up[text]}"
                print(visible(line), file=sys.stderr)
    dropped = [list(right)[at] for at in found.dropped]
    print(dumps(_summary(found, dropped), allow_nan=False) if json else visible(_table(found, dropped)))


def _read(path: Path) -> dict[str, str]:
    """SMILES by id."""
    csv.field_size_limit(sys.maxsize)  # a text may be of any length: an invalid one is no reason to stop
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            # Blank lines, with or without commas, are no rows.
            stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
            lines = [(number, cells) for number, cells in stripped if any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}): save it as one, with columns id, smiles") from None
    if not lines:
        raise UserError(f"{path}: empty; it needs a line with the columns id and smiles, and one for each picture")
    (_, header), *rows = lines
    for name in ("id", "smiles"):
        if header.count(name) != 1:
            many = "two columns" if name in header else "no column"
            raise UserError(
                f"{path}: {many} called {name}, separated by commas; its first line is {','.join(header)[:200]!r}"
            )
    if not rows:
        raise UserError(f"{path}: no rows under its first line")
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line}: {len(cells)} cells under {len(header)} columns; quote commas")
    keys, texts = ([cells[header.index(name)] for _, cells in rows] for name in ("id", "smiles"))
    twice = [key for key, rows_of_it in Counter(keys).items() if rows_of_it > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} ids more than once ({_few(twice)}); give each id one row")
    return dict(zip(keys, texts, strict=True))


def _few(ids: Iterable[str]) -> str:
    """The first ids, for a message."""
    several = sorted(ids)
    return ", ".join(several[:5]) + (", ..." if len(several) > 5 else "")


def _plain(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores for JSON, which has no NaN: values by name, and their intervals."""
    numbers = {
        name: [None if math.isnan(number) else number for number in (own.value, own.low, own.high)]
        for name, own in scores.items()
    }
    values = {name: value for name, (value, *_) in numbers.items()}
    return {**values, "intervals": {name: interval for name, (_, *interval) in numbers.items()}}


def _summary(found: Evaluation, dropped: list[str]) -> dict[str, Any]:
    return {
        **_plain(found.scores),
        "pairs": len(found.used),
        "invalid_predictions": int((~found.valid).sum()),
        "dropped_references": len(dropped),
        "dropped_ids": dropped,
        "groups": {
            kind: [
                {"group": row["group"], "images": row["images"]}
                | _plain({name: row[name] for name in ("tanimoto", "exact", "validity")})
                for row in rows
            ]
            for kind, rows in found.groups.items()
        },
    }


def _table(found: Evaluation, dropped: list[str]) -> str:
    lines = [
        f"pairs: {len(found.used)}, invalid predictions among them: {int((~found.valid).sum())}, "
        f"dropped references: {len(dropped)}" + (f" ({_few(dropped)})" if dropped else ""),
        f"\n{'score':20}{'value':>8}   95 % interval",
    ]
    lines += [f"{name:20}{own.value:8.4f}   {own.low:.4f} to {own.high:.4f}" for name, own in found.scores.items()]
    for kind, rows in found.groups.items():
        lines.append(f"\n{kind:12}{'images':>8}{'tanimoto':>10}   {'95 % interval':18}{'exact':>8}{'validity':>10}")
        for row in rows:
            mean, exact, validity = (row[name] for name in ("tanimoto", "exact", "validity"))
            lines.append(
                f"{row['group']:12}{row['images']:8}{mean.value:10.4f}   {mean.low:.4f} to {mean.high:.4f}"
                f"{exact.value:10.4f}{validity.value:10.4f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run(metrics)
