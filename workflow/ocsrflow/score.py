"""Stage ``score``: predictions against references, in every sense that the field has a name for."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from .cli import run
from .files import read_json, whole, write_json
from .metrics import evaluate, is_valid
from .tracking import Tracker


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
    tracker = Tracker(tracking, key=reader["key"], name=reader["name"], tags={"stage": reader["kind"]})
    if reader["kind"] == "ensemble":
        tracker.parameters({"members": ", ".join(reader["members"])})
    final = {f"{test_set}.{name}": value["value"] for name, value in scores.items()}
    final |= {f"{test_set}.{name}_{end}": value[end] for name, value in scores.items() for end in ("low", "high")}
    final[f"{test_set}.seconds_per_image"] = reader["seconds_per_image"]
    if "images_per_second" in reader:
        final[f"{test_set}.images_per_second"] = reader["images_per_second"]
    tracker.final(final)
    tracker.file(predictions)
    tracker.close()
    mean = found.scores["tanimoto"]
    print(
        f"{reader['name']} on {test_set}: Tanimoto {mean.value:.4f} ({mean.low:.4f}–{mean.high:.4f}), "
        f"exact {found.scores['exact'].value:.4f}, valid {found.scores['validity'].value:.4f}"
    )


if __name__ == "__main__":
    run(score)
