"""Stage ``vote``: models decide together about every picture, by :mod:`ocsrflow.ensemble.voting_methods`."""

import hashlib
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rdkit import Chem

from ..chem.molecules import canonical_text, parse
from ..chem.similarity import ParsedMolecule, parse_all
from ..config.methods import MethodName
from ..prediction.prediction_tables import read_beside, read_predictions
from ..runtime.errors import UserError
from ..runtime.files import read_json, whole, write_json
from ..runtime.progress import progress
from ..runtime.slurm_job import of_cluster
from .voting_methods import METHODS, POOLED, Candidates, Decision, Molecules, PoolEntry, oracle, similarity_of_answers

TIMED = 200  # pictures whose votes are timed


def vote(
    *,
    predictions: list[Path],
    member_facts: list[Path],
    name: str,
    folder: Path,
    methods: list[MethodName] | None = None,
    choice: Path | None = None,
    redrawn: list[Path] | None = None,
    redrawn_facts: list[Path] | None = None,
    likelihoods: Path | None = None,
    likelihood_facts: Path | None = None,
    processes: int = 1,
) -> None:
    """Decide about every picture of a test set, in several ways.

    Parameters
    ----------
    predictions
        Parquet files of the stage ``predict``, one of each model listed.
    member_facts
        JSON files beside them, in the same order.
    name
        Name of the ensemble.
    folder
        Where the files go: NAME.parquet and NAME.json of the pair rule, NAME.METHOD.parquet and NAME.METHOD.json of the
        other methods and of the oracle, which takes the best member of each picture. The Parquet files have cid, id,
        reference, prediction, agreement (mean Tanimoto similarity with the members' answers), log_probability (natural
        logarithm; mean over the members where it is known), distance (of its drawing from the picture), valid, complete
        (a member ended the text by itself), and winner (first member whose answer it is, or nothing). The JSON files
        have the members, the mean similarity of every pair (valid predictions only), the pictures that each member won,
        and the seconds per image: the members one after the other, what the method needs besides, and the vote with the
        parsing of the texts.
    methods
        Methods of :mod:`ocsrflow.ensemble.voting_methods`; without it the pair rule.
    choice
        JSON file of the stage ``choose``: which of the models are members, and their order, which decides ties. Without
        it all, as listed.
    redrawn, redrawn_facts
        Parquet and JSON files of the stage ``redraw``, of each model listed.
    likelihoods, likelihood_facts
        Parquet and JSON file of the stage ``rescore``.
    processes
        Processes that parse texts.

    Raises
    ------
    UserError
        Where the files are not of the same pictures or models, or what a method needs is missing.
    """
    methods = methods or ["pairs"]
    members = read_members(predictions, member_facts, redrawn or [], redrawn_facts or [])
    if choice is not None:
        members = _chosen(members, choice)
    rescored = _read_likelihoods(likelihoods, likelihood_facts, members)
    for method in set(methods).intersection(POOLED):
        if rescored is None:
            raise UserError(f"the method {method} needs --likelihoods and --likelihood-facts, of the stage rescore")
        if method == "redrawn" and not redrawn:
            raise UserError("the method redrawn needs --redrawn and --redrawn-facts, of the stage redraw")

    of_pictures = make_candidates(members, rescored)
    references = members[0].rows["reference"].tolist()
    texts = {text for candidates in of_pictures for text in _texts(candidates)}
    molecules = parse_all(texts.union(references), processes=processes, what=f"{name}: texts parsed")
    out = _Output(folder, name, members, of_pictures, molecules)
    for method in methods:
        decide = METHODS[method]
        shown = progress(of_pictures, what=f"{name}: {method}", unit="pictures")
        decisions = [decide(candidates, molecules) for candidates in shown]
        seconds = vote_seconds(method, of_pictures[:TIMED], molecules)
        extra_seconds = rescored.seconds if rescored is not None and method in POOLED else 0.0
        if method == "redrawn":
            extra_seconds += sum(member.redraw_seconds for member in members)
        out.write(method, decisions, extra_seconds=extra_seconds, vote=seconds)
    pairs = zip(of_pictures, references, strict=True)
    best = [oracle(candidates, reference, molecules) for candidates, reference in pairs]
    out.write("oracle", best, extra_seconds=0.0, vote=0.0)


@dataclass(frozen=True)
class Member:
    """What a model read in the pictures of a test set."""

    name: str
    path: Path  # of its predictions
    rows: pd.DataFrame
    facts: dict[str, Any]
    distances: list[NDArray[np.float64]] | None = None  # of each picture, of its candidates
    redraw_seconds: float = 0.0  # per picture

    @property
    def is_trained(self) -> bool:
        """Whether it is a trained model, which gives every text a probability; OSRA is none."""
        return bool(self.facts["kind"] == "model")


