"""Stage ``predict``: a trained model reads the pictures of a test set."""

import statistics
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from .cli import run
from .errors import UserError
from .files import whole, write_json
from .gpus import take
from .loader import Batch, Loader
from .model import Reader, autocast, load_reader
from .packed import Packed
from .progress import progress
from .reading import read_one, timed
from .tokenizer import decode


def predict(
    data: Path,
    *,
    weights: Path,
    description: Path,
    out: Path,
    facts: Path,
    split: str = "test",
    size: int | None = None,
    batch: int = 256,
    timed_images: int = 100,
    gpus: int = 0,
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
        Parquet file: cid, reference, prediction, log_probability (natural logarithm, of the whole text).
    facts
        JSON file: the model, its seconds per image (one at a time, median, warm) and images per second (batched).
    split
        Split of the data set: train, validation or test.
    size
        At most so many pictures; without it all.
    batch
        Pictures read together.
    timed_images
        Pictures read one at a time for the seconds per image.
    gpus
        1 to read on a GPU where there is one, 0 to read on the CPU.
    threads
        Threads on a CPU, or worker processes that read pictures for a GPU.

    Raises
    ------
    UserError
        When the model was trained with another vocabulary, or the split is empty.
    """
    lease = take(gpus)
    device = torch.device("cuda" if lease else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(threads)
    packed = Packed(data)
    reader, model = load_reader(description, weights, device)
    if model["vocabulary"] != packed.vocabulary:
        raise UserError(f"{weights}: trained with another vocabulary than {data} has; train it again")
    members = packed.members(split)[:size]
    if not len(members):
        raise UserError(f"{data}: its {split} split is empty")
    longest = int(model["training"]["decode_length"])
    found: dict[int, tuple[str, float]] = {}
    began = 0.0
    parts = [members[at : at + batch] for at in range(0, len(members), batch)]
    workers = threads if device.type == "cuda" else 0
    loader = Loader(packed, parts, batch, workers=workers, pin=device.type == "cuda")
    for pictures in progress(loader, total=len(parts), what=f"{model['name']} reads", unit="batches"):
        began = began or time.perf_counter()  # not before the workers that read pictures run
        found.update(_read(reader, pictures, longest, device))
    batched = len(members) / (time.perf_counter() - began)
    texts = [found[int(at)] for at in members]
    rows = pd.DataFrame(
        {
            "cid": packed.cid[members],
            "reference": packed.text("smiles", members),
            "prediction": [text for text, _ in texts],
            "log_probability": [value for _, value in texts],
        }
    )
    with whole(out) as part:
        rows.to_parquet(part, index=False)
    read = partial(read_one, reader=reader, longest=longest, device=device)
    times, _ = timed(read, packed, members[:timed_images])
    write_json(
        facts,
        {
            "name": model["name"],
            "kind": "model",
            "key": f"model:{model['name']}:{model['key']}",
            "seconds_per_image": statistics.median(times),
            "images_per_second": batched,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {threads} threads",
        },
    )


def _read(reader: Reader, batch: Batch, longest: int, device: torch.device) -> dict[int, tuple[str, float]]:
    with autocast(device):
        decoded = reader.read(batch.pictures.to(device, non_blocking=True), longest)
    texts = [decode(numbers) for numbers in decoded.tokens]
    return dict(zip(batch.positions, zip(texts, decoded.log_probability, strict=True), strict=True))


if __name__ == "__main__":
    run(predict)
