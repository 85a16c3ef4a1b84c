"""Stage ``rescore``: how likely every model of an ensemble finds the candidates of all of them."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..chem.similarity import parse_all
from ..chem.tokenizer import encode, is_tokenised
from ..config.precision import Precision
from ..network.beam_search import likelihood
from ..network.model import EncoderDecoder, load_model
from ..network.precision import warn_if_slow
from ..pictures.packed_file import Packed
from ..runtime.files import whole, write_json
from ..runtime.gpu_lease import device_of, take
from ..runtime.progress import progress
from .prediction_tables import read_predictions


def rescore(
    data: Path,
    *,
    predictions: list[Path],
    member_facts: list[Path],
    weights: list[Path],
    descriptions: list[Path],
    out: Path,
    facts: Path,
    batch: int = 256,
    timed_images: int = 100,
    precision: Precision = "auto",
    gpus: int = 0,
    granted: int | None = None,
    threads: int = 1,
) -> None:
    """Ask every model for the probability of every candidate that RDKit parses.

    Parameters
    ----------
    data
        Packed data set.
    predictions, member_facts
        What the stage ``predict`` wrote of each model, and the stage ``osra`` where it is a member.
    weights, descriptions
        What the stage ``train`` wrote of each model, in the same order.
    out
        Parquet file, a row a picture: cid; candidates, the different texts of all models that RDKit parses;
        likelihoods, of each candidate the natural logarithm of its probability under every model.
    facts
        JSON file: members, the names of the models; seconds_per_image, of each model, one picture at a time, median,
        warm, without the encoder's time, which reading the picture has taken already.
    batch
        Pictures scored together.
    timed_images
        Pictures scored one at a time for the seconds per image.
    precision
        What the networks compute in, see :class:`ocsrflow.config.reading.Reading`.
    gpus
        1 to compute on a GPU, 0 to compute on the CPU.
    granted
        GPUs that Snakemake granted.
    threads
        Threads on a CPU; processes that parse candidates.

    Raises
    ------
    UserError
        When the predictions are not of the same pictures, or a model was trained with another vocabulary.
    """
    tables, members = read_predictions(predictions, member_facts)
    packed = Packed(data)
    candidates = pool(tables, threads)
    cids = tables[0]["cid"].to_numpy()
    positions = packed.positions(cids)
    lease = take(gpus, granted)
    device = torch.device(device_of(lease))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    trained = [member for member in members if member["kind"] == "model"]
    scores = [np.full((len(texts), len(trained)), np.nan) for texts in candidates]
    seconds = []
    for column, (member, description, file) in enumerate(zip(trained, descriptions, weights, strict=True)):
        model, model_facts = load_model(description, file, device)
        packed.expect_vocabulary(model_facts["vocabulary"], file)
        warn_if_slow(model.set_precision(precision, device), device)
        parts = [range(at, min(at + batch, len(positions))) for at in range(0, len(positions), batch)]
        for part in progress(parts, what=f"{member['name']} scores all candidates", unit="batches"):
            found, _ = _scored(model, packed, positions[part.start : part.stop], candidates[part.start : part.stop])
            for at, values in zip(part, found, strict=True):
                scores[at][:, column] = values
        times = [
            _scored(model, packed, positions[at : at + 1], candidates[at : at + 1])[1]
            for at in [0, *range(min(timed_images, len(positions)))]
        ]
        seconds.append(statistics.median(times[1:]))  # the first one warms up
    rows = pd.DataFrame({"cid": cids, "candidates": candidates, "likelihoods": [score.tolist() for score in scores]})
    with whole(out) as written:
        rows.to_parquet(written, index=False)
    write_json(facts, {"members": [member["name"] for member in trained], "seconds_per_image": seconds})


def pool(tables: Sequence[pd.DataFrame], processes: int) -> list[list[str]]:
    """The different candidates of all members that models can write, of each picture; those of earlier members first.

    RDKit parses them, and they are of tokens that models know: other programs may write others.
    """
    pools = [
        list(dict.fromkeys(text for texts in row for text in texts))
        for row in zip(*(table["candidates"] for table in tables), strict=True)
    ]
    all_texts = (text for texts in pools for text in texts)
    molecules = parse_all(all_texts, processes=processes, what="parsing the candidates")
    return [[text for text in texts if molecules[text] is not None and is_tokenised(text)] for texts in pools]


def _scored(
    model: EncoderDecoder, packed: Packed, positions: Sequence[int], candidates: Sequence[Sequence[str]]
) -> tuple[list[list[float]], float]:
    """Log-probabilities of the candidates of some pictures, and the seconds that they took the decoder."""
    device = next(model.parameters()).device
    with torch.inference_mode(), model.autocast():
        features = model.encoder(torch.from_numpy(packed.pictures(positions)).to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        found = likelihood(model.decoder, features, [[encode(text).tolist() for text in texts] for texts in candidates])
    return found, time.perf_counter() - began
