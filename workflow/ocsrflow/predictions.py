"""The files of predictions that models, baselines and ensembles share, and that the scores are computed from."""

from pathlib import Path
from typing import Any

import pandas as pd

from .errors import UserError
from .files import read_json


def read_predictions(tables: list[Path], facts: list[Path]) -> tuple[list[pd.DataFrame], list[dict[str, Any]]]:
    """The tables (cid, reference, prediction, …) and facts of several readers of the same pictures.

    Raises
    ------
    UserError
        Where they are not predictions of the same pictures, in the same order.
    """
    rows = [pd.read_parquet(path) for path in tables]
    for path, table in zip(tables[1:], rows[1:], strict=True):
        if not table["cid"].equals(rows[0]["cid"]):
            other = set(table["cid"]) ^ set(rows[0]["cid"])
            which = f"CID {min(other)} is in one only" if other else "the order differs"
            raise UserError(f"{path} and {tables[0]} are not predictions of the same pictures: {which}")
    return rows, [read_json(path) for path in facts]
