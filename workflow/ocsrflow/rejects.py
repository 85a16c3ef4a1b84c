"""The table of molecules that a stage could not use."""

from pathlib import Path

import pandas as pd

from .files import whole


def write_rejects(path: Path, refused: list[tuple[str, str]]) -> None:
    """Write (reason, example) pairs as a CSV of reason, count and first example."""
    examples = pd.DataFrame(refused, columns=["reason", "example"]).groupby("reason")["example"]
    counted = examples.agg(["size", "first"]).reset_index().set_axis(["reason", "count", "example"], axis=1)
    with whole(path) as part:
        counted.to_csv(part, index=False)
