"""Stage ``render``: the pictures of one shard of a data set, drawn where the corpus does not have them yet."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rdkit

from ..chem.molecules import parse
from ..config.depiction import Depiction
from ..corpus.picture_folder import UNREADABLE, PictureFolder
from ..depiction.paper import BlankError
from ..depiction.plain import Picture, draw
from ..runtime.csv_tables import write_csv
from ..runtime.errors import UserError
from ..runtime.files import whole
from ..runtime.isolated import Failed, guarded
from ..runtime.progress import progress
from .packed_file import drawings_of
from .picture_chunks import Compressor, create, write_chunk
from .picture_files import load_supplied
from .picture_store import NewFile, PictureStore, picture_hash, shard_of, style
from .varied import draw_varied

INDEX = pa.schema(
    [
        ("cid", pa.int64()),
        ("drawing", pa.int32()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("number", pa.int32()),
    ]
)


class Wanted(NamedTuple):
    """One picture that a data set needs."""

    cid: int
    drawing: int  # which of the molecule's drawings, from 0
    smiles: str
    supplied: str | None  # name of the supplied picture


class Drawn(NamedTuple):
    """A picture as it is kept."""

    chunk: bytes
    plain: bool  # drawn in RDKit's own style, since its own could not be read


def render(
    sample: Path,
    *,
    store: Path,
    out: Path,
    rejects: Path,
    shard: int = 0,
    shards: int = 1,
    pictures: Path | None = None,
    drawings: int = 1,
    depiction: Depiction = Depiction(),  # noqa: B008  (immutable)
    time_limit: float = 10.0,
    processes: int = 1,
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
        Parquet file that says where each picture is: cid, drawing, file (below ``store``), number (in the file).
    rejects
        CSV for what could not be drawn: cid, reason, example.
    shard, shards
        Which shard (from 0) of how many.
    pictures
        Folder or zip of supplied pictures, to be read in place of drawing.
    drawings
        Drawings of each training molecule, each in a style of its own; molecules of other splits have one.
    depiction
        How to draw; supplied pictures are brought to its frame as
        :func:`ocsrflow.pictures.picture_files.load_supplied` says.
    time_limit
        Seconds after which the drawing of one molecule is given up. Some are drawn together first, with this limit for
        all of them; where it is passed, each one has it for itself.
    processes
        Processes that draw. Pictures are written in the order of the sample, whatever their number.

    Raises
    ------
    UserError
        When the supplied pictures are not there.
    """
    wanted = _wanted(sample, shard, shards, drawings)
    name = f"supplied-{style(depiction)}" if pictures else style(depiction)
    picture_store = PictureStore(store, name, shard, shards)
    hashes = {picture_hash(picture.cid, picture.smiles, picture.drawing): picture for picture in wanted}
    # Supplied pictures may have changed under the same name: they are read again.
    stored = {} if pictures else picture_store.find(np.fromiter(hashes, np.uint64, len(hashes)))
    found = {hashes[key][:2]: found_at for key, found_at in stored.items()}
    missing = [picture for key, picture in hashes.items() if key not in stored]
    plain = 0
    refused: list[tuple[int, str, str]] = []
    if missing:
        if pictures:
            PictureFolder(pictures)  # says what is wrong with it before any process starts
        what = f"drawing {sample.parent.name} {shard + 1}/{shards}"
        drawn = guarded(
            _draw,
            missing,
            seconds=time_limit,
            prepare=_prepare,
            arguments=(depiction, pictures),
            processes=processes,
        )
        with picture_store.new_file() as new, closing(drawn):  # so that its processes end with it, whatever happens
            results = progress(drawn, total=len(missing), what=what, unit="pictures")
            written, plain = _write(new, depiction, zip(missing, results, strict=True), len(missing), refused)
        found |= {picture[:2]: (new.name, number) for number, picture in enumerate(written)}
    index = [
        {"cid": cid, "drawing": drawing, "file": file, "number": number}
        for (cid, drawing), (file, number) in sorted(found.items())
    ]
    with whole(out) as part:
        made = json.dumps({"depiction": depiction.model_dump(mode="json"), "drawings": drawings})
        pq.write_table(pa.Table.from_pylist(index, INDEX.with_metadata({"made": made})), part)
    write_csv(rejects, ("cid", "reason", "example"), refused)
    kept = len(wanted) - len(missing)
    print(
        f"{sample.parent.name} {shard + 1}/{shards}: {len(missing) - len(refused)} drawn, {kept} were there already"
        + (f"; {plain} in the plain style, since nothing could be read in their own" if plain else "")
    )


