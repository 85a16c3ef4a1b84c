"""Stage ``score``: predictions against references, in every sense that the field has a name for."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..chem.scores import Evaluation, evaluate
from ..ensemble.calibrate import Calibration, auroc, confidence, reliability
from ..prediction.prediction_tables import with_distances
from ..runtime.files import read_json, whole, write_json

# What an answer may be trusted by, where it is there.
TRUST = ("confidence", "log_probability", "agreement", "distance")


def score(
    predictions: Path,
    *,
    facts: Path,
    test_set: str,
    out: Path,
    images: Path,
    redrawn: Path | None = None,
    calibration: Path | None = None,
    processes: int = 1,
) -> None:
    """Score one reader of one test set.

    Parameters
    ----------
    predictions
        Parquet file of the stages ``predict``, ``vote``, ``constant`` or ``osra``.
    facts
        JSON file beside it.
    test_set
        Name of the test set.
    out
        JSON file: the facts; ``cut_off``, how many answers were cut off; ``validation_tanimoto``, from the calibration;
        every score with its 95 % interval, for all pictures and for groups of them; and how well each sign of trust
        goes with being right (``trust``: its area under the ROC curve, and a calibration curve).
    images
        Parquet file, a row a picture: cid, id, reference, tanimoto, exact, valid, and the signs of trust there are.
    redrawn
        Parquet file of the stage ``redraw`` for a single model: how well its answers' drawings fit.
    calibration
        JSON file of the stage ``calibrate``, from which the confidences are computed.
    processes
        Processes that compare molecules.
    """
    rows = with_distances(pd.read_parquet(predictions), redrawn)
    reader = read_json(facts)
    if reader.get("missing"):
        print(f"{reader['name']} on {test_set}: not scored, {reader['missing']}")
        with whole(images) as part:
            pd.DataFrame(columns=["cid", "id", "reference", "tanimoto", "exact", "valid"]).to_parquet(part, index=False)
        write_json(out, {**reader, "test_set": test_set, "images": 0, "dropped_references": 0})
        return
    if calibration is not None:
        learnt = read_json(calibration)
        reader["validation_tanimoto"] = learnt["tanimoto"]
        rows["confidence"] = confidence(rows, Calibration.from_json(learnt))
    found = evaluate(rows["prediction"].tolist(), rows["reference"].tolist(), processes=processes)
    used = rows.iloc[found.used].reset_index(drop=True)
    signs = [name for name in TRUST if name in used and used[name].notna().any()]
    with whole(images) as part:
        used[["cid", "id", "reference", *signs]].assign(
            tanimoto=found.similarity, exact=found.exact, valid=found.valid
        ).to_parquet(part, index=False)
    write_json(
        out,
        {
            **reader,
            "test_set": test_set,
            "images": len(found.used),
            "dropped_references": found.dropped_references,
            "cut_off": int((~used["complete"].astype(bool)).sum()) if "complete" in used else 0,
            "scores": {name: asdict(value) for name, value in found.scores.items()},
            "groups": {
                kind: [{key: asdict(v) if hasattr(v, "low") else v for key, v in row.items()} for row in groups]
                for kind, groups in found.groups.items()
            },
            "trust": {name: _trust(used[name].to_numpy(float), name, found) for name in signs},
        },
    )
    mean = found.scores["tanimoto"]
    print(
        f"{reader['name']} on {test_set}: Tanimoto {mean.value:.4f} ({mean.low:.4f}–{mean.high:.4f}), "
        f"exact {found.scores['exact'].value:.4f}, valid {found.scores['validity'].value:.4f}"
    )


def _trust(values: np.ndarray[Any, np.dtype[np.float64]], name: str, found: Evaluation) -> dict[str, Any]:
    """How a sign of trust goes with being right."""
    present = ~np.isnan(values)
    values, exact, similarity = values[present], found.exact[present], found.similarity[present]
    return {
        "images": int(present.sum()),
        "auroc": auroc(-values if name == "distance" else values, exact),
        "curve": reliability(values, exact, similarity),
    }