@dataclass(frozen=True)
class Likelihoods:
    """How likely the members find the candidates of all."""

    candidates: list[Sequence[str]]  # of each picture
    values: list[NDArray[np.float64]]  # of each picture: (candidates, trained members), natural logarithms
    seconds: float  # per picture, of the members; an upper bound where not all models listed are members


def read_members(
    predictions: list[Path], member_facts: list[Path], redrawn: list[Path], redrawn_facts: list[Path]
) -> list[Member]:
    """The models listed, with the distances of their candidates where there are any.

    Raises
    ------
    UserError
        Where the files are not of the same pictures, or not one of each model.
    """
    tables, facts = read_predictions(predictions, member_facts)
    members = [Member(own["name"], path, rows, own) for path, rows, own in zip(predictions, tables, facts, strict=True)]
    if not redrawn:
        return members
    if not len(redrawn) == len(redrawn_facts) == len(members):
        raise UserError(
            f"{len(members)} models, {len(redrawn)} files --redrawn and {len(redrawn_facts)} "
            "--redrawn-facts: give one of each for a model"
        )
    found = []
    for member, path, facts_path in zip(members, redrawn, redrawn_facts, strict=True):
        distances = read_beside(path, member.rows)["distances"].tolist()
        if [len(d) for d in distances] != [len(texts) for texts in _candidates(member)]:
            raise UserError(f"{path}: not the distances of the candidates in {member.path}; make it again")
        seconds = read_json(facts_path)["seconds_per_image"]
        found.append(replace(member, distances=distances, redraw_seconds=seconds))
    return found


def _candidates(member: Member) -> list[Sequence[str]]:
    if "candidates" not in member.rows:
        raise UserError(f"{member.path}: has no column candidates; make it again with the stage predict")
    return list(member.rows["candidates"])


def _chosen(members: list[Member], choice: Path) -> list[Member]:
    """The members of the ensemble, in their order."""
    listed = {member.name: member for member in members}
    names = read_json(choice)["members"]
    for name in names:
        if name not in listed:
            raise UserError(f"{choice}: {name} is not among the models given ({', '.join(listed)})")
    return [listed[name] for name in names]


def _read_likelihoods(path: Path | None, facts: Path | None, members: list[Member]) -> Likelihoods | None:
    if path is None or facts is None:
        return None
    rows, rescoring = read_beside(path, members[0].rows), read_json(facts)
    trained = [member for member in members if member.is_trained]
    for member in trained:
        if member.name not in rescoring["members"]:
            raise UserError(f"{path}: has no likelihoods of {member.name}; make it again with the stage rescore")
    columns = [rescoring["members"].index(member.name) for member in trained]
    values = [
        np.stack(scores)[:, columns] if len(scores) else np.empty((0, len(columns))) for scores in rows["likelihoods"]
    ]
    # A likelihood that could not be computed speaks against a text.
    values = [np.where(np.isnan(scores), -np.inf, scores) for scores in values]
    # Of the candidates of all models that are listed: with fewer members there are fewer to score.
    seconds = sum(rescoring["seconds_per_image"][column] for column in columns)
    return Likelihoods(list(rows["candidates"]), values, seconds)


def make_candidates(members: list[Member], rescored: Likelihoods | None) -> list[Candidates]:
    """What the members read, picture by picture.

    The pool has what one of these members proposed, as far as there are likelihoods of it: that is the valid ones.
    """
    answers = zip(*(member.rows["prediction"] for member in members), strict=True)
    likely = zip(*(member.rows["log_probability"] for member in members), strict=True)
    of_pictures = [Candidates(texts, values) for texts, values in zip(answers, likely, strict=True)]
    if rescored is None and members[0].distances is None:
        return of_pictures
    proposed = zip(*(_candidates(member) for member in members), strict=True)
    return [
        replace(candidates, pool=_pool(members, i, texts, rescored))
        for i, (candidates, texts) in enumerate(zip(of_pictures, proposed, strict=True))
    ]


def _texts(candidates: Candidates) -> set[str]:
    """All texts of a picture."""
    return {*candidates.answers, *(entry.text for entry in candidates.pool)}


