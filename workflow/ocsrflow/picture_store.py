"""The pictures of a corpus: HDF5 files that are written once and that data sets only point to.

A picture depends on its molecule and on its style: how it is drawn, by which RDKit, by which code of ours. The store
has a folder for each style; in it a molecule's place depends on a hash of its CID, so that a job looks into few files
for what others have drawn already. A file is never changed: what is missing goes into a new one.
"""

import hashlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
import rdkit
from numpy.typing import NDArray

from . import chemistry, images, packed
from .bottom_k import hash64
from .settings.depiction import Depiction

SEED = 0  # of the hash that decides a molecule's shard


def shard_of(cids: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """Which of ``shards`` equal parts of the hashes each CID falls into, shape (n,) from 0."""
    top = hash64(cids, SEED) >> np.uint64(32)
    return ((top * np.uint64(shards)) >> np.uint64(32)).astype(np.int64)


def style(depiction: Depiction) -> str:
    """The name of a style's folder: its size and palette in words, and a hash of all that decides the pixels."""
    code = [Path(inspect.getfile(source)).read_bytes() for source in (chemistry, images, packed, Depiction)]
    text = b"\0".join([depiction.model_dump_json().encode(), rdkit.__version__.encode(), *code])
    return f"{depiction.size}-{depiction.palette}-{hashlib.blake2b(text, digest_size=4).hexdigest()}"


class PictureStore:
    """One style's folder, as one shard of a data set sees it."""

    def __init__(self, folder: Path, name: str, shard: int, shards: int) -> None:
        """``folder`` holds all styles; ``name`` is one of them."""
        self.folder, self.name, self.shard, self.shards = folder, name, shard, shards

    def find(self, cids: NDArray[np.int64]) -> dict[int, tuple[str, int]]:
        """Where the pictures of some molecules are: file below the store's folder, and number in it, by CID."""
        found: dict[int, tuple[str, int]] = {}
        wanted = np.sort(cids)
        for path in sorted((self.folder / self.name).glob("*.h5")):
            if not self._overlaps(path.name):
                continue
            try:
                with h5py.File(path) as file:
                    held = file["cid"][:]
            except (OSError, KeyError) as error:
                print(f"{path}: damaged ({error}); its pictures are drawn again", file=sys.stderr)
                continue
            at = np.minimum(np.searchsorted(wanted, held), max(len(wanted) - 1, 0))
            for number in np.flatnonzero(wanted[at] == held) if len(wanted) else ():
                found.setdefault(int(held[number]), (f"{self.name}/{path.name}", int(number)))
        return found

    def _overlaps(self, name: str) -> bool:
        """Whether a file may hold molecules of this shard, by its name."""
        try:
            other, others = (int(part) for part in name.split("-")[:3:2])
        except ValueError:
            return False
        return other * self.shards < (self.shard + 1) * others and self.shard * others < (other + 1) * self.shards

    def file_for(self, cids: Iterable[int]) -> str:
        """The name, below the store's folder, of the file for some new molecules."""
        digest = hashlib.blake2b(np.fromiter(cids, np.int64).tobytes(), digest_size=8).hexdigest()
        return f"{self.name}/{self.shard:05}-of-{self.shards:05}-{digest}.h5"
