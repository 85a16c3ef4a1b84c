"""Scores of anybody's predictions: ``ocsrflow evaluate predictions.csv references.csv``."""

import csv
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

from ..chem.scores import Evaluation, evaluate
from ..chem.similarity import LIMIT
from ..runtime.errors import UserError, visible


def metrics(
    predictions: Path, references: Path, *, json: bool = False, processes: int | None = None, seconds: float = LIMIT
) -> None:
    """Score anybody's predicted SMILES against the right ones.

    Example: ``ocsrflow evaluate predictions.csv references.csv --json``

    Parameters
    ----------
    predictions
        CSV file in UTF-8 with the columns id and smiles; other columns are ignored, and so is the order of the rows.
    references
        Such a file, with the right SMILES of the same ids.
    json
        Print one JSON object in place of the table.
    processes
        Processes that compare molecules; by default one for every core.
    seconds
        Time limit of one molecule; a prediction that takes RDKit longer is invalid.

    Raises
    ------
    UserError
        Where a file is not such a CSV, or where the two are not about the same ids.
    """
    for name, value in (("processes", processes), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    predicted, right = _read(predictions), _read(references)
    if predicted.keys() != right.keys():
        sides = ((predictions, predicted.keys() - right), (references, right.keys() - predicted))
        only = ", ".join(f"{len(ids)} only in {path} ({_few(ids)})" for path, ids in sides if ids)
        raise UserError(f"{predictions} and {references} need the same ids: {only}")
    texts = [predicted[key] for key in right]
    processes = processes or len(os.sched_getaffinity(0))
    found = evaluate(texts, list(right.values()), processes=processes, seconds=seconds)
    for path, own, what in ((predictions, predicted, "counted as invalid"), (references, right, "dropped")):
        for key, text in own.items():
            if text in found.given_up:
                line = f"{path}: id {key}: {what}, RDKit was given up: {found.given_up[text]}"
                print(visible(line), file=sys.stderr)
    dropped = [list(right)[at] for at in found.dropped]
    print(dumps(_summary(found, dropped), allow_nan=False) if json else visible(_table(found, dropped)))


def _read(path: Path) -> dict[str, str]:
    """SMILES by id."""
    csv.field_size_limit(sys.maxsize)  # a text may be of any length: an invalid one is no reason to stop
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            # Blank lines, with or without commas, are no rows.
            stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
            lines = [(number, cells) for number, cells in stripped if any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}): save it as one, with columns id, smiles") from None
    if not lines:
        raise UserError(f"{path}: empty; it needs a line with the columns id and smiles, and one for each picture")
    (_, header), *rows = lines
    for name in ("id", "smiles"):
        if header.count(name) != 1:
            many = "two columns" if name in header else "no column"
            raise UserError(
                f"{path}: {many} called {name}, separated by commas; its first line is {','.join(header)[:200]!r}"
            )
    if not rows:
        raise UserError(f"{path}: no rows under its first line")
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line}: {len(cells)} cells under {len(header)} columns; quote commas")
    keys, texts = ([cells[header.index(name)] for _, cells in rows] for name in ("id", "smiles"))
    twice = [key for key, rows_of_it in Counter(keys).items() if rows_of_it > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} ids more than once ({_few(twice)}); give each id one row")
    return dict(zip(keys, texts, strict=True))


def _few(ids: Iterable[str]) -> str:
    """The first ids, for a message."""
    several = sorted(ids)
    return ", ".join(several[:5]) + (", ..." if len(several) > 5 else "")


def _plain(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores for JSON, which has no NaN: values by name, and their intervals."""
    numbers = {
        name: [None if math.isnan(number) else number for number in (own.value, own.low, own.high)]
        for name, own in scores.items()
    }
    values = {name: value for name, (value, *_) in numbers.items()}
    return {**values, "intervals": {name: interval for name, (_, *interval) in numbers.items()}}


def _summary(found: Evaluation, dropped: list[str]) -> dict[str, Any]:
    return {
        **_plain(found.scores),
        "pairs": len(found.used),
        "invalid_predictions": int((~found.valid).sum()),
        "dropped_references": len(dropped),
        "dropped_ids": dropped,
        "groups": {
            kind: [
                {"group": row["group"], "images": row["images"]}
                | _plain({name: row[name] for name in ("tanimoto", "exact", "validity")})
                for row in rows
            ]
            for kind, rows in found.groups.items()
        },
    }


def _table(found: Evaluation, dropped: list[str]) -> str:
    lines = [
        f"pairs: {len(found.used)}, invalid predictions among them: {int((~found.valid).sum())}, "
        f"dropped references: {len(dropped)}" + (f" ({_few(dropped)})" if dropped else ""),
        f"\n{'score':20}{'value':>8}   95 % interval",
    ]
    lines += [f"{name:20}{own.value:8.4f}   {own.low:.4f} to {own.high:.4f}" for name, own in found.scores.items()]
    for kind, rows in found.groups.items():
        lines.append(f"\n{kind:12}{'images':>8}{'tanimoto':>10}   {'95 % interval':18}{'exact':>8}{'validity':>10}")
        for row in rows:
            mean, exact, validity = (row[name] for name in ("tanimoto", "exact", "validity"))
            lines.append(
                f"{row['group']:12}{row['images']:8}{mean.value:10.4f}   {mean.low:.4f} to {mean.high:.4f}"
                f"{exact.value:10.4f}{validity.value:10.4f}"
            )
    return "\n".join(lines)
