"""Data sets of the public molecules, drawn by the real stages."""

import math
import time
from pathlib import Path
from typing import Any

from ocsrflow.config.depiction import Depiction
from ocsrflow.config.planning import PUBLIC
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.sample import sample
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.render import render

SPLIT = {"validation": 0.05, "test": 0.1, "split_seed": 0}  # the reference models': nothing held out was learnt


def draw(
    folder: Path,
    depiction: Depiction,
    *,
    processes: int,
    max_length: int,
    size: int | None = None,
    per_length: int | None = None,
    drawings: int = 1,
    shards: int = 1,
    until: float = math.inf,
) -> Path:
    """Draw and pack a data set; as many shards of it as there is time for ``until`` (``time.time()``), at least one."""
    folder.mkdir(parents=True)
    kept, sampled, lengths, rejects = (folder / name for name in ("kept", "sample", "lengths", "rejects"))
    filter_corpus(PUBLIC, max_length=max_length, kept=kept, lengths=lengths, rejects=rejects)
    limits: dict[str, Any] = {"max_length": max_length, "size": size, "per_length": per_length, "seed": 1}
    sample(kept, out=sampled, lengths=lengths, rejects=rejects, processes=processes, **limits, **SPLIT)
    how: dict[str, Any] = {"depiction": depiction, "drawings": drawings, "processes": processes}
    longest, done = 0.0, 0  # seconds of a shard; shards
    while done == 0 or (done < shards and time.time() + longest < until):
        began, out = time.time(), folder / f"{done}.parquet"
        render(sampled, store=folder / "store", out=out, rejects=rejects, shard=done, shards=shards, **how)
        longest, done = max(longest, time.time() - began), done + 1
    pack(
        sampled,
        folder,
        store=folder / "store",
        shards=done,
        out=folder / "images.h5",
        tokens=folder / "tokens.json",
        vocabulary=folder / "vocabulary.json",
        rejects=rejects,
        drawings=drawings,
    )
    return folder / "images.h5"
