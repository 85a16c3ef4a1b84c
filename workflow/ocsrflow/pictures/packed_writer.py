"""Writes packed data sets, laid out as :mod:`ocsrflow.pictures.packed_file` says."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..config.depiction import Depiction
from .packed_file import ROWS, SPLITS, TEXTS
from .picture_chunks import create, write_chunk


class PackedWriter:
    """Writes a packed data set, one picture after the other; memory does not grow with their number."""

    def __init__(
        self, file: h5py.File, depiction: Depiction, attributes: Mapping[str, str], texts: Sequence[str] = TEXTS
    ) -> None:
        """Begin with an empty file.

        Parameters
        ----------
        file
            Open for writing.
        depiction
            How the pictures are drawn.
        attributes
            Of the file: ``vocabulary`` (JSON, all tokens in the order of their numbers), and others worth keeping.
        texts
            Names of the columns of text.
        """
        self.pictures = 0
        self._file = file
        self._images = create(file, 0, depiction)
        file.attrs.update(attributes)
        file.attrs["splits"] = SPLITS
        text = h5py.string_dtype()
        kinds = {"cid": np.int64, **dict.fromkeys(texts, text), "split": np.uint8, "tokens": np.uint16}
        self._columns = {
            name: file.create_dataset(name, (0,), kind, chunks=(ROWS,), maxshape=(None,))
            for name, kind in {**kinds, "offsets": np.int64}.items()
        }
        self._digest = hashlib.blake2b(digest_size=16)
        self._rows: list[tuple[int, str, NDArray[np.uint16], Mapping[str, str]]] = []
        self._texts, self._tokens = texts, 0
        self._append("offsets", np.zeros(1, np.int64))

    def add(self, cid: int, split: str, chunk: bytes, tokens: NDArray[np.uint16], texts: Mapping[str, str]) -> None:
        """Add one picture by its chunk, with the token numbers of its SMILES and its text of every column."""
        if not self._rows:
            self._images.resize(self.pictures + ROWS, axis=0)
        write_chunk(self._images, self.pictures, chunk)
        self._digest.update(chunk)
        self._rows.append((cid, split, tokens, texts))
        self.pictures += 1
        if len(self._rows) == ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the digest of all pictures, CIDs, splits and tokens."""
        self._flush()
        self._images.resize(self.pictures, axis=0)
        self._file.attrs["digest"] = self._digest.hexdigest()

    def _flush(self) -> None:
        if not self._rows:
            return
        cids, splits, tokens, texts = zip(*self._rows, strict=True)
        ends = self._tokens + np.cumsum([len(numbers) for numbers in tokens], dtype=np.int64)
        self._tokens = int(ends[-1])
        numbers: dict[str, NDArray[Any]] = {
            "cid": np.array(cids, np.int64),
            "split": np.array([SPLITS.index(split) for split in splits], np.uint8),
            "tokens": np.concatenate(tokens),
        }
        for name, values in numbers.items():
            self._append(name, values)
            self._digest.update(values.tobytes())
        for name in self._texts:
            self._append(name, np.array([of_picture[name] for of_picture in texts], object))
        self._append("offsets", ends)
        self._rows.clear()

    def _append(self, name: str, values: NDArray[Any]) -> None:
        if not len(values):
            return
        column = self._columns[name]
        column.resize(len(column) + len(values), axis=0)
        column[-len(values) :] = values