def _wanted(sample: Path, shard: int, shards: int, drawings: int) -> list[Wanted]:
    """The pictures of those molecules of a data set that fall into a shard."""
    found: list[Wanted] = []
    for batch in pq.ParquetFile(sample).iter_batches(columns=["cid", "smiles", "file", "split"]):
        of_shard = batch.filter(pa.array(shard_of(batch["cid"].to_numpy(), shards) == shard))
        for cid, smiles, file, split in zip(*(column.to_pylist() for column in of_shard.columns), strict=True):
            found += [Wanted(cid, n, smiles, file) for n in range(drawings_of(split, drawings))]
    return found


def _write(
    new: NewFile,
    depiction: Depiction,
    results: Iterator[tuple[Wanted, Drawn | ValueError | Failed]],
    most: int,
    refused: list[tuple[int, str, str]],
) -> tuple[list[Wanted], int]:
    """Write pictures into a new file of the store; which are in it, and how many of them in the plain style.

    What failed goes to ``refused``.
    """
    written: list[Wanted] = []
    plain = 0
    digest = hashlib.blake2b(digest_size=8)
    with h5py.File(new.part, "w", libver="v110") as file:
        images = create(file, most, depiction)
        for picture, result in results:
            if isinstance(result, Drawn):
                write_chunk(images, len(written), result.chunk)
                written.append(picture)
                plain += result.plain
                digest.update(result.chunk)
            else:
                refused.append((picture.cid, _reason(picture, result), f"{picture.smiles}: {result}"))
        images.resize(len(written), axis=0)
        hashes = np.array([picture_hash(p.cid, p.smiles, p.drawing) for p in written], dtype=np.uint64)
        file["cid"] = np.array([picture.cid for picture in written], dtype=np.int64)
        file["molecule"] = hashes
        file.attrs["rdkit"] = rdkit.__version__
    digest.update(hashes.tobytes())
    new.digest = digest.hexdigest() if written else None
    return written, plain


def _reason(picture: Wanted, failure: ValueError | Failed) -> str:
    if isinstance(failure, Failed):
        return failure.reason
    if picture.supplied is None:
        return "not_drawn"
    return "blank_picture" if isinstance(failure, BlankError) else "bad_picture"


class _Painter:
    """What a process needs for its pictures."""

    def __init__(self, depiction: Depiction, pictures: Path | None) -> None:
        self.depiction = depiction
        self.folder = PictureFolder(pictures) if pictures else None
        self.compressor = Compressor()

    def draw(self, wanted: Wanted) -> Drawn:
        if self.folder is not None:
            return Drawn(self.compressor.chunk(self._supplied(self.folder, str(wanted.supplied))), False)
        parsed = parse(wanted.smiles)
        if parsed is None:
            raise ValueError("RDKit cannot parse it")
        if self.depiction.styles is None:
            return Drawn(self.compressor.chunk(draw(parsed, self.depiction, wanted.cid)), False)
        picture, plain = draw_varied(parsed, self.depiction, wanted.cid, wanted.drawing)
        return Drawn(self.compressor.chunk(picture), plain)

    def _supplied(self, folder: PictureFolder, name: str) -> Picture:
        try:
            with folder.open(name) as source:
                return load_supplied(source, self.depiction, name)
        except BlankError:
            raise
        except UNREADABLE as error:
            raise ValueError(f"picture {name!r} cannot be read: {' '.join(str(error).split())}") from None


_painter: _Painter


def _prepare(depiction: Depiction, pictures: Path | None) -> None:
    global _painter
    _painter = _Painter(depiction, pictures)


def _draw(wanted: Sequence[Wanted]) -> list[Drawn | ValueError]:
    """Some pictures, or why there is none."""
    found: list[Drawn | ValueError] = []
    for picture in wanted:
        try:
            found.append(_painter.draw(picture))
        except ValueError as error:
            found.append(error)
        except UserError:
            raise  # a font or a package that is not there: no other picture can be drawn either
        except Exception as error:  # noqa: BLE001  (decoders of pictures raise all kinds)
            found.append(ValueError(f"{type(error).__name__}: {error}"))
    return found
