"""Stage ``render``: draw one shard of a data set's molecules."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from .chemistry import parse
from .cli import run
from .files import whole
from .images import Picture, draw, fit
from .packed import compress, create, write_chunk
from .picture_folder import PictureFolder
from .progress import progress
from .settings.depiction import Depiction


def render(
    sample: Path,
    *,
    out: Path,
    rejects: Path,
    shard: int = 0,
    shards: int = 1,
    pictures: Path | None = None,
    depiction: Depiction = Depiction(),  # noqa: B008  (immutable)
) -> None:
    """Draw every ``shards``-th molecule of a data set, from number ``shard`` on.

    Parameters
    ----------
    sample
        Parquet file of the stage ``sample``.
    out
        HDF5 file for the pictures and their CIDs.
    rejects
        CSV for the molecules without a picture: cid, reason, example.
    shard, shards
        Which shard (from 0) of how many.
    pictures
        Folder or zip of supplied pictures, to be read in place of drawing.
    depiction
        How to draw; supplied pictures are fitted to its size and palette.

    Raises
    ------
    UserError
        When the supplied pictures are not there.
    """
    rows = pd.read_parquet(sample, columns=["cid", "smiles", "file"]).iloc[shard::shards]
    folder = PictureFolder(pictures) if pictures else None
    cids: list[int] = []
    refused: list[tuple[int, str, str]] = []

    def drawn() -> Iterator[Picture]:
        bar = progress(total=len(rows), what=f"drawing {out.parent.parent.name} {shard + 1}/{shards}", unit="pictures")
        with bar:
            for cid, smiles, name in rows.itertuples(index=False):
                try:
                    picture = fit(folder.read(name), depiction) if folder else _draw(smiles, depiction)
                except ValueError as error:
                    reason = "bad_picture" if folder else "not_drawn"
                    refused.append((cid, reason, f"{smiles}: {error}"))
                else:
                    cids.append(cid)
                    yield picture
                bar.update()

    with whole(out) as part, h5py.File(part, "w", libver="v110") as file:
        images = create(file, len(rows), depiction)
        for at, chunk in enumerate(compress(drawn())):
            write_chunk(images, at, chunk)
        images.resize(len(cids), axis=0)
        file["cid"] = np.array(cids, dtype=np.int64)
    with whole(rejects) as part:
        pd.DataFrame(refused, columns=["cid", "reason", "example"]).to_csv(part, index=False)


def _draw(smiles: str, depiction: Depiction) -> Picture:
    molecule = parse(smiles)
    if molecule is None:
        raise ValueError("RDKit cannot parse it")
    return draw(molecule, depiction)


if __name__ == "__main__":
    run(render)
