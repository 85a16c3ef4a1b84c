"""Stage ``constant``: the best constant answer, which a model that learnt to read must beat."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..chem.similarity import parse_all, parsed_similarities
from ..pictures.packed_file import Packed
from ..runtime.errors import UserError
from ..runtime.files import whole, write_json
from ..runtime.progress import progress
from ..runtime.slurm_job import of_cluster

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
    processes: int = 1,
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
    processes
        Processes that parse texts.

    Raises
    ------
    UserError
        Where RDKit parses none of the references, or none of the candidates.
    """
    packed = Packed(data)
    members = packed.members(split)[:size]
    references = packed.text("smiles", members)
    source = Packed(candidates) if candidates else packed
    texts = source.text("smiles", source.members("train")[:CANDIDATES])
    molecules = parse_all([*references[:PICTURES], *texts], processes=processes, what="parsing")
    parsed_references = [found for text in references[:PICTURES] if (found := molecules[text]) is not None]
    tried = {text: found for text in texts if (found := molecules[text]) is not None}
    if not parsed_references or not tried:
        raise UserError(f"{data}: no constant answer without a reference and a candidate that RDKit parses")
    means = {
        text: float(np.mean(parsed_similarities(molecule, parsed_references)))
        for text, molecule in progress(tried.items(), total=len(tried), what="best constant answer", unit="candidates")
    }
    answer = max(means, key=means.__getitem__)
    with whole(out) as part:
        rows = {"cid": packed.cid[members], "id": packed.ids(members), "reference": references}
        table = pd.DataFrame({**rows, "prediction": answer, "valid": True})
        table.to_parquet(part, index=False)
    write_json(
        facts,
        {
            "name": name,
            "kind": "baseline",
            **of_cluster(),
            "key": f"baseline:{name}:{packed.digest}:{source.digest}",
            "answer": answer,
            "candidates": len(tried),
            "seconds_per_image": 0.0,
        },
    )
