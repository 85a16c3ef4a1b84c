"""The pictures of a corpus: HDF5 files that are written once and that data sets only point to.

A picture depends on its molecule and on its style: how it is drawn, by which RDKit, by which code of ours. The store
has a folder for each style; in it a molecule's place depends on a hash of its CID, so that a job looks into few files
for what others have drawn already. A file is never changed, and is called after what is in it: what is missing goes
into a new one, and jobs that draw the same at the same time do not meet. It has ``images`` (see
:mod:`ocsrflow.pictures.picture_chunks`), ``cid`` (int64) and ``molecule`` (uint64, :func:`picture_hash`).
"""

import fcntl
import hashlib
import inspect
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import rdkit
from numpy.typing import NDArray

from ..config.depiction import Depiction
from ..corpus.hash_sample import hash64
from ..runtime import hdf5
from ..runtime.code_version import code_version, syntax
from ..runtime.files import finish
from .picture_chunks import Compressor, create

# Of the hash that decides a molecule's shard. No draw may have the same (a data set's seed is below 2^32, that of its
# slots below 2^33): it takes the molecules of lowest hash, which would then all be in the first shard.
SEED = 1 << 33
STALE = 3600.0  # seconds after which an unfinished file is what a killed job left


def shard_of(cids: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """Which of ``shards`` equal parts of the hashes each CID falls into, shape (n,) from 0."""
    top = hash64(cids, SEED) >> np.uint64(32)
    return ((top * np.uint64(shards)) >> np.uint64(32)).astype(np.int64)


def picture_hash(cid: int, smiles: str, drawing: int = 0) -> int:
    """A 64-bit number for a drawing of a CID and its SMILES: a source may be renumbered."""
    text = f"{cid}\t{smiles}" + (f"\t{drawing}" if drawing else "")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def style(depiction: Depiction) -> str:
    """The name of a style's folder: its size and palette in words, and a hash of all that decides the pixels."""
    code = code_version("depiction.plain" if depiction.styles is None else "pictures.varied")
    # Of the layout of its files only what writes a picture: the rest of that module decides no bytes of it.
    layout = [syntax(inspect.getsource(source)) for source in (Compressor, create)]
    text = "\0".join([depiction.model_dump_json(), rdkit.__version__, code, *layout])
    return f"{depiction.size}-{depiction.palette}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


class PictureStore:
    """One style's folder, as one shard of a data set sees it."""

    def __init__(self, folder: Path, name: str, shard: int, shards: int) -> None:
        """``folder`` holds all styles; ``name`` is one of them."""
        self.folder, self.name, self.shard, self.shards = folder, name, shard, shards

    def find(self, hashes: NDArray[np.uint64]) -> dict[int, tuple[str, int]]:
        """Where the pictures of some molecules are: file below the store's folder, and number in it, by hash."""
        found: dict[int, tuple[str, int]] = {}
        wanted = np.sort(hashes)
        for path in sorted((self.folder / self.name).glob("*.h5")):
            if not self._overlaps(path.name) or not len(wanted):
                continue
            try:
                held = hdf5.values(path, _molecules)
            except (hdf5.Damaged, FileNotFoundError) as error:  # what the system cannot read is not drawn again
                print(f"{path}: damaged ({error}); its pictures are drawn again", file=sys.stderr)
                continue
            at = np.minimum(np.searchsorted(wanted, held), len(wanted) - 1)
            for number in np.flatnonzero(wanted[at] == held):
                found.setdefault(int(held[number]), (f"{self.name}/{path.name}", int(number)))
        return found

    def _overlaps(self, name: str) -> bool:
        """Whether a file may hold molecules of this shard, by its name."""
        try:
            other, others = (int(part) for part in name.split("-")[:3:2])
        except ValueError:
            return False
        return other * self.shards < (self.shard + 1) * others and self.shard * others < (other + 1) * self.shards

    @contextmanager
    def new_file(self) -> Iterator["NewFile"]:
        """A file to be written, which gets its name when it is whole, and is gone where it holds nothing."""
        folder = self.folder / self.name
        folder.mkdir(parents=True, exist_ok=True)
        begin = f"{self.shard:05}-of-{self.shards:05}-"
        for left in folder.glob(f"{begin}*.part"):
            if _abandoned(left):
                left.unlink(missing_ok=True)
        part = folder / f"{begin}{uuid.uuid4().hex}.part"
        new = NewFile(part)
        try:
            yield new
            if new.digest is not None:
                new.name = f"{self.name}/{begin}{new.digest}.h5"
                finish(part, self.folder / new.name)
        finally:
            part.unlink(missing_ok=True)


def _molecules(file: h5py.File) -> NDArray[np.uint64]:
    hdf5.expect_plain(file, "molecule", size=os.path.getsize(file.filename))
    molecules: NDArray[np.uint64] = file["molecule"][:]
    return molecules


def _abandoned(part: Path) -> bool:
    """Whether an unfinished file is what a killed job left: old, and not locked, as HDF5 locks what it writes.

    The date alone would not do: the clock may have been set meanwhile.
    """
    try:
        with open(part, "r+b") as file:
            if os.fstat(file.fileno()).st_mtime >= time.time() - STALE:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # somebody is writing it, or it has gone
        return False


class NewFile:
    """Where a new file is written, and its name below the store's folder once it is whole."""

    def __init__(self, part: Path) -> None:
        self.part = part
        self.digest: str | None = None  # of what is in it; set by who writes it, where there is anything
        self.name = ""
