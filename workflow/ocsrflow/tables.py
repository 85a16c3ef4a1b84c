"""Tables that stages write beside their output: CSV, whole or not at all."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import whole


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under a header, without pandas, which takes longer to import than all else a stage starts with."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_rejects(path: Path, refused: list[tuple[str, str]]) -> None:
    """Write (reason, example) pairs as a CSV of reason, count and first example."""
    first = dict(reversed(refused))
    counts = sorted(Counter(reason for reason, _ in refused).items())
    write_csv(path, ("reason", "count", "example"), [(reason, n, first[reason]) for reason, n in counts])
