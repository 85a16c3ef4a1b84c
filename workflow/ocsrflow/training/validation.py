"""Validation during a training: teacher-forced loss and the scores of greedy reading."""

import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from ..chem.similarity import LIMIT
from ..chem.tokenizer import decode
from ..config.training import Training
from ..network.batches import Loader
from ..network.beam_search import search
from ..network.model import EncoderDecoder
from ..pictures.packed_file import Packed
from ..runtime.isolated import CHUNK, Failed, Pool, attempts
from ..runtime.progress import progress
from .process_group import ProcessGroup
from .rewards import Pair, Score, prepare, score


def validate(model: EncoderDecoder, packed: Packed, training: Training, group: ProcessGroup) -> dict[str, float]:
    """Score a network on the first pictures of the validation split; the processes share the work.

    Texts are parsed in a process of their own meanwhile: what a network writes can hold RDKit up for minutes, or crash
    it. Such a text counts as invalid, and a line on standard error says so.

    Returns
    -------
    ``loss``, cross-entropy in nats a token; ``tanimoto``, mean similarity of greedy readings; ``validity``, share of
    them that RDKit parses.

    Raises
    ------
    Stopped
        Between two batches, when a process got a signal to stop.
    """
    members = packed.members("validation")[: training.validation_size]
    totals = np.zeros(5)  # cross-entropy, tokens, similarity, valid, pictures
    work = partial(attempts, score)
    waiting: list[tuple[Sequence[Pair], Iterator[Score | Failed]]] = []
    model.eval()
    # Each process takes its part of every batch, so that all reach check_stop equally often; a last part may be empty.
    batches = [members[at : at + training.batch] for at in range(0, len(members), training.batch)]
    parts = [batch[group.rank :: group.world_size] for batch in batches]
    largest = math.ceil(training.batch / group.world_size)
    loader = iter(Loader(packed, [part for part in parts if len(part)], largest, workers=0, pin=False))
    with (
        torch.inference_mode(),
        model.autocast(),
        progress(total=len(parts), what="validating", unit="batches", shown=group.is_main, leave=False) as bar,
        Pool(prepare) as pool,
    ):
        for part in parts:
            group.check_stop()
            if not len(part):
                continue
            batch = next(loader)
            features = model.encoder(batch.pictures.to(group.device))
            scores, _ = model.decoder(features, batch.tokens.to(group.device), batch.steps)
            targets = batch.targets.to(group.device)
            cross_entropy = nn.functional.cross_entropy(scores.float(), targets, reduction="sum")
            found = search(model.decoder, features, training.decode_length)
            texts = [decode(candidates[0].tokens) for candidates in found]
            pairs = list(zip(texts, (decode(packed.tokens_of(at)) for at in batch.positions), strict=True))
            for at in range(0, len(pairs), CHUNK):
                chunk = pairs[at : at + CHUNK]
                waiting.append((chunk, pool.schedule(work, chunk, LIMIT)))
            totals += [float(cross_entropy), len(targets), 0, 0, len(texts)]
            bar.update()
        for asked, results in waiting:
            for (text, _), result in zip(asked, results, strict=True):
                totals[2:4] += _or_invalid(result, text)
    summed = group.all_reduce(torch.tensor(totals, device=group.device))
    loss, tokens, similarities, valids, pictures = summed.cpu().tolist()
    return {"loss": loss / tokens, "tanimoto": similarities / pictures, "validity": valids / pictures}


def _or_invalid(result: Score | Failed, text: str) -> Score:
    if isinstance(result, Failed):
        print(f"validating: counted as invalid, {result}: {text}", file=sys.stderr, flush=True)
        return 0.0, False
    return result
