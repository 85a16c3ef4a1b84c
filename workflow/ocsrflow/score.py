"""Stage ``score``: predictions against references, in every sense that the field has a name for."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from .cli import run
from .files import read_json, whole, write_json
from .metrics import Score, evaluate, is_valid
from .tracking import Run, forgiving


def score(
    predictions: Path, *, facts: Path, test_set: str, out: Path, images: Path, tracking: Path | None = None
) -> None:
    """Score one reader of one test set.

    Parameters
    ----------
    predictions
        Parquet file of the stages ``predict``, ``ensemble`` or ``baseline``.
    facts
        JSON file beside it.
    test_set
        Name of the test set.
    out
        JSON file: the facts, and every score with its 95 % interval.
    images
        Parquet file: cid, tanimoto, exact, valid of every picture.
    tracking
        JSON file of the stage ``tracking``; the scores become final values of the reader's MLflow run.
    """
    rows = pd.read_parquet(predictions)
    reader = read_json(facts)
    found = evaluate(rows["prediction"].tolist(), rows["reference"].tolist())
    with whole(images) as part:
        used = rows.iloc[found.used]
        used[["cid"]].assign(
            tanimoto=found.similarity, exact=found.exact, valid=[is_valid(text) for text in used["prediction"]]
        ).to_parquet(part, index=False)
    scores = {name: asdict(value) for name, value in found.scores.items()}
    write_json(
        out,
        {
            **reader,
            "test_set": test_set,
            "images": len(found.used),
            "dropped_references": found.dropped_references,
            "scores": scores,
        },
    )
    if tracking is not None:
        with forgiving():
            _record(tracking, reader, test_set, found.scores, predictions)
    mean = found.scores["tanimoto"]
    print(
        f"{reader['name']} on {test_set}: Tanimoto {mean.value:.4f} ({mean.low:.4f}–{mean.high:.4f}), "
        f"exact {found.scores['exact'].value:.4f}, valid {found.scores['validity'].value:.4f}"
    )


def _record(tracking: Path, reader: dict[str, Any], test_set: str, scores: dict[str, Score], predictions: Path) -> None:
    """Send the scores to the reader's MLflow run."""
    opened = Run(tracking, key=reader["key"], name=reader["name"], tags={"stage": reader["kind"]})
    if reader["kind"] == "ensemble":
        opened.parameters({"members": ", ".join(reader["members"])})
    final: dict[str, float] = {}
    for name, score in scores.items():
        final |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    final |= {name: reader[name] for name in ("seconds_per_image", "images_per_second") if name in reader}
    opened.final({f"{test_set}.{name}": value for name, value in final.items()})
    opened.file(predictions)
    opened.close()


if __name__ == "__main__":
    run(score)
