"""Stage ``pack``: one HDF5 file of a data set's pictures, with tokens and vocabulary as JSON."""

import functools
import json
import os
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..chem.tokenizer import END, INDEX, PAD, START, VOCABULARY, encode
from ..config.depiction import Depiction
from ..runtime import hdf5
from ..runtime.csv_tables import write_rejects
from ..runtime.errors import UserError, of_the_system
from ..runtime.files import whole, write_json
from ..runtime.progress import progress
from .packed_file import ROWS, drawings_of
from .packed_writer import PackedWriter
from .picture_chunks import expect_chunks, frame_of, read_chunk

OPEN_FILES = 4000  # at most: each takes 0.7 MB and the CIDs in it, and half a millisecond to open again
OTHER_FILES = 100  # that Python and its libraries have


def pack(
    sample: Path,
    index: Path,
    *,
    store: Path,
    shards: int,
    out: Path,
    tokens: Path,
    vocabulary: Path,
    rejects: Path,
    render_rejects: Path | None = None,
    drawings: int = 1,
) -> None:
    """Put the pictures of a data set into one file, in the order of its sample.

    The pictures are copied as they are, compressed; memory does not grow with the texts. A molecule that has no
    picture or no tokens is left out and counted, and a spare one of the sample takes its place.

    Parameters
    ----------
    sample
        Parquet file of the stage ``sample``.
    index
        Folder with the files of the stage ``render``, called 0.parquet, 1.parquet and so on.
    store
        Folder of the corpus' pictures.
    shards
        How many index files there are.
    out
        HDF5 file, laid out as :mod:`ocsrflow.pictures.packed_file` says.
    tokens
        JSON file: cid, split and tokens of every picture, in the file's order.
    vocabulary
        JSON file: token to number.
    rejects
        CSV for what was left out: reason, count, example.
    render_rejects
        Folder with the rejects of the stage ``render`` (render-0.csv and so on), for the reasons.
    drawings
        Drawings of each training molecule. One that is missing is counted; the molecule's others are packed.

    Raises
    ------
    UserError
        When a file of pictures is missing or damaged, or nothing is left to pack.
    """
    pictures = PictureIndex(store, [index / f"{shard}.parquet" for shard in range(shards)])
    source = pq.ParquetFile(sample)
    reasons = _reasons(render_rejects, shards)
    lost = Lost(source.schema_arrow.metadata or {})
    refused: list[tuple[str, str]] = []
    what = f"packing {out.parent.name}"
    bar = progress(total=source.metadata.num_rows, what=what, unit="pictures")
    with bar, whole(out) as part, whole(tokens) as text, h5py.File(part, "w", libver="v110") as file:
        attributes = {"sample": lost.description, "vocabulary": json.dumps(VOCABULARY)}
        writer = PackedWriter(file, pictures.depiction, pictures.attributes | attributes)
        with open(text, "w", encoding="utf-8") as json_file:
            for rows in _rows(source):
                for row in rows:
                    bar.update()
                    if row.spare and not lost.wants(row.length):
                        continue
                    numbers = _tokens(row.smiles)
                    wanted = [pictures.find(row.cid, n) for n in range(drawings_of(row.split, drawings))]
                    found = [position for position in wanted if position is not None]
                    if numbers is None:
                        refused.append(("no_tokens", row.smiles))
                    elif len(found) < len(wanted):
                        refused += [reasons.get(row.cid, ("not_drawn", row.smiles))] * (len(wanted) - len(found))
                    if numbers is None or not found:
                        lost.add(row)
                        continue
                    lost.replace(row)
                    entry = json.dumps({"cid": row.cid, "split": row.split, "tokens": numbers.tolist()})
                    texts = {"smiles": row.smiles, "canonical": row.canonical}
                    for position in found:
                        json_file.write((",\n" if writer.pictures else "[\n") + entry)
                        writer.add(row.cid, row.split, pictures.chunk(position), numbers, texts)
            json_file.write("\n]\n")
        if not writer.pictures:
            raise UserError(f"{out.parent.name}: no molecule has both a picture and tokens; see {rejects.parent}")
        writer.close()
    write_json(vocabulary, {"pad": PAD, "start": START, "end": END, "tokens": INDEX})
    write_rejects(rejects, refused)
    print(
        f"{out.parent.name}: {writer.pictures} pictures packed, {len(refused)} left out, "
        f"{lost.replaced} of them replaced by spares"
    )


class Row(NamedTuple):
    """A molecule of the sample."""

    cid: int
    smiles: str
    canonical: str
    length: int
    split: str
    spare: bool


def _rows(source: pq.ParquetFile) -> Iterator[list[Row]]:
    for batch in source.iter_batches(batch_size=ROWS, columns=list(Row._fields)):
        yield [Row(*values) for values in zip(*(batch[name].to_pylist() for name in Row._fields), strict=True)]


