"""Stage ``baseline``: the best constant answer, which a model that learnt to read must beat."""

from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import DataStructs

from .cli import run
from .files import whole, write_json
from .packed import Packed
from .progress import progress
from .similarity import fingerprint

CANDIDATES = 20_000  # training molecules tried, of the first in the data set's random order
PICTURES = 2_000  # test molecules that they are compared with


def constant(
    data: Path,
    *,
    out: Path,
    facts: Path,
    candidates: Path | None = None,
    name: str = "constant",
    split: str = "test",
    size: int | None = None,
) -> None:
    """Answer every picture with one molecule: the training molecule most similar to the test set on average.

    It sees the test references, so it is the best that a constant answer from the training molecules can reach. Large
    data sets are searched in part: the first 20,000 training molecules against the first 2,000 of the test set.

    Parameters
    ----------
    data
        Packed data set.
    out
        Parquet file: cid, id, reference, prediction, valid.
    facts
        JSON file: the answer and how many were tried.
    candidates
        Packed data set whose training molecules are tried; by default ``data`` itself.
    name
        Name of the baseline.
    split, size
        Pictures to answer, as in the stage ``predict``.
    """
    packed = Packed(data)
    members = packed.members(split)[:size]
    references = packed.text("smiles", members)
    seen = [f for f in map(fingerprint, references[:PICTURES]) if f is not None]
    source = Packed(candidates) if candidates else packed
    tried = source.text("smiles", source.members("train")[:CANDIDATES])
    means = []
    for text in progress(tried, what="best constant answer", unit="candidates"):
        print_ = fingerprint(text)
        means.append(-1.0 if print_ is None else float(np.mean(DataStructs.BulkTanimotoSimilarity(print_, seen))))
    answer = tried[int(np.argmax(means))]
    with whole(out) as part:
        rows = {"cid": packed.cid[members], "id": packed.ids(members), "reference": references}
        table = pd.DataFrame({**rows, "prediction": answer, "valid": True})
        table.to_parquet(part, index=False)
    write_json(
        facts,
        {
            "name": name,
            "kind": "baseline",
            "key": f"baseline:{name}:{packed.digest}:{source.digest}",
            "answer": answer,
            "candidates": len(tried),
            "seconds_per_image": 0.0,
        },
    )


if __name__ == "__main__":
    run(constant)
