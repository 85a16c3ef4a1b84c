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

from ..chem.similarity import parse_all
from ..chem.tokenizer import VOCABULARY, decode, encode
from ..config.depiction import Depiction
from ..config.reading import Reading
from ..depiction.plain import Picture
from ..ensemble.calibrate import Calibration
from ..ensemble.calibrate import confidence as confidences
from ..ensemble.voting_methods import METHODS, Candidates, Decision, PoolEntry
from ..network.beam_search import Candidate, likelihood
from ..network.model import load_model
from ..network.model_reader import ModelReader, best_first, is_complete
from ..pictures.redraw_distance import redraw_distances, redraw_pool
from ..runtime.errors import UserError
from ..runtime.files import read_json
from .find_models import TrainedModels


@dataclass(frozen=True)
class Answer:
    """What was read in one picture."""

    decision: Decision
    valid: bool
    confidence: float  # that the answer is exactly right, in [0, 1]
    candidates: list[tuple[str, float]]  # of all models, with the mean log-probability, likeliest first
    members: dict[str, str]  # the answer of each model
    complete: bool = True  # a model ended the text by itself; else the confidence is 0


# What one model may have read in one picture: its texts with their candidates, as best_first sorts them.
Ranked = list[tuple[str, Candidate]]


class EnsembleReader:
    """Some trained models, loaded.

    Candidates are parsed and drawn by processes that start with the first pictures and end with :meth:`close`, with a
    ``with`` block, or with this process.
    """

    def __init__(
        self, trained: TrainedModels, method: str, reading: Reading, device: torch.device, *, processes: int = 1
    ) -> None:
        """Load the models.

        Parameters
        ----------
        trained
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
        folders = trained.folders
        loaded = [load_model(folder / "model.json", folder / "weights.safetensors", device) for folder in folders]
        descriptions = [facts for _, facts in loaded]
        for folder, facts in zip(folders, descriptions, strict=True):
            _check_alike(folders[0], descriptions[0], folder, facts)
        self.names = [str(facts["name"]) for facts in descriptions]
        if len(set(self.names)) < len(self.names):  # of several runs
            self.names = [str(folder) for folder in folders]
        self.depiction = _depiction(folders[0], descriptions[0])
        self.model_readers = [
            ModelReader(model.eval(), int(facts["training"]["decode_length"]), reading, device)
            for model, facts in loaded
        ]
        self.method = method if len(self.model_readers) > 1 else "pairs"
        self._processes = redraw_pool(self.depiction, processes)
        together = trained.together(self.method)
        paths = [together] if together else trained.alone()
        self.calibrations = [path and _calibration(path) for path in paths]

    def __enter__(self) -> "EnsembleReader":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._processes.close(at_once=kind is not None)

    def close(self) -> None:
        """End the processes that parse and draw."""
        self._processes.close()

    def read(self, pictures: NDArray[np.uint8]) -> list[Answer]:
        """The answers to some pictures, (pictures, channels, size, size)."""
        features = [reader.encode(torch.from_numpy(pictures)) for reader in self.model_readers]
        by_model = [reader.beam_search(own) for reader, own in zip(self.model_readers, features, strict=True)]
        texts = {decode(own.tokens) for found in by_model for beam in found for own in beam}
        molecules = parse_all(texts, what="parsing the candidates", pool=self._processes)

        def parsed(text: str) -> bool:
            return molecules[text] is not None

        # From here on all lists are by picture. The first one has of each picture what each model may have read.
        ranked = [[best_first(beam, parsed) for beam in of_picture] for of_picture in zip(*by_model, strict=True)]
        pools = [list(filter(parsed, dict.fromkeys(text for own in models for text, _ in own))) for models in ranked]
        likelihoods = self._likelihoods(features, pools)
        images = [picture.transpose(1, 2, 0) for picture in pictures]
        distances = [[math.nan] * len(pool) for pool in pools]
        if self.method == "redrawn":
            distances = self._distances(images, pools)
        candidates = list(map(_candidates, ranked, pools, likelihoods, distances))
        decisions = [METHODS[self.method](own, molecules) for own in candidates]
        if self.method != "redrawn":  # for the confidence the drawing of the answer alone is needed
            answers = [[decision.text] if parsed(decision.text) else [] for decision in decisions]
            of_answers = [own[0] if own else math.nan for own in self._distances(images, answers)]
            decisions = [replace(d, distance=distance) for d, distance in zip(decisions, of_answers, strict=True)]
        complete = [self._is_complete(d.text, models) for d, models in zip(decisions, ranked, strict=True)]
        usable = [parsed(d.text) and ended for d, ended in zip(decisions, complete, strict=True)]
        confidences = self._confidences(decisions, usable, candidates)
        return [
            Answer(
                decision,
                parsed(decision.text),
                confidence,
                _likeliest(own) if len(models) > 1 else [(text, c.log_probability) for text, c in models[0]],
                dict(zip(self.names, own.answers, strict=True)),
                ended,
            )
            for decision, confidence, own, models, ended in zip(
                decisions, confidences, candidates, ranked, complete, strict=True
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
        by_model = []
        for model_reader, own in zip(self.model_readers, features, strict=True):
            with model_reader.model.autocast():
                by_model.append(likelihood(model_reader.model.decoder, own, tokens))
        # From model, picture, text to picture, text, model.
        return [list(zip(*of_picture, strict=True)) for of_picture in zip(*by_model, strict=True)]

    def _distances(self, pictures: list[Picture], texts: list[list[str]]) -> list[list[float]]:
        return redraw_distances(pictures, texts, self._processes)

    def _is_complete(self, answer: str, models: list[Ranked]) -> bool:
        """Whether one of the models ended the text by itself."""
        return any(
            text == answer and is_complete(candidate, reader.longest)
            for reader, own in zip(self.model_readers, models, strict=True)
            for text, candidate in own
        )

    def _confidences(self, decisions: list[Decision], usable: list[bool], candidates: list[Candidates]) -> list[float]:
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
                log_probability=[_likelihood(d, c, member) for d, c in zip(decisions, candidates, strict=True)]
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


def _check_alike(first: Path, ours: dict[str, Any], other: Path, theirs: dict[str, Any]) -> None:
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


def _candidates(
    models: list[Ranked], pool: list[str], likelihoods: list[tuple[float, ...]], distances: list[float]
) -> Candidates:
    """What the models read in one picture."""
    return Candidates(
        tuple(own[0][0] for own in models),
        tuple(own[0][1].log_probability for own in models),
        tuple(map(PoolEntry, pool, likelihoods, distances)),
    )


def _likelihood(decision: Decision, candidates: Candidates, member: int) -> float:
    """The answer's log-probability by one member."""
    for entry in candidates.pool:
        if entry.text == decision.text and entry.likelihoods:
            return entry.likelihoods[member]
    return decision.log_probability


def _likeliest(candidates: Candidates) -> list[tuple[str, float]]:
    """The candidates by their mean log-probability."""
    means = [(entry.text, math.fsum(entry.likelihoods) / len(entry.likelihoods)) for entry in candidates.pool]
    return sorted(means, key=lambda item: -item[1])
