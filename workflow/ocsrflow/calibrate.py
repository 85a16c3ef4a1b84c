"""Stage ``calibrate``: learn on validation pictures how far a reader's predictions are to be trusted.

Members that were chosen on the same pictures agree on them a little more than on others, so an ensemble's confidences
may be a little too high; the calibration curves of the test sets show it.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from .calibration import auroc, confidence, fit
from .cli import run
from .errors import UserError
from .files import write_json
from .predictions import with_distances
from .similarity import known, known_similarity


def calibrate(predictions: Path, *, out: Path, redrawn: Path | None = None, processes: int = 1) -> None:
    """Learn the probability that a prediction is exactly right.

    Parameters
    ----------
    predictions
        Parquet file of the stages ``predict`` or ``ensemble``, on validation pictures.
    out
        JSON file: what :mod:`ocsrflow.calibration` learnt; and ``tanimoto``, the mean Tanimoto similarity on these
        pictures, by which readers are compared without a look at test pictures.
    redrawn
        Parquet file of the stage ``redraw`` for a single model; the predictions of an ensemble have their distances.
    processes
        Processes that parse texts.

    Raises
    ------
    UserError
        Where the files are not of the same pictures, or RDKit parses no reference.
    """
    rows = with_distances(pd.read_parquet(predictions), redrawn)
    texts = [*rows["prediction"], *rows["reference"]]
    molecules = known(texts, processes=processes, what="texts parsed")
    rows = rows[[molecules[text] is not None for text in rows["reference"]]]
    if not len(rows):
        raise UserError(f"{predictions}: has no reference that RDKit parses; there is nothing to calibrate on")
    rows = rows.assign(valid=[molecules[text] is not None for text in rows["prediction"]])
    pairs = [(molecules[a], molecules[b]) for a, b in zip(rows["prediction"], rows["reference"], strict=True)]
    exact = np.array([a is not None and b is not None and a.canonical == b.canonical for a, b in pairs])
    calibration = fit(rows, exact)
    mean = float(np.mean([known_similarity(a, b) for a, b in pairs]))
    write_json(out, {**calibration.to_json(), "tanimoto": mean})
    area = auroc(confidence(rows, calibration), exact)
    by = ", ".join(calibration.features) or "their share alone"
    told = "" if area is None else f", area under the ROC curve on them {area:.3f}"
    print(f"{len(rows)} pictures, {exact.mean():.4f} exactly right, by {by}{told}")


if __name__ == "__main__":
    run(calibrate)
