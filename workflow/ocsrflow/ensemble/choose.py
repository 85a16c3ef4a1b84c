"""Stage ``choose``: which models are members of an ensemble, by what they read in validation pictures.

Test pictures have no say in it. The score of the subset that is chosen is the best of many on the same pictures, and so
somewhat too good: it tells which subset to take, and the test set what the subset is worth.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..chem.similarity import parse_all, parsed_similarities
from ..prediction.prediction_tables import read_predictions
from ..runtime.errors import UserError
from ..runtime.files import write_json
from ..runtime.progress import progress
from .voting_methods import similarity_of_answers

ALL_SUBSETS = 8  # most models of which every subset is tried: there are 247 of them
SHOWN = 50  # subsets listed

Subset = tuple[int, ...]  # positions of models, in their order


def choose(
    *,
    predictions: list[Path],
    member_facts: list[Path],
    name: str,
    out: Path,
    selection: Literal["listed", "best"] = "listed",
    largest: int | None = None,
    processes: int = 1,
) -> None:
    """Choose the members of an ensemble and their order, which decides ties.

    Parameters
    ----------
    predictions
        Parquet files of the stage ``predict``, one of each model listed, on validation pictures.
    member_facts
        JSON files beside them, in the same order.
    name
        Name of the ensemble.
    out
        JSON file: ensemble, its name; members, the names of the chosen; selection; largest; images, how many had a
        reference that RDKit parses; scores, the mean Tanimoto similarity of each model listed; tried, the best 50
        subsets with theirs.
    selection
        ``listed``: all models, in the order listed. ``best``: the two or more whose pair rule has the highest mean
        Tanimoto similarity, in the order of their own scores; of equal subsets the smallest, then the one of the models
        with the higher scores. Of up to 8 models all subsets are tried; of more, all pairs, and the best pair is joined
        by one model after the other, each time the one that helps most.
    largest
        Most members of the ``best`` subset; without it all may be.
    processes
        Processes that parse texts.

    Raises
    ------
    UserError
        Where the predictions are not of the same pictures, or there are no two models or no picture to choose by.
    """
    tables, facts = read_predictions(predictions, member_facts)
    names = [own["name"] for own in facts]
    most = min(len(names), largest or len(names))
    if selection == "best" and most < 2:
        raise UserError(f"ensemble {name}: an ensemble has two members or more; list more models, or raise --largest")
    answers = compare_answers(tables, processes=processes, what=f"{name}: texts parsed")
    if not len(answers.scores):
        raise UserError(f"{predictions[0]}: has no reference that RDKit parses; there is nothing to choose members by")
    scores = answers.scores.mean(axis=0)
    if selection == "listed":
        order = list(range(len(names)))
        tried = {tuple(order): pair_score(answers, tuple(order))}
    else:
        order = np.argsort(-scores, kind="stable").tolist()  # equal ones stay as listed
        tried = try_subsets(answers.subset(order), most)
    ranked = sorted(tried, key=lambda subset: _rank(tried, subset))
    write_json(
        out,
        {
            "ensemble": name,
            "members": [names[order[i]] for i in ranked[0]],
            "selection": selection,
            "largest": largest,
            "images": len(answers.scores),
            "scores": dict(zip(names, scores.tolist(), strict=True)),
            "tried": [
                {"members": [names[order[i]] for i in subset], "tanimoto": tried[subset]} for subset in ranked[:SHOWN]
            ],
        },
    )


@dataclass(frozen=True)
class Answers:
    """What some models read in the same pictures, compared once."""

    similarity: NDArray[np.float64]  # (pictures, models, models) Tanimoto similarities; 0 with an invalid answer
    valid: NDArray[np.bool_]  # (pictures, models)
    scores: NDArray[np.float64]  # (pictures, models) Tanimoto similarities with the reference

    def subset(self, models: Sequence[int]) -> "Answers":
        """Those of some models, in that order."""
        chosen = list(models)
        return Answers(self.similarity[:, chosen][:, :, chosen], self.valid[:, chosen], self.scores[:, chosen])


def compare_answers(tables: Sequence[pd.DataFrame], *, processes: int = 1, what: str = "texts parsed") -> Answers:
    """Compare the predictions of several models, where RDKit parses the reference."""
    references = tables[0]["reference"].tolist()
    rows = list(zip(*(table["prediction"] for table in tables), strict=True))
    molecules = parse_all({text for row in rows for text in row}.union(references), processes=processes, what=what)
    used = [i for i, reference in enumerate(references) if molecules[reference] is not None]
    if not used:
        none = np.empty((0, len(tables)))
        return Answers(np.empty((0, len(tables), len(tables))), none.astype(bool), none)
    similarity, valid = similarity_of_answers([rows[i] for i in used], molecules)
    scores = np.zeros(valid.shape)
    for picture, i in enumerate(used):
        right = molecules[references[i]]
        read = [found for text in rows[i] if (found := molecules[text]) is not None]
        if right is not None and read:
            scores[picture, valid[picture]] = parsed_similarities(right, read)
    return Answers(similarity, valid, scores)


def pair_winners(similarity: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The pair rule for many pictures at once: the same as :func:`ocsrflow.ensemble.voting_methods.pair_vote` of each.

    Parameters
    ----------
    similarity
        (pictures, members, members), 0 with an invalid answer.
    valid
        (pictures, members).

    Returns
    -------
    Winner of each picture (pictures,).
    """
    members = valid.shape[1]
    pairs = np.array(list(itertools.combinations(range(members), 2)), dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        return np.zeros(len(valid), dtype=np.int64)
    first, second = pairs.T
    voting = valid[:, first] & valid[:, second]
    values = np.where(voting, similarity[:, first, second], -1.0)
    # The rank of each pair, from 0; the stable sort keeps equal ones in the order of their members.
    ranks = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
    points_of_pairs = np.maximum(voting.sum(axis=1, keepdims=True) - ranks, 0)
    in_pair = np.zeros((len(pairs), members), dtype=np.int64)
    in_pair[np.arange(len(pairs)), first] = in_pair[np.arange(len(pairs)), second] = 1
    points = np.where(valid, points_of_pairs @ in_pair, -1)
    perfect = values.max(axis=1) == 1.0
    winners: NDArray[np.int64] = np.where(perfect, first[values.argmax(axis=1)], points.argmax(axis=1))
    return winners


def pair_score(answers: Answers, subset: Subset) -> float:
    """Mean Tanimoto similarity of what a subset of the models takes by the pair rule."""
    chosen = answers.subset(subset)
    winners = pair_winners(chosen.similarity, chosen.valid)
    return float(chosen.scores[np.arange(len(winners)), winners].mean())


def try_subsets(answers: Answers, largest: int) -> dict[Subset, float]:
    """Scores of subsets of two to ``largest`` models: all of few models, of many the promising ones."""
    models = range(answers.valid.shape[1])
    sizes = range(2, 1 + (largest if len(models) <= ALL_SUBSETS else 2))
    subsets = [subset for size in sizes for subset in itertools.combinations(models, size)]
    tried = {subset: pair_score(answers, subset) for subset in progress(subsets, what="members", unit="subsets")}
    best = min(tried, key=lambda subset: _rank(tried, subset))
    while len(models) > ALL_SUBSETS and len(best) < largest:
        grown = [tuple(sorted((*best, other))) for other in models if other not in best]
        tried |= {subset: pair_score(answers, subset) for subset in grown}
        best = min(grown, key=lambda subset: _rank(tried, subset))
    return tried


def _rank(tried: dict[Subset, float], subset: Subset) -> tuple[float, int, Subset]:
    """Sorts the best subset first."""
    return -tried[subset], len(subset), subset
