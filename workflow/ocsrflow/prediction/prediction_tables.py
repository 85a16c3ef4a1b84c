"""The files of predictions that models, baselines and ensembles share, and what other stages add to them.

All are of the same pictures in the same order, which is looked at here.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from ..runtime.errors import UserError
from ..runtime.files import read_json


def read_predictions(tables: list[Path], facts: list[Path]) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
    """The tables (cid, reference, prediction, …) and facts of several readers of the same pictures.

    Raises
    ------
    UserError
        Where they are not predictions of the same pictures, in the same order, not each has its facts, or one is of a
        program that is not installed.
    """
    if len(tables) != len(facts):
        raise UserError(f"{len(tables)} files of predictions and {len(facts)} of facts: give one of each for a model")
    found = [read_json(path) for path in facts]
    for own in found:
        if "missing" in own:  # a program that is not installed has read nothing
            raise UserError(f"{own['name']} is to answer together with others, but {own['missing']}")
    rows = [pd.read_parquet(path) for path in tables]
    for path, table in zip(tables[1:], rows[1:], strict=True):
        _same_pictures(table, rows[0], f"{path} and {tables[0]} are not predictions of the same pictures")
    return rows, found


def read_beside(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The Parquet table that another stage made of the pictures of some predictions.

    Raises
    ------
    UserError
        Where it is not of the same pictures, in the same order.
    """
    table = pd.read_parquet(path)
    _same_pictures(table, rows, f"{path}: not of the same pictures as the predictions")
    return table


def with_distances(rows: pd.DataFrame, redrawn: Path | None) -> pd.DataFrame:
    """A model's predictions with the column ``distance``: of each one's drawing from the picture, NaN where unknown.

    Parameters
    ----------
    rows
        Predictions; those of an ensemble have the column already.
    redrawn
        Parquet file of the stage ``redraw``, whose first distance of a picture is that of the prediction. Without it
        the rows stay as they are.

    Raises
    ------
    UserError
        Where it is not of the same pictures, in the same order.
    """
    if redrawn is None:
        return rows
    distances = read_beside(redrawn, rows)["distances"]
    return rows.assign(distance=[float(of_picture[0]) if len(of_picture) else float("nan") for of_picture in distances])


def _same_pictures(table: pd.DataFrame, other: pd.DataFrame, what: str) -> None:
    """Compare ``cid``, and ``id`` where both tables have it; where they differ, tell the first that only one has."""
    for column, word in (("cid", "CID"), ("id", "picture")):
        if column not in table or column not in other or table[column].tolist() == other[column].tolist():
            continue
        single = set(table[column]) ^ set(other[column])
        which = f"{word} {min(single)} is in one only" if single else "the order differs"
        raise UserError(f"{what}: {which}; make both again from the same data set")
