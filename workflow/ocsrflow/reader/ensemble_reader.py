"""Trained models that answer together about pictures from anywhere, each answer with a confidence."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..chem.similarity import known
from ..chem.tokenizer import VOCABULARY, decode, encode
from ..config.depiction import Depiction
from ..config.reading import Reading
from ..depiction.plain import Picture
from ..ensemble.calibrate import Calibration
from ..ensemble.calibrate import confidence as confidences
from ..ensemble.voting_methods import METHODS, Candidates, Decision, Pooled
from ..network.beam_search import likelihood
from ..network.model import load_model
from ..network.model_reader import ModelReader, best_first, is_complete
from ..pictures.redraw_distance import fits, pool_of
from ..runtime.errors import UserError
from ..runtime.files import read_json
from .find_models import TrainedModels


@dataclass(frozen=True)
class Answer:
    """What a team makes of one picture."""

    decision: Decision
    valid: bool
    confidence: float  # that the answer is exactly right, in [0, 1]
    candidates: list[tuple[str, float]]  # what they had in mind, with the mean log-probability, likeliest first
    members: dict[str, str]  # the answer of each
    complete: bool = True  # a model ended the text by itself; else the confidence is 0


class EnsembleReader:
    """Some trained models, loaded.

    Candidates are parsed and drawn by processes that start with the first pictures and end with :meth:`close`, with a
    ``with`` block, or with this process.
    """

    def __init__(
        self, lineup: TrainedModels, method: str, reading: Reading, device: torch.device, *, processes: int = 1
    ) -> None:
        """Load the models.

        Parameters
        ----------
        lineup
            Which.
        method
            How they find one answer, of :mod:`ocsrflow.ensemble.voting_methods`; a single model just answers.
        reading
            How texts are searched for.
        device
            Where they compute.
        processes
            Processes that parse and draw candidates.

        Raises
        ------
        UserError
            Where a model is damaged, or they do not go together.
        """
        loaded = [
            load_model(folder / "model.json", folder / "weights.safetensors", device) for folder in lineup.folders
        ]
        about = [facts for _, facts in loaded]
        for folder, facts in zip(lineup.folders, about, strict=True):
            _fit_together(lineup.folders[0], about[0], folder, facts)
        self.names = [str(facts["name"]) for facts in about]
        if len(set(self.names)) < len(self.names):  # of several runs
            self.names = [str(folder) for folder in lineup.folders]
        self.depiction = _depiction(lineup.folders[0], about[0])
        self.model_readers = [
            ModelReader(reader.eval(), int(facts["training"]["decode_length"]), reading, device)
            for reader, facts in loaded
        ]
        self.method = method if len(self.model_readers) > 1 else "pairs"
        self._pool = pool_of(self.depiction, processes)
        together = lineup.together(self.method)
        paths = [together] if together else lineup.alone()
        self.calibrations = [path and _calibration(path) for path in paths]

    def __enter__(self) -> "EnsembleReader":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.close(at_once=kind is not None)

    def close(self) -> None:
        """End the processes that parse and draw."""
        self._pool.close()

    def read(self, pictures: NDArray[np.uint8]) -> list[Answer]:
        """The answers to some pictures, (pictures, channels, size, size)."""
        features = [model_reader.encode(torch.from_numpy(pictures)) for model_reader in self.model_readers]
        written = [model_reader.beam_search(own) for model_reader, own in zip(self.model_readers, features, strict=True)]
        texts = {decode(c.tokens) for found in written for candidates in found for c in candidates}
        molecules = known(texts, what="parsing the candidates", pool=self._pool)
        ranked = [[best_first(c, lambda text: molecules[text] is not None) for c in found] for found in written]
        pools = [
            [
                text
                for text in dict.fromkeys(text for own in of_picture for text, _ in own)
                if molecules[text] is not None
            ]
            for of_picture in zip(*ranked, strict=True)
        ]
        scores = self._likelihoods(features, pools)
        shown = [picture.transpose(1, 2, 0) for picture in pictures]
        distances = self._distances(shown, pools) if self.method == "redrawn" else [[math.nan] * len(p) for p in pools]
        ballots = [
            Candidates(
                tuple(own[0][0] for own in of_picture),
                tuple(own[0][1].log_probability for own in of_picture),
                tuple(Pooled(*pooled) for pooled in zip(pool, likelihoods, far, strict=True)),
            )
            for of_picture, pool, likelihoods, far in zip(
                zip(*ranked, strict=True), pools, scores, distances, strict=True
            )
        ]
        decisions = [METHODS[self.method](ballot, molecules) for ballot in ballots]
        if self.method != "redrawn":
            # For the confidence the drawing of the answer alone is needed.
            far = self._distances(shown, [[d.text] if molecules[d.text] else [] for d in decisions])
            decisions = [
                replace(d, distance=own[0] if own else math.nan) for d, own in zip(decisions, far, strict=True)
            ]
        valid = [molecules[d.text] is not None for d in decisions]
        in_mind = [[(text, c.log_probability) for text, c in own] for own in ranked[0]]
        if len(self.model_readers) > 1:
            in_mind = [_likeliest(ballot) for ballot in ballots]
        complete = [
            any(
                t == d.text and is_complete(c, model_reader.longest)
                for model_reader, own in zip(self.model_readers, read, strict=True)
                for t, c in own
            )
            for d, read in zip(decisions, zip(*ranked, strict=True), strict=True)
        ]
        usable = [ok and whole for ok, whole in zip(valid, complete, strict=True)]
        sure = self._confidences(decisions, usable, ballots)
        return [
            Answer(decision, ok, confidence, candidates, dict(zip(self.names, ballot.answers, strict=True)), whole)
            for decision, ok, confidence, candidates, ballot, whole in zip(
                decisions, valid, sure, in_mind, ballots, complete, strict=True
            )
        ]

    def attention(self, picture: Picture, text: str) -> NDArray[np.float32] | None:
        """Where the first model looks while it writes a text, (tokens + 1, grid, grid); None for no SMILES."""
        try:
            return self.model_readers[0].attention(picture, text)
        except ValueError:
            return None

    def _likelihoods(self, features: list[Tensor], pools: list[list[str]]) -> list[list[tuple[float, ...]]]:
        """Of each picture, of each text of its pool, the log-probability by each model; nothing for a single one."""
        if len(self.model_readers) == 1:
            return [[()] * len(pool) for pool in pools]
        tokens = [[encode(text).tolist() for text in pool] for pool in pools]
        each = []
        for model_reader, own in zip(self.model_readers, features, strict=True):
            with model_reader.reader.autocast():
                each.append(likelihood(model_reader.reader.decoder, own, tokens))
        return [list(zip(*of_picture, strict=True)) for of_picture in zip(*each, strict=True)]

    def _distances(self, pictures: list[Picture], texts: list[list[str]]) -> list[list[float]]:
        return fits(pictures, texts, self.depiction, pool=self._pool)

    def _confidences(self, decisions: list[Decision], usable: list[bool], ballots: list[Candidates]) -> list[float]:
        """By the calibration of all together, or else the mean of what each model alone would be trusted with.

        0 for what is not ``usable``: no molecule, or cut off.
        """
        rows = pd.DataFrame(
            {
                "log_probability": [d.log_probability for d in decisions],
                "distance": [d.distance for d in decisions],
                "valid": usable,
            }
        )
        if len(self.calibrations) == 1 and self.calibrations[0]:
            if len(self.model_readers) > 1:
                rows["agreement"] = [d.agreement for d in decisions]
            return list(confidences(rows, self.calibrations[0]))
        each = []
        for member, calibration in enumerate(self.calibrations):
            own = rows.assign(
                log_probability=[_likelihood(d, b, member) for d, b in zip(decisions, ballots, strict=True)]
            )
            # Nobody has learnt how far to trust a model without a calibration: its own probability it is.
            uncalibrated = np.exp(own["log_probability"]) * own["valid"]
            each.append(confidences(own, calibration) if calibration else uncalibrated)
        return list(np.mean(each, axis=0))


def _calibration(path: Path) -> Calibration:
    learnt = read_json(path)
    try:
        return Calibration.from_json(learnt)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _fit_together(first: Path, ours: dict[str, Any], other: Path, theirs: dict[str, Any]) -> None:
    """Look that two models read the same kind of pictures in the same tokens."""
    for folder, facts in ((first, ours), (other, theirs)):
        if "depiction" not in facts:
            raise UserError(f"{folder}: model.json does not say what pictures it learnt from; train it again")
        if facts["vocabulary"] != VOCABULARY:
            raise UserError(f"{folder}: trained with another vocabulary than this ocsrflow has; train it again")
    kinds = [_kind(_depiction(*model)) for model in ((first, ours), (other, theirs))]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{first} learnt from pictures of {kinds[0]}, {other} from {kinds[1]}; give models of one configuration"
        )


def _depiction(folder: Path, facts: dict[str, Any]) -> Depiction:
    try:
        return Depiction(**facts["depiction"])
    except (TypeError, ValueError):
        raise UserError(
            f"{folder}: model.json tells of no depiction that this ocsrflow knows; train it again"
        ) from None


def _kind(depiction: Depiction) -> str:
    colours = "colour" if depiction.palette == "colour" else "black and white"
    return f"{depiction.size} × {depiction.size} pixels, {colours}, {depiction.channel_order}"


def _likelihood(decision: Decision, ballot: Candidates, member: int) -> float:
    """The answer's log-probability by one member."""
    found = (pooled.likelihoods for pooled in ballot.pool if pooled.text == decision.text and pooled.likelihoods)
    likelihoods = next(found, None)
    return decision.log_probability if likelihoods is None else likelihoods[member]


def _likeliest(ballot: Candidates) -> list[tuple[str, float]]:
    """The candidates by their mean log-probability."""
    pool = [(pooled.text, math.fsum(pooled.likelihoods) / len(pooled.likelihoods)) for pooled in ballot.pool]
    return sorted(pool, key=lambda item: -item[1])
