"""Tables that stages write beside their output: CSV, whole or not at all."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import visible
from .files import whole

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs what begins so


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under a header, without pandas, which takes longer to import than all else a stage starts with.

    Examples in tables are what was no good: their control characters are shown as escapes. A carriage return, which
    Python's csv does not quote here, would be the end of the row to whoever reads it. And a text that a spreadsheet
    would run as a formula has an apostrophe before it; no SMILES and no name of ours begins like one.
    """
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_shown(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def _shown(cell: str) -> str:
    return f"'{visible(cell)}" if cell.startswith(FORMULA) else visible(cell)


def write_rejects(path: Path, refused: list[tuple[str, str]]) -> None:
    """Write (reason, example) pairs as a CSV of reason, count and first example."""
    first = dict(reversed(refused))
    counts = sorted(Counter(reason for reason, _ in refused).items())
    write_csv(path, ("reason", "count", "example"), [(reason, n, first[reason]) for reason, n in counts])