def _pool(
    members: list[Member], at: int, proposed: Sequence[Sequence[str]], rescored: Likelihoods | None
) -> tuple[PoolEntry, ...]:
    """The candidates of all members of one picture."""
    distances: dict[str, float] = {}
    for member, texts in zip(members, proposed, strict=True):
        for i, text in enumerate(texts):
            distance = math.nan if member.distances is None else float(member.distances[at][i])
            distances[text] = float(np.fmin(distances.get(text, math.nan), distance))
    if rescored is None:
        return tuple(PoolEntry(text, (), distance) for text, distance in distances.items())
    scored = zip(rescored.candidates[at], rescored.values[at].tolist(), strict=True)
    return tuple(PoolEntry(text, tuple(values), distances[text]) for text, values in scored if text in distances)


def vote_seconds(method: str, of_pictures: Sequence[Candidates], molecules: Molecules) -> float:
    """Seconds that a method takes for one picture, median, with the parsing of the texts it looks at.

    Nothing is remembered from one picture to the next. Texts that are known not to parse are not tried again, since
    some of them hang RDKit.
    """
    times = []
    for candidates in of_pictures:
        seen = candidates if method in POOLED else replace(candidates, pool=())
        began = time.perf_counter()
        METHODS[method](seen, {text: molecules[text] and _parsed(text) for text in _texts(seen)})
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _parsed(text: str) -> ParsedMolecule | None:
    molecule = parse(text)
    return None if molecule is None else ParsedMolecule(canonical_text(molecule), Chem.RDKFingerprint(molecule))


def pair_matrix(similarity: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean Tanimoto similarity of the predictions of every two members, (members, members).

    Over the pictures where RDKit parses both; 0 where there is none.

    Parameters
    ----------
    similarity, valid
        As :func:`ocsrflow.ensemble.voting_methods.similarity_of_answers` has them.
    """
    both = (valid[:, :, None] & valid[:, None, :]).sum(axis=0)
    matrix: NDArray[np.float64] = similarity.sum(axis=0) / np.maximum(both, 1)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _complete_texts(members: list[Member]) -> list[set[str]]:
    """Of each picture the texts that a member ended by itself; all of a member that does not say which."""
    found: list[set[str]] = [set() for _ in range(len(members[0].rows))]
    for rows in (member.rows for member in members):
        if "candidate_complete" in rows:
            for own, texts, ended in zip(found, rows["candidates"], rows["candidate_complete"], strict=True):
                own.update(itertools.compress(texts, ended))
        else:
            for own, text in zip(found, rows["prediction"], strict=True):
                own.add(text)
    return found


class _Output:
    """The files of an ensemble, of each method."""

    def __init__(
        self, folder: Path, name: str, members: list[Member], of_pictures: list[Candidates], molecules: Molecules
    ) -> None:
        self.folder, self.name, self.members, self.molecules = folder, name, members, molecules
        self.complete = _complete_texts(members)
        answers = [candidates.answers for candidates in of_pictures]
        self.pairs = pair_matrix(*similarity_of_answers(answers, molecules)).tolist()

    def write(self, method: str, decisions: list[Decision], *, extra_seconds: float, vote: float) -> None:
        """Write what a method decided; ``extra_seconds`` and ``vote`` are the seconds per image that it adds."""
        reader = self.name if method == "pairs" else f"{self.name}.{method}"
        names = [member.name for member in self.members]
        first = self.members[0].rows
        rows = first[[column for column in ("cid", "id", "reference") if column in first]].assign(
            complete=[d.text in own for d, own in zip(decisions, self.complete, strict=True)],
            prediction=[d.text for d in decisions],
            agreement=[d.agreement for d in decisions],
            log_probability=[d.log_probability for d in decisions],
            distance=[d.distance for d in decisions],
            valid=[self.molecules[d.text] is not None for d in decisions],
            winner=["" if d.winner is None else names[d.winner] for d in decisions],
        )
        with whole(self.folder / f"{reader}.parquet") as part:
            rows.to_parquet(part, index=False)
        keys = "|".join(member.facts["key"] for member in self.members)
        reading = sum(member.facts["seconds_per_image"] for member in self.members)
        write_json(
            self.folder / f"{reader}.json",
            {
                "name": reader,
                "ensemble": self.name,
                "method": method,
                "kind": "ceiling" if method == "oracle" else "ensemble",
                **of_cluster(),
                "key": f"ensemble:{reader}:{hashlib.sha256(keys.encode()).hexdigest()[:12]}",
                "members": names,
                "pairs": self.pairs,
                "wins": {member: int((rows["winner"] == member).sum()) for member in names},
                "seconds_per_image": reading + extra_seconds + vote,
                "seconds_per_vote": vote,
                "device": next(member.facts["device"] for member in self.members if member.is_trained),
            },
        )