class Lost:
    """Molecules that could not be packed, and whether a spare may take the place of one."""

    def __init__(self, metadata: dict[bytes, bytes]) -> None:
        self.description = metadata.get(b"sample", b"{}").decode()
        self.replaced = 0
        # Of a data set with so many molecules of each length, only one of the same length will do.
        self._by_length = metadata.get(b"spares") == b"length"
        self._open: Counter[int] = Counter()

    def _key(self, length: int) -> int:
        return length if self._by_length else 0

    def wants(self, length: int) -> bool:
        """Whether a spare molecule of this length is needed."""
        return self._open[self._key(length)] > 0

    def add(self, row: Row) -> None:
        """Count a molecule that is left out."""
        if not row.spare:
            self._open[self._key(row.length)] += 1

    def replace(self, row: Row) -> None:
        """Count a spare one that is packed."""
        if row.spare:
            self._open[self._key(row.length)] -= 1
            self.replaced += 1


class PictureIndex:
    """Where in the store the pictures of a data set are: a table with a row for each picture, sorted by CID."""

    def __init__(self, store: Path, indices: list[Path]) -> None:
        tables = []
        for path in indices:
            try:
                tables.append(pq.read_table(path))
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                if trouble := of_the_system(error, path):
                    raise trouble from None
                raise UserError(f"{path}: damaged ({error}); remove it and run again") from None
        table = pa.concat_tables(tables).combine_chunks().unify_dictionaries()
        file: Any = table["file"].combine_chunks()
        self.names: list[str] = file.dictionary.to_pylist()
        cids, drawings = table["cid"].to_numpy(), table["drawing"].to_numpy()
        order = np.lexsort((drawings, cids))
        self._cids: NDArray[np.int64] = cids[order]
        self._drawings: NDArray[np.int32] = drawings[order]
        self._files = file.indices.to_numpy()[order]
        self._numbers = table["number"].to_numpy()[order]
        self._store = store
        self._opened: dict[int, tuple[h5py.Dataset, NDArray[np.int64]]] = {}  # pictures and CIDs
        self._whole: set[int] = set()  # files that were found to be whole
        self._attributes: dict[str, str] = {}  # of the last of them
        self._most_opened = _allow_open_files(min(len(self.names), OPEN_FILES))

    def find(self, cid: int, drawing: int = 0) -> int | None:
        """The row of a molecule's picture, for :meth:`chunk`; None where it has none."""
        at = int(np.searchsorted(self._cids, cid))
        while at < len(self._cids) and self._cids[at] == cid:
            if self._drawings[at] == drawing:
                return at
            at += 1
        return None

    def chunk(self, row: int) -> bytes:
        """The compressed picture of a row."""
        file = int(self._files[row])
        path = self._store / self.names[file]
        try:
            if file not in self._opened:
                if len(self._opened) >= self._most_opened:
                    self._opened.pop(next(iter(self._opened)))[0].file.close()
                if file not in self._whole:
                    self._attributes = hdf5.values(path, _shard)
                    self._whole.add(file)
                opened = h5py.File(path)
                self._opened[file] = opened["images"], opened["cid"][:]
            images, cids = self._opened[file]
            number = int(self._numbers[row])
            if number >= len(cids) or cids[number] != self._cids[row]:
                raise ValueError("it has changed since the data set was drawn")
            chunk = read_chunk(images, number)
            frame_of(chunk)  # what is damaged is not passed on
            return chunk
        except (OSError, KeyError, ValueError, MemoryError) as error:
            if not isinstance(error, FileNotFoundError) and (trouble := of_the_system(error, path)):
                raise trouble from None
            raise UserError(
                f"{path}: a shard of pictures is damaged or gone ({error}); remove it and what points to it: "
                "run again with --forcerun render"
            ) from None

    @property
    def depiction(self) -> Depiction:
        """How the pictures are drawn."""
        return Depiction.model_validate_json(self._shared["depiction"]) if self.names else Depiction()

    @property
    def attributes(self) -> dict[str, str]:
        """Other attributes of the files of pictures: RDKit's version."""
        return {key: value for key, value in self._shared.items() if key != "depiction"}

    @functools.cached_property
    def _shared(self) -> dict[str, str]:
        if not self.names:
            return {}
        self.chunk(0)
        return self._attributes


def _shard(file: h5py.File) -> dict[str, str]:
    """The attributes of a file of pictures, whose columns are looked through."""
    hdf5.expect_plain(file, "cid", size=os.path.getsize(file.filename))
    hdf5.expect_plain(file, "images")
    if len(file["cid"][:]) != len(file["images"]):
        raise ValueError("another number of CIDs than of pictures")
    expect_chunks(file["images"])
    return {key: str(value) for key, value in file.attrs.items()}


def _tokens(smiles: str) -> NDArray[np.uint16] | None:
    try:
        return encode(smiles)
    except ValueError:
        return None


def _allow_open_files(count: int) -> int:
    """Raise this process's limit of open files for so many more; how many the system allows of them, at least one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + OTHER_FILES:
        soft = count + OTHER_FILES if hard == resource.RLIM_INFINITY else min(count + OTHER_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, count if soft == resource.RLIM_INFINITY else min(count, soft - OTHER_FILES))


def _reasons(folder: Path | None, shards: int) -> dict[int, tuple[str, str]]:
    """Why molecules have no picture, by CID: reason and example."""
    if folder is None:
        return {}
    paths = [folder / f"render-{shard}.csv" for shard in range(shards)]
    tables = [pd.read_csv(path, keep_default_na=False) for path in paths if path.exists()]
    return {int(r.cid): (str(r.reason), str(r.example)) for t in tables for r in t.itertuples()}  # type: ignore[arg-type]
