"""Validation during a training: teacher-forced loss and the scores of greedy reading."""

import math

import numpy as np
import torch
from torch import nn

from ..chem.similarity import is_valid, tanimoto
from ..chem.tokenizer import decode
from ..config.training import Training
from ..network.batches import Loader
from ..network.beam_search import search
from ..network.model import Reader
from ..pictures.packed_file import Packed
from ..runtime.progress import progress
from .process_group import Place


def validate(reader: Reader, packed: Packed, training: Training, place: Place) -> dict[str, float]:
    """Score a network on the first pictures of the validation split; the processes share the work.

    Returns
    -------
    ``loss``, cross-entropy in nats a token; ``tanimoto``, mean similarity of greedy readings; ``validity``, share of
    them that RDKit parses.

    Raises
    ------
    Stopped
        Between two batches, when a signal told a process to stop.
    """
    members = packed.members("validation")[: training.validation_size]
    totals = np.zeros(5)  # entropy, tokens, similarity, valid, pictures
    reader.eval()
    # As many parts for each process, since they talk between two; a last one may be empty.
    own = [
        members[at : at + training.batch][place.rank :: place.world] for at in range(0, len(members), training.batch)
    ]
    loader = iter(
        Loader(
            packed, [part for part in own if len(part)], math.ceil(training.batch / place.world), workers=0, pin=False
        )
    )
    with (
        torch.inference_mode(),
        reader.autocast(),
        progress(total=len(own), what="validating", unit="batches", shown=place.first, leave=False) as bar,
    ):
        for part in own:
            place.heed()
            if not len(part):
                continue
            batch = next(loader)
            features = reader.encoder(batch.pictures.to(place.device))
            scores, _ = reader.decoder(features, batch.tokens.to(place.device), batch.steps)
            targets = batch.targets.to(place.device)
            entropy = nn.functional.cross_entropy(scores.float(), targets, reduction="sum")
            found = search(reader.decoder, features, training.decode_length)
            texts = [decode(candidates[0].tokens) for candidates in found]
            references = [decode(packed.tokens_of(at)) for at in batch.positions]
            totals += [
                float(entropy),
                len(targets),
                sum(map(tanimoto, texts, references)),
                sum(map(is_valid, texts)),
                len(texts),
            ]
            bar.update()
    summed = place.total(torch.tensor(totals, device=place.device))
    loss, tokens, similarity, valid, pictures = summed.cpu().tolist()
    return {"loss": loss / tokens, "tanimoto": similarity / pictures, "validity": valid / pictures}
