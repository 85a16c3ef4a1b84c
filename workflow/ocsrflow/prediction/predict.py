"""Stage ``predict``: a trained model reads a test set (``ocsrflow read`` is for pictures from elsewhere)."""

import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..chem.similarity import parse_all
from ..chem.tokenizer import decode
from ..config.reading import Reading
from ..network.batches import Loader
from ..network.beam_search import Candidate
from ..network.model import load_model
from ..network.model_reader import ModelReader, best_first, is_complete, timed
from ..pictures.packed_file import Packed
from ..runtime.files import whole, write_json
from ..runtime.gpu_lease import device_of, take
from ..runtime.progress import progress
from ..runtime.slurm_job import of_cluster


def predict(
    data: Path,
    *,
    weights: Path,
    description: Path,
    out: Path,
    facts: Path,
    reading: Reading,
    split: str = "test",
    size: int | None = None,
    batch: int = 256,
    timed_images: int = 100,
    gpus: int = 0,
    granted: int | None = None,
    threads: int = 1,
) -> None:
    """Read the pictures of a split with a trained model.

    Parameters
    ----------
    data
        Packed data set.
    weights, description
        What the stage ``train`` wrote.
    out
        Parquet file, a row a picture: cid, id, reference, prediction, log_probability (natural logarithm, of the whole
        text with its end), token_probabilities (of each token given those before; the last is the end's), valid (RDKit
        parses it), complete (it was not cut off at the greatest length, see
        :func:`ocsrflow.network.model_reader.is_complete`), candidates, candidate_log_probabilities and
        candidate_complete (those that RDKit parses first, then by probability; the prediction is the first), seconds
        (an equal share of those of its batch).
    facts
        JSON file: the model, its seconds per image (one at a time, median, warm) and images per second (batched).
    reading
        How texts are searched for.
    split
        Split of the data set: train, validation or test.
    size
        At most so many pictures; without it all.
    batch
        Pictures read together.
    timed_images
        Pictures read one at a time for the seconds per image.
    gpus
        1 to read on a GPU, 0 to read on the CPU.
    granted
        GPUs that Snakemake granted.
    threads
        Threads on a CPU, or worker processes that read pictures for a GPU.

    Raises
    ------
    UserError
        When the model was trained with another vocabulary, or the split is empty.
    """
    lease = take(gpus, granted)
    device = torch.device(device_of(lease))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    packed = Packed(data)
    model, model_facts = load_model(description, weights, device)
    packed.expect_vocabulary(model_facts["vocabulary"], weights)
    members = packed.first(split, size)
    model_reader = ModelReader(model, int(model_facts["training"]["decode_length"]), reading, device)
    found: dict[int, tuple[list[Candidate], float]] = {}
    parts = [members[at : at + batch] for at in range(0, len(members), batch)]
    workers = threads if device.type == "cuda" else 0
    loader = Loader(packed, parts, batch, workers=workers, pin=device.type == "cuda", setting="--batch")
    began = before = 0.0
    for pictures in progress(loader, total=len(parts), what=f"{model_facts['name']} reads", unit="batches"):
        began = began or time.perf_counter()  # not before the workers that read pictures run
        before = before or began
        candidates = model_reader.candidates(pictures.pictures)
        seconds, before = (time.perf_counter() - before) / len(candidates), time.perf_counter()
        found.update((at, (those, seconds)) for at, those in zip(pictures.positions, candidates, strict=True))
    batched = len(members) / (time.perf_counter() - began)
    rows, invalid = _table([found[int(at)] for at in members], model_reader.longest, threads)
    rows.insert(0, "cid", packed.cid[members])
    rows.insert(1, "id", packed.ids(members))
    rows.insert(2, "reference", packed.text("smiles", members))
    with whole(out) as part:
        rows.to_parquet(part, index=False)
    times, _ = timed(partial(model_reader.read_one, invalid=invalid), packed, members[:timed_images])
    write_json(
        facts,
        {
            "name": model_facts["name"],
            "kind": "model",
            **of_cluster(),
            "key": f"model:{model_facts['name']}:{model_facts['key']}",
            "seconds_per_image": statistics.median(times),
            "images_per_second": batched,
            "split": split,
            "size": size,
            "reading": reading.model_dump(mode="json"),
            "precision": model_reader.precision,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads",
        },
    )


def _table(found: list[tuple[list[Candidate], float]], longest: int, processes: int) -> tuple[pd.DataFrame, set[str]]:
    """The rows of the table, and the texts that RDKit does not parse."""
    texts = {decode(candidate.tokens) for candidates, _ in found for candidate in candidates}
    molecules = parse_all(texts, processes=processes, what="parsing the candidates")
    rows = []
    for candidates, seconds in found:
        ordered = best_first(candidates, lambda text: molecules[text] is not None)
        prediction, best = ordered[0]
        complete = [is_complete(candidate, longest) for _, candidate in ordered]
        rows.append(
            {
                "prediction": prediction,
                "log_probability": best.log_probability,
                "token_probabilities": np.array(best.token_probabilities, np.float32),
                "valid": molecules[prediction] is not None,
                "complete": complete[0],
                "candidates": [text for text, _ in ordered],
                "candidate_log_probabilities": [candidate.log_probability for _, candidate in ordered],
                "candidate_complete": complete,
                "seconds": seconds,
            }
        )
    return pd.DataFrame(rows), {text for text, molecule in molecules.items() if molecule is None}
