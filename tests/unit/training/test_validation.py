"""Validation inside a training: the scores are those of the texts, and no text holds it up."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ocsrflow.chem.similarity import is_valid, tanimoto
from ocsrflow.chem.tokenizer import decode, encode
from ocsrflow.network.beam_search import Candidate
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.isolated import attempts
from ocsrflow.training import validation
from ocsrflow.training.process_group import ProcessGroup
from support.training import NETWORK, TRAINING

pytestmark = pytest.mark.usefixtures("one_thread")


def score_slowly(pair: tuple[str, str]) -> tuple[float, bool]:
    """Stands in for a text that holds RDKit up."""
    if pair[0] == "CCCC":
        time.sleep(600)
    return tanimoto(*pair), is_valid(pair[0])


class Slow:
    def __call__(self, pairs: list[tuple[str, str]]) -> list[Any]:
        return attempts(score_slowly, pairs)


def test_a_text_that_holds_rdkit_up_is_invalid_and_the_others_keep_their_scores(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = Packed(dataset / "images.h5")
    members = packed.members("validation")[:4]
    right = [decode(packed.tokens_of(at)) for at in members]
    read = ["CCCC", "C(", right[2], "CCO"]
    written = dict(zip(right, read, strict=True))
    assert len(written) == 4

    def search(decoder: object, features: torch.Tensor, longest: int) -> list[list[Candidate]]:
        texts = [written[decode(packed.tokens_of(at))] for at in batch.pop(0)]
        return [[Candidate(encode(text).tolist(), 0.0, [])] for text in texts]

    batch: list[list[int]] = []
    loaded = validation.Loader.__iter__

    def spied(loader: validation.Loader) -> Any:
        for found in loaded(loader):
            batch.append(found.positions)
            yield found

    monkeypatch.setattr(validation.Loader, "__iter__", spied)
    monkeypatch.setattr(validation, "search", search)
    monkeypatch.setattr(validation, "LIMIT", 2.0)
    monkeypatch.setattr(validation, "partial", lambda *_: Slow())
    training = TRAINING.model_copy(update={"validation_size": 4})
    found = validation.validate(
        EncoderDecoder(NETWORK, len(packed.vocabulary)), packed, training, ProcessGroup(0, 1, torch.device("cpu"))
    )
    assert found["tanimoto"] == pytest.approx((1 + tanimoto("CCO", right[3])) / 4)
    assert found["validity"] == 2 / 4
    assert "counted as invalid, not done in 2 s: CCCC" in capsys.readouterr().err
