"""Stage ``redraw``: what a model read is drawn again and compared with the picture."""

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..chem.similarity import limit_memory
from ..depiction.plain import Picture
from ..pictures.packed_file import Packed
from ..pictures.redraw_distance import CHUNK, Redrawer
from ..runtime.errors import UserError
from ..runtime.files import whole, write_json
from ..runtime.isolated import Failed, attempts, guarded
from ..runtime.progress import progress

Item = tuple[int, list[str]]  # position of a picture in the data set, its candidates


class Compared(NamedTuple):
    """What came out for a picture."""

    distances: list[float]
    seconds: float


def redraw(
    data: Path,
    *,
    predictions: Path,
    out: Path,
    facts: Path,
    processes: int = 1,
    seconds: float = 10.0,
) -> None:
    """Draw all candidates of every picture and compare the drawings with it.

    Parameters
    ----------
    data
        Packed data set.
    predictions
        Parquet file of the stage ``predict``, called by the model's name: cid, candidates.
    out
        Parquet file: cid, distances (0 to 1, of each candidate in its order, see
        :func:`ocsrflow.pictures.redraw_distance.distance`; NaN where RDKit cannot parse or draw it), seconds (for all
        of them).
    facts
        JSON file: median seconds per picture, number of candidates and of those without a drawing.
    processes
        So many pictures are worked on at a time.
    seconds
        Time limit of a picture; past it, all its distances are NaN and ``seconds`` is this limit.

    Raises
    ------
    UserError
        Where the predictions are not of this data set.
    """
    packed = Packed(data)
    rows = _predictions(predictions)
    positions = packed.positions(rows["cid"])
    items: list[Item] = [(at, list(texts)) for at, texts in zip(positions, rows["candidates"], strict=True)]
    name = predictions.stem
    # A molecule on which RDKit hangs costs its own picture only.
    found = guarded(
        _compare, items, seconds=seconds, prepare=_prepare, arguments=(data,), processes=processes, chunk=CHUNK
    )
    with closing(found):
        results = progress(found, total=len(items), what=f"drawing what {name} read", unit="pictures")
        compared = [_or_none(result, texts, seconds) for (_, texts), result in zip(items, results, strict=True)]
    columns = {
        "cid": pa.array(rows["cid"]),
        # With its type: where no candidate has a drawing, there is no number to tell it by.
        "distances": pa.array([c.distances for c in compared], pa.list_(pa.float64())),
        "seconds": pa.array([c.seconds for c in compared], pa.float64()),
    }
    with whole(out) as part:
        pq.write_table(pa.table(columns), part)
    distances = [value for picture in compared for value in picture.distances]
    write_json(
        facts,
        {
            "name": name,
            "seconds_per_image": statistics.median(c.seconds for c in compared) if compared else 0.0,
            "candidates": len(distances),
            "not_drawn": sum(value != value for value in distances),
        },
    )


def _predictions(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=["cid", "candidates"])
    except (ValueError, KeyError) as error:  # PyArrow's are ValueErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not the predictions of a model ({reason}); run the stage predict again") from None


def _or_none(result: Compared | Failed, texts: list[str], limit: float) -> Compared:
    return Compared([float("nan")] * len(texts), limit) if isinstance(result, Failed) else result


_packed: Packed
_redrawer: Redrawer


def _prepare(data: Path) -> None:
    global _packed, _redrawer
    limit_memory()
    _packed = Packed(data)
    _redrawer = Redrawer(_packed.depiction)


def _compare(items: Sequence[Item]) -> list[Compared | Failed]:
    # Read before anything is attempted: a damaged file is an error, not a picture without distances.
    return attempts(_timed, [(_packed.picture(at), texts) for at, texts in items])


def _timed(item: tuple[Picture, list[str]]) -> Compared:
    began = time.perf_counter()
    distances = _redrawer.distances(*item)
    return Compared(distances, time.perf_counter() - began)
