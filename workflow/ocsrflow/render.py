"""Stage ``render``: the pictures of one shard of a data set, drawn where the corpus does not have them yet."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rdkit

from .chemistry import parse
from .cli import run
from .files import whole
from .guarded import Failed, guarded
from .images import draw, fit
from .packed import Compressor, create, write_chunk
from .picture_folder import PictureFolder
from .picture_store import NewFile, PictureStore, molecule_hash, shard_of, style
from .progress import progress
from .settings.depiction import Depiction
from .tables import write_csv

INDEX = pa.schema([("cid", pa.int64()), ("file", pa.dictionary(pa.int32(), pa.string())), ("number", pa.int32())])

Molecule = tuple[int, str, str | None]  # CID, SMILES, supplied picture


def render(
    sample: Path,
    *,
    store: Path,
    out: Path,
    rejects: Path,
    shard: int = 0,
    shards: int = 1,
    pictures: Path | None = None,
    depiction: Depiction = Depiction(),  # noqa: B008  (immutable)
    time_limit: float = 10.0,
) -> None:
    """Find or draw the pictures of those molecules of a data set that fall into a shard.

    A molecule's shard is decided by a hash of its CID. Pictures that an earlier job has drawn of the same molecules, in
    the same style, are not drawn again.

    Parameters
    ----------
    sample
        Parquet file of the stage ``sample``.
    store
        Folder of the corpus' pictures.
    out
        Parquet file that says where each picture is: cid, file (below ``store``), number (in the file).
    rejects
        CSV for the molecules without a picture: cid, reason, example.
    shard, shards
        Which shard (from 0) of how many.
    pictures
        Folder or zip of supplied pictures, to be read in place of drawing.
    depiction
        How to draw; supplied pictures are fitted to its size and palette.
    time_limit
        Seconds after which the drawing of one molecule is given up. Some are drawn together first, with this limit for
        all of them; where it is passed, each one has it for itself.

    Raises
    ------
    UserError
        When the supplied pictures are not there.
    """
    molecules = _molecules(sample, shard, shards)
    name = f"supplied-{style(depiction)}" if pictures else style(depiction)
    shelf = PictureStore(store, name, shard, shards)
    hashes = {molecule_hash(cid, smiles): (cid, smiles, file) for cid, smiles, file in molecules}
    # Supplied pictures may have changed under the same name: they are read again.
    places = {} if pictures else shelf.find(np.fromiter(hashes, np.uint64, len(hashes)))
    found = {hashes[key][0]: place for key, place in places.items()}
    missing = [molecule for key, molecule in hashes.items() if key not in places]
    refused: list[tuple[int, str, str]] = []
    if missing:
        if pictures:
            PictureFolder(pictures)  # says what is wrong with it before any process starts
        what = f"drawing {sample.parent.name} {shard + 1}/{shards}"
        drawn = guarded(_chunks, missing, seconds=time_limit, prepare=_prepare, arguments=(depiction, pictures))
        with shelf.new_file() as new, closing(drawn):  # so that its process ends with it, whatever happens
            results = progress(drawn, total=len(missing), what=what, unit="pictures")
            cids = _write(new, depiction, zip(missing, results, strict=True), len(missing), refused)
        found |= {cid: (new.name, number) for number, cid in enumerate(cids)}
    index = [{"cid": cid, "file": place[0], "number": place[1]} for cid, place in sorted(found.items())]
    with whole(out) as part:
        pq.write_table(pa.Table.from_pylist(index, INDEX), part)
    write_csv(rejects, ("cid", "reason", "example"), refused)
    kept = len(molecules) - len(missing)
    print(f"{sample.parent.name} {shard + 1}/{shards}: {len(missing) - len(refused)} drawn, {kept} were there already")


def _molecules(sample: Path, shard: int, shards: int) -> list[Molecule]:
    """Those of a data set that fall into a shard."""
    found: list[Molecule] = []
    for batch in pq.ParquetFile(sample).iter_batches(columns=["cid", "smiles", "file"]):
        mine = batch.filter(pa.array(shard_of(batch["cid"].to_numpy(), shards) == shard))
        found += zip(*(column.to_pylist() for column in mine.columns), strict=True)
    return found


def _write(
    new: NewFile,
    depiction: Depiction,
    results: Iterator[tuple[Molecule, bytes | ValueError | Failed]],
    most: int,
    refused: list[tuple[int, str, str]],
) -> list[int]:
    """Write the chunks into a new file of the store; the CIDs in it. What failed goes to ``refused``."""
    cids: list[int] = []
    hashes: list[int] = []
    digest = hashlib.blake2b(digest_size=8)
    with h5py.File(new.part, "w", libver="v110") as file:
        images = create(file, most, depiction)
        for (cid, smiles, name), result in results:
            if isinstance(result, bytes):
                write_chunk(images, len(cids), result)
                cids.append(cid)
                hashes.append(molecule_hash(cid, smiles))
                digest.update(result)
            else:
                reason = result.reason if isinstance(result, Failed) else "bad_picture" if name else "not_drawn"
                refused.append((cid, reason, f"{smiles}: {result}"))
        images.resize(len(cids), axis=0)
        file["cid"] = np.array(cids, dtype=np.int64)
        file["molecule"] = np.array(hashes, dtype=np.uint64)
        file.attrs["rdkit"] = rdkit.__version__
    digest.update(np.array(hashes, dtype=np.uint64).tobytes())
    new.digest = digest.hexdigest() if cids else None
    return cids


class _Painter:
    """What a process needs for its pictures."""

    def __init__(self, depiction: Depiction, pictures: Path | None) -> None:
        self.depiction = depiction
        self.folder = PictureFolder(pictures) if pictures else None
        self.compressor = Compressor()

    def chunk(self, molecule: Molecule) -> bytes:
        cid, smiles, name = molecule
        if self.folder is not None:
            return self.compressor.chunk(fit(self.folder.read(str(name)), self.depiction))
        parsed = parse(smiles)
        if parsed is None:
            raise ValueError("RDKit cannot parse it")
        return self.compressor.chunk(draw(parsed, self.depiction, cid))


_painter: _Painter


def _prepare(depiction: Depiction, pictures: Path | None) -> None:
    global _painter
    _painter = _Painter(depiction, pictures)


def _chunks(molecules: Sequence[Molecule]) -> list[bytes | ValueError]:
    """The chunks of some molecules, or why there is none."""
    found: list[bytes | ValueError] = []
    for molecule in molecules:
        try:
            found.append(_painter.chunk(molecule))
        except ValueError as error:
            found.append(error)
        except Exception as error:  # noqa: BLE001  (decoders of pictures raise all kinds)
            found.append(ValueError(f"{type(error).__name__}: {error}"))
    return found


if __name__ == "__main__":
    run(render)
