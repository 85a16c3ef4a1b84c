"""What changed between two folders of results: settings, and scores with paired tests on the same pictures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from ..chem.paired_tests import FLIPS, Tested
from ..chem.scores import Score
from ..runtime.errors import visible
from .comparison import TESTED, Change, Compared, Comparison, compared
from .load_run import load_run

TITLES = {"tanimoto": "Tanimoto", "exact": "exact match", "validity": "validity"}
HEADER = ("A", "B", "B − A", "p", "p (Holm)")
COLUMNS = 4  # of other scores in a line


def compare(a: Path, b: Path, /, *, json: bool = False) -> None:
    """Tell what changed from A to B in the configuration and in every score.

    Intervals are of 95 %. Differences are those on the same pictures, with a paired bootstrap interval; p is that of a
    paired sign-flip permutation test for the Tanimoto similarity and of the exact McNemar test for exact matches.

    Example: ``ocsrflow compare results/before results/demo``

    Parameters
    ----------
    a
        A folder of results.
    b
        What it is compared with.
    json
        Print one JSON object in place of the text; in its lists of two, A's comes first.

    Raises
    ------
    UserError
        Where one of them cannot be read, or there is nothing that could be compared.
    """
    found = compared(load_run(a), load_run(b))
    print(
        dumps(_plain(asdict(found)), ensure_ascii=False, indent=1, allow_nan=False) if json else visible(_report(found))
    )


def _plain(value: Any) -> Any:
    """A value for JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _report(found: Comparison) -> str:
    lines = []
    for side, own in (("A", found.a), ("B", found.b)):
        origin = [f"{name} {value}" for name, value in own.items() if name != "what"]
        lines += [f"{side}: {own['what']}", *([f"   {', '.join(origin)}"] if origin else [])]
    lines += ["", "Configuration"]
    lines += [f"  not compared: {found.not_compared}"] if found.not_compared else _changes(found.configuration)
    for test_set in dict.fromkeys(own.test_set for own in found.scores):
        lines += _report_test_set(test_set, [own for own in found.scores if own.test_set == test_set])
    if found.notes:
        lines += ["", *found.notes]
    if any(own.tests for own in found.scores):
        lines += ["", *_legend(found.adjusted_for)]
    return "\n".join(lines)


def _changes(changes: list[Change]) -> list[str]:
    return [f"  {change.line()}" for change in changes] or ["  nothing changed"]


def _legend(tests: int) -> list[str]:
    return [
        "95 % intervals; that of B − A is a paired bootstrap's, on the pictures in both. Two-sided p: of Tanimoto by a",
        f"paired sign-flip permutation test (all flips, or {FLIPS:,} random ones), of exact match by the exact McNemar",
        f"test. p (Holm) is adjusted for {tests} tests: those where any picture's score differs.",
    ]


def _report_test_set(test_set: str, rows: list[Compared]) -> list[str]:
    """The tables of one test set."""
    lines = ["", *_pictures(test_set, rows)]
    for score, title in TITLES.items():
        cells = [cells for own in rows for cells in _score_lines(own, score)]
        lines += ["", *_aligned([(title, *(HEADER if score in TESTED else HEADER[:2])), *cells])]
    timed = [own for own in rows if own.seconds_per_image != (None, None)]
    if timed:
        cells = [(own.reader, *map(_seconds, own.seconds_per_image), *_ratio(own)) for own in timed]
        lines += ["", *_aligned([("seconds per image", "A", "B", "B / A", ""), *cells])]
    others = list(dict.fromkeys(name for own in rows for name in own.scores if name not in TITLES))
    for at in range(0, len(others), COLUMNS):
        part = others[at : at + COLUMNS]
        cells = [(own.reader, *(_arrow(own.scores.get(name, (None, None))) for name in part)) for own in rows]
        lines += ["", *_aligned([("other scores, A → B", *part), *cells])]
    return lines


def _pictures(test_set: str, rows: list[Compared]) -> list[str]:
    """Of how many pictures the scores of one test set are."""
    if all(own.same for own in rows) and len({own.common for own in rows}) == 1:
        return [f"Scores on {test_set}: the same {rows[0].common:,} pictures"]
    lines = [f"Scores on {test_set}"]
    for (a, b), common in dict.fromkeys((own.images, own.common) for own in rows if not own.same):
        names = [own.reader for own in rows if (own.images, own.common) == ((a, b), common)]
        text = f"{common:,} pictures in both, of A's {a:,} and B's {b:,}"
        text += "; differences and tests are on these" if common else ": no test"
        lines.append(f"  {text}" if len(names) == len(rows) else f"  {', '.join(names)}: {text}")
    return lines


def _score_lines(own: Compared, score: str) -> Iterable[tuple[str, ...]]:
    """One line, or a second one for the pictures in both where these are not all."""
    whole = [_interval(score) for score in own.scores[score]]
    test = own.tests.get(score)
    if own.same and test:
        yield (own.reader, *whole, *_test(test))
        return
    yield (own.reader, *whole)
    if score in TESTED:
        text = f"  {own.common:,} in both"
        yield (text, _number(test.a), _number(test.b), *_test(test)) if test else (text, "", "", "not tested")


def _test(test: Tested) -> tuple[str, str, str]:
    if not test.differing:
        return "no difference", _p(test.p), _p(test.p_holm)
    own = test.difference
    value, low, high = (f"{round(number, 4) + 0.0:+.4f}" for number in (own.value, own.low, own.high))  # no -0.0000
    return f"{value} [{low}, {high}]", _p(test.p), _p(test.p_holm)


def _p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def _interval(score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "–"
    return f"{_number(score.value)} [{_number(score.low)}–{_number(score.high)}]"


def _arrow(both: tuple[Score | None, Score | None]) -> str:
    a, b = (_number(own.value if own else None) for own in both)
    return a if a == b else f"{a} → {b}"


def _ratio(own: Compared) -> tuple[str, str]:
    a, b = own.seconds_per_image
    device = "" if own.device[0] == own.device[1] else " → ".join(name or "unknown" for name in own.device)
    return (f"× {b / a:.2f}" if a and b is not None else "–"), device


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, in columns."""
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(max(map(len, rows)))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]
