"""Packed data sets: HDF5 files of pictures with their molecules and tokens, as networks read them.

``images`` holds the pictures, see :mod:`ocsrflow.pictures.picture_chunks`. In the same order follow ``cid`` (int64),
``smiles``, ``canonical`` (UTF-8 text), ``split`` (uint8, index into the attribute ``splits``), and the tokens of all
SMILES in one row, ``tokens`` (uint16), where those of picture i are ``tokens[offsets[i]:offsets[i + 1]]``. Pictures
from elsewhere have an ``id`` (UTF-8 text), the name of their file. The attribute ``sample`` (JSON) is the record of the
stage ``sample``, with the seed and the shares of the split.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zstandard
from numpy.typing import NDArray

from ..config.depiction import Depiction
from ..config.split import Split
from ..depiction.plain import Picture
from ..runtime import hdf5
from ..runtime.errors import UserError, of_the_system
from .picture_chunks import expect_chunks, frame_of, read_chunk

SPLITS = ["train", "validation", "test"]
TEXTS = ("smiles", "canonical")
NUMBERS = ("cid", "split", "tokens", "offsets")
ROWS = 1 << 14  # rows of a data set held at a time


def drawings_of(split: str, drawings: int) -> int:
    """How many drawings a molecule of a split has in a data set: several only where it is learnt from."""
    return drawings if split == "train" else 1


class Packed:
    """A packed data set, opened for reading; safe in spawned and in forked processes.

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
        self._process = 0  # the one that opened the file
        try:
            found = dict(hdf5.parts(path, _contents))
            self.digest: str = found["digest"]
            self.depiction = Depiction.model_validate_json(found["depiction"])
            self.split_into = _split(json.loads(found["sample"]))
            self.vocabulary: list[str] = json.loads(found["vocabulary"])
            self._has_ids: bool = found["has_ids"]
            self.shape: tuple[int, int, int] = found["shape"]
            with h5py.File(path) as file:
                columns = [file[name][:] for name in NUMBERS]
            self.cid: NDArray[np.int64] = columns[0]
            self.split: NDArray[np.uint8] = columns[1]
            self.tokens: NDArray[np.uint16] = columns[2]
            self.offsets: NDArray[np.int64] = columns[3]
            self._look()
        except (UserError, FileNotFoundError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (what is in it may be anything)
            if trouble := of_the_system(error, path):
                raise trouble from None
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return UserError(f"{self.path}: not a whole packed data set ({reason}); remove it and run the workflow again")

    def _look(self) -> None:
        """Look whether what was read holds together.

        Raises
        ------
        ValueError
            Where it does not.
        """
        size = self.depiction.size
        ends, tokens = self.offsets, self.tokens
        right = {
            "images": self.shape == (self.depiction.channels, size, size),
            "vocabulary": isinstance(self.vocabulary, list) and all(isinstance(t, str) for t in self.vocabulary),
            "split": self.split.max(initial=0) < len(SPLITS),
            "offsets": ends[0] == 0 and ends[-1] == len(tokens) and not (ends[1:] < ends[:-1]).any(),
            "tokens": len(tokens) == 0 or tokens.max() < len(self.vocabulary),
        }
        if wrong := [name for name, ok in right.items() if not ok]:
            raise ValueError(f"{wrong[0]} that cannot be")

    def __getstate__(self) -> dict[str, Any]:
        # What is open stays with the process that opened it.
        opened = ("_file", "_images", "_zstd")
        return {key: value for key, value in self.__dict__.items() if key not in opened} | {"_process": 0}

    def __len__(self) -> int:
        return len(self.cid)

    def members(self, split: str) -> NDArray[np.int64]:
        """Positions of the pictures of a split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def first(self, split: str, size: int | None) -> NDArray[np.int64]:
        """Positions of the first ``size`` pictures of a split, ascending; of all where ``size`` is None.

        Raises
        ------
        UserError
            Where there is none.
        """
        members = self.members(split)[:size]
        if not len(members):
            raise UserError(f"{self.path}: its {split} split is empty")
        return members

    def expect_vocabulary(self, vocabulary: list[str], weights: Path) -> None:
        """Look that a model, whose weights lie there, was trained with the tokens of this data set.

        Raises
        ------
        UserError
            Where it was trained with others.
        """
        if vocabulary != self.vocabulary:
            raise UserError(f"{weights}: trained with another vocabulary than {self.path} has; train it again")

    def text(self, name: str, positions: Iterable[int]) -> list[str]:
        """``smiles`` or ``canonical`` at some positions."""
        wanted = np.fromiter(positions, np.int64)
        slices, found = wanted // ROWS, np.empty(len(wanted), object)
        for start, texts in self.texts(name, ROWS * np.unique(slices)):
            own = slices == start // ROWS
            found[own] = texts[wanted[own] - start]
        return [str(text) for text in found]

    def texts(self, name: str, starts: Iterable[int] | None = None) -> Iterator[tuple[int, NDArray[np.object_]]]:
        """A column of text in slices of ``ROWS``, each with the position of its first text.

        Parameters
        ----------
        name
            ``smiles``, ``canonical`` or ``id``.
        starts
            Where the slices that are wanted begin; without it all of them.

        Raises
        ------
        UserError
            Where the column is damaged.
        """
        starts = range(0, len(self), ROWS) if starts is None else starts
        try:
            yield from hdf5.parts(
                self.path, lambda file: ((start, file[name].asstr()[start : start + ROWS]) for start in starts)
            )
        except hdf5.Damaged as error:
            raise self._damaged(error) from None

    def ids(self, positions: Iterable[int]) -> list[str]:
        """What the pictures at some positions are called: the column ``id`` where there is one, else their CID."""
        return self.text("id", positions) if self._has_ids else [str(self.cid[i]) for i in positions]

    def positions(self, cids: Iterable[int]) -> list[int]:
        """Where the pictures of some CIDs are.

        Raises
        ------
        UserError
            Where one is not in this data set.
        """
        rows = {int(cid): at for at, cid in enumerate(self.cid)}
        wanted = [int(cid) for cid in cids]
        foreign = [cid for cid in wanted if cid not in rows]
        if foreign:
            raise UserError(f"CID {foreign[0]} is not in {self.path}; make the predictions again from this data set")
        return [rows[cid] for cid in wanted]

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
        planes = np.empty(self.shape, np.uint8)
        self._read(at, planes)
        return planes.transpose(1, 2, 0)

    def pictures(self, positions: Sequence[int], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Some pictures, (positions, channels, size, size) uint8, the fast way for a network.

        Parameters
        ----------
        positions
            Which, in any order.
        out
            Where to put them, of that shape: memory that is used again is several times faster than new memory.

        Raises
        ------
        UserError
            Where the bytes of one are damaged.
        """
        if out is None:
            out = np.empty((len(positions), *self.shape), np.uint8)
        for slot, at in zip(out, positions, strict=True):
            self._read(at, slot)
        return out

    def _read(self, at: int, out: NDArray[np.uint8]) -> None:
        """Inflate picture ``at`` to where it is wanted, (channels, size, size), contiguous."""
        try:
            if self._process != os.getpid():
                self._file = h5py.File(self.path)
                self._images: h5py.Dataset = self._file["images"]
                self._zstd = zstandard.ZstdDecompressor()
                self._process = os.getpid()
            reader = self._zstd.stream_reader(frame_of(read_chunk(self._images, at)))
            if (read := reader.readinto(out.reshape(-1).data)) != out.size:
                raise ValueError(f"{read} bytes in place of {out.size}")
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001  (as above; a chunk may say that it has any size)
            if trouble := of_the_system(error, self.path):
                raise trouble from None
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.path}: picture {at} (CID {self.cid[at]}) is damaged ({reason}); "
                "remove the file and run the workflow again"
            ) from None


