"""Stage ``ensemble``: models vote in pairs on every picture, by the rule of :mod:`ocsrflow.voting`."""

import hashlib
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cli import run
from .files import whole, write_json
from .metrics import is_valid, tanimoto
from .predictions import read_predictions
from .progress import progress
from .voting import pair_points as pair_points  # known by this name to who looks for the rule here
from .voting import vote


def ensemble(*, predictions: list[Path], member_facts: list[Path], name: str, out: Path, facts: Path) -> None:
    """Vote on every picture of a test set.

    Parameters
    ----------
    predictions
        Parquet files of the stage ``predict``, one of each member.
    member_facts
        JSON files beside them, in the same order.
    name
        Name of the ensemble.
    out
        Parquet file: cid, reference, prediction, agreement, winner (name of the member).
    facts
        JSON file: the members, the mean similarity of every pair (parsed predictions only), and the seconds per
        image, members one after the other and the vote.

    Raises
    ------
    UserError
        Where the predictions are not of the same pictures.
    """
    tables, members = read_predictions(predictions, member_facts)
    names = [member["name"] for member in members]
    texts = list(zip(*(table["prediction"] for table in tables), strict=True))
    votes, times = [], []
    for row in progress(texts, what=f"{name} votes", unit="pictures"):
        began = time.perf_counter()
        votes.append(vote(list(row)))
        times.append(time.perf_counter() - began)
    rows = tables[0][["cid", "reference"]].assign(
        prediction=[row[v.winner] for row, v in zip(texts, votes, strict=True)],
        agreement=[v.agreement for v in votes],
        winner=[names[v.winner] for v in votes],
    )
    with whole(out) as part:
        rows.to_parquet(part, index=False)
    keys = "|".join(member["key"] for member in members)
    write_json(
        facts,
        {
            "name": name,
            "kind": "ensemble",
            "key": f"ensemble:{name}:{hashlib.sha256(keys.encode()).hexdigest()[:12]}",
            "members": names,
            "pairs": pair_matrix(tables).tolist(),
            "wins": {member: int((rows["winner"] == member).sum()) for member in names},
            "seconds_per_image": sum(m["seconds_per_image"] for m in members) + statistics.median(times),
            "seconds_per_vote": statistics.median(times),
            "device": members[0]["device"],
        },
    )


def pair_matrix(tables: list[pd.DataFrame]) -> NDArray[np.float64]:
    """Mean Tanimoto similarity of the predictions of every two members, (members, members).

    Over the pictures where RDKit parses both; NaN becomes 0 where there is none.
    """
    n = len(tables)
    matrix = np.eye(n)
    for i, j in itertools.combinations(range(n), 2):
        pairs = zip(tables[i]["prediction"], tables[j]["prediction"], strict=True)
        values = [tanimoto(a, b) for a, b in pairs if is_valid(a) and is_valid(b)]
        matrix[i, j] = matrix[j, i] = float(np.mean(values)) if values else 0.0
    return matrix


if __name__ == "__main__":
    run(ensemble)
