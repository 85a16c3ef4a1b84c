"""The HDF5 files of pictures: how shards and packed data sets are laid out, written and read.

``images`` is (pictures, size, size, channels) uint8, one zstd frame with checksum a picture, so that damaged bytes
are found when they are read. ``h5py`` with ``hdf5plugin`` opens the files without this module; here the chunks are
written and read directly, past HDF5's filter pipeline, which is many times faster at random.

A shard has ``images`` and ``cid`` (int64). A packed data set has besides, in the same order: ``smiles``,
``canonical`` (UTF-8 text), ``split`` (uint8, index into the attribute ``splits``), and the tokens of all SMILES in
one row, ``tokens`` (uint16), where those of picture i are ``tokens[offsets[i]:offsets[i + 1]]``.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import zstandard
from numpy.typing import NDArray

from .errors import UserError
from .images import Picture
from .settings.depiction import Depiction

SPLITS = ["train", "validation", "test"]
LEVEL = 3  # of zstd: higher ones take several times longer for a few per cent


def create(file: h5py.File, pictures: int, depiction: Depiction) -> h5py.Dataset:
    """Make the empty ``images`` of a file that is open for writing."""
    shape = (depiction.size, depiction.size, depiction.channels)
    file.attrs["depiction"] = depiction.model_dump_json()
    return file.create_dataset(
        "images",
        (pictures, *shape),
        np.uint8,
        chunks=(1, *shape),
        maxshape=(None, *shape),
        **hdf5plugin.Zstd(clevel=LEVEL),
    )


def compress(pictures: Iterable[Picture]) -> Iterator[bytes]:
    """Each picture as one zstd frame with its length and checksum."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    for picture in pictures:
        yield compressor.compress(np.ascontiguousarray(picture).data)


def write_chunk(images: h5py.Dataset, at: int, chunk: bytes) -> None:
    """Write picture ``at`` from its zstd frame."""
    images.id.write_direct_chunk((at, 0, 0, 0), chunk)


def read_chunk(images: h5py.Dataset, at: int) -> bytes:
    """The zstd frame of picture ``at``."""
    chunk: bytes = images.id.read_direct_chunk((at, 0, 0, 0))[1]
    return chunk


class Packed:
    """A packed data set, opened for reading; safe to hand to spawned processes.

    The HDF5 file is opened at the first picture a process reads, and is never handed to another one.
    """

    def __init__(self, path: Path) -> None:
        """Read everything but the pictures.

        Raises
        ------
        UserError
            Where ``path`` is not a whole packed data set.
        """
        self.path = path
        self._file: h5py.File | None = None
        try:
            with h5py.File(path) as file:
                self.digest = str(file.attrs["digest"])
                self.depiction = Depiction.model_validate_json(str(file.attrs["depiction"]))
                self.vocabulary: list[str] = json.loads(str(file.attrs["vocabulary"]))
                self.cid: NDArray[np.int64] = file["cid"][:]
                self.split: NDArray[np.uint8] = file["split"][:]
                self.tokens: NDArray[np.uint16] = file["tokens"][:]
                self.offsets: NDArray[np.int64] = file["offsets"][:]
                self.shape: tuple[int, int, int] = file["images"].shape[1:]
        except FileNotFoundError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{path}: not a whole packed data set ({error}); remove it and run the workflow again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        # What is open stays with the process that opened it.
        opened = ("_images", "_zstd")
        return {key: value for key, value in self.__dict__.items() if key not in opened} | {"_file": None}

    def __len__(self) -> int:
        return len(self.cid)

    def members(self, split: str) -> NDArray[np.int64]:
        """Positions of the pictures of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def text(self, name: str, positions: Iterable[int]) -> list[str]:
        """``smiles`` or ``canonical`` at some positions."""
        with h5py.File(self.path) as file:
            column = file[name].asstr()[:]
        return [str(column[i]) for i in positions]

    def tokens_of(self, at: int) -> NDArray[np.uint16]:
        """Token numbers of picture ``at``, without start and end."""
        return self.tokens[self.offsets[at] : self.offsets[at + 1]]

    def picture(self, at: int) -> Picture:
        """Picture ``at``, (size, size, channels) uint8.

        Raises
        ------
        UserError
            Where its bytes are damaged.
        """
        if self._file is None:
            self._file = h5py.File(self.path)
            self._images: h5py.Dataset = self._file["images"]
            self._zstd = zstandard.ZstdDecompressor()
        try:
            data = self._zstd.decompress(read_chunk(self._images, at))
            return np.frombuffer(data, dtype=np.uint8).reshape(self.shape)
        except (zstandard.ZstdError, ValueError, OSError) as error:
            raise UserError(
                f"{self.path}: picture {at} (CID {self.cid[at]}) is damaged ({error}); "
                "remove the file and run the workflow again"
            ) from None