def _split(sample: dict[str, Any]) -> Split | None:
    """How the stage ``sample`` split the molecules, by its record; None where it has none."""
    if "split_seed" not in sample:
        return None
    return Split(validation=sample["validation"], test=sample["test"], seed=sample["split_seed"])


def _contents(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """The attributes of a packed data set and what else it says of itself, by name, once its columns were tried.

    Raises
    ------
    ValueError
        Where the columns do not belong together, or are larger than their file.
    """
    size = os.path.getsize(file.filename)
    for name in ("digest", "depiction", "vocabulary"):
        yield name, str(file.attrs[name])
    yield "sample", str(file.attrs.get("sample", "{}"))
    texts = (*TEXTS, *({"id"} & file.keys()))
    hdf5.expect_plain(file, *NUMBERS, *texts, size=size)
    hdf5.expect_plain(file, "images")
    images = file["images"]
    pictures = len(images)
    rows = dict.fromkeys(("cid", "split", *texts), pictures) | {"offsets": pictures + 1}
    for name in (*rows, "tokens"):
        column = file[name]
        if len(column.shape) != 1 or len(column) != rows.get(name, len(column)):
            raise ValueError(f"{name} of another length than there are pictures")
        if name not in texts and column.dtype.kind not in "iu":
            raise ValueError(f"{name} that are no whole numbers")
    expect_chunks(images)
    yield "has_ids", "id" in texts
    yield "shape", images.shape[1:]
    for name in NUMBERS:  # tried: the other process reads them for itself
        yield name, len(file[name][:])


def describe(path: Path) -> dict[str, Any]:
    """Of a packed data set its name, digest, depiction (JSON) and numbers of pictures by split.

    Raises
    ------
    UserError
        Where ``path`` is none.
    """
    try:
        return {"name": path.parent.name, **hdf5.values(path, _describe)}
    except hdf5.Damaged as error:
        reason = f"not a whole packed data set ({error})"
        raise UserError(f"{path}: {reason}; remove it and run the workflow again") from None


def _describe(file: h5py.File) -> dict[str, Any]:
    splits = [str(name) for name in file.attrs["splits"]]
    hdf5.expect_plain(file, "split", size=os.path.getsize(file.filename))
    numbers = file["split"][:]
    pictures = {name: int((numbers == i).sum()) for i, name in enumerate(splits)}
    return {**{key: str(file.attrs[key]) for key in ("digest", "depiction")}, "pictures": pictures}
