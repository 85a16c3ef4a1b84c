"""The column ``images`` of the HDF5 files of pictures, in shards and packed data sets alike.

It is (pictures, channels, size, size) uint8: one chunk a picture, a zstd frame behind which HDF5's Fletcher-32
checksum stands, so that damaged bytes are found by whoever reads them. Channels come first since most pixels are grey:
the second and the third then are copies of the first, which takes 40 % less room than pixel by pixel. ``h5py`` with
``hdf5plugin`` opens the files without this module; here the chunks are written and read directly, past HDF5's filter
pipeline, which is many times faster at random.
"""

import struct

import h5py
import hdf5plugin
import numpy as np
import zstandard

from ..config.depiction import Depiction
from ..depiction.plain import Picture

LEVEL = 3  # of zstd: higher ones take several times longer for a few per cent
DESCENDING = np.arange(1 << 17, 0, -1, dtype=np.float64)  # weights of a checksum's words


def create(file: h5py.File, pictures: int, depiction: Depiction) -> h5py.Dataset:
    """Make the empty ``images`` of a file that is open for writing."""
    shape = (depiction.channels, depiction.size, depiction.size)
    file.attrs["depiction"] = depiction.model_dump_json()
    return file.create_dataset(
        "images",
        (pictures, *shape),
        np.uint8,
        chunks=(1, *shape),
        maxshape=(None, *shape),
        fletcher32=True,
        **hdf5plugin.Zstd(clevel=LEVEL),
    )


class Compressor:
    """Makes the chunks of ``images``."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)

    def chunk(self, picture: Picture) -> bytes:
        """The chunk of a picture, (size, size, channels) uint8: a zstd frame and its checksum."""
        frame = self._zstd.compress(np.ascontiguousarray(picture.transpose(2, 0, 1)).data)
        return frame + struct.pack("<I", fletcher32(frame))


def fletcher32(data: bytes | memoryview) -> int:
    """HDF5's Fletcher-32 checksum of some bytes (H5checksum.c: big-endian words, sums modulo 65535, never 0).

    The sums are exact in double precision up to some hundred thousand words, and BLAS is fast at them; what is longer
    is summed as whole numbers.
    """
    even = len(data) & ~1
    exact = even <= 2 * len(DESCENDING)
    words = np.frombuffer(data[:even], ">u2").astype(np.float64 if exact else np.int64)
    if len(data) > even:
        words = np.append(words, words.dtype.type(data[even] << 8))
    count = len(words)
    weights = DESCENDING[len(DESCENDING) - count :] if exact and count <= len(DESCENDING) else np.arange(count, 0, -1)
    low, high = (value % 65535 or (65535 if value else 0) for value in (int(words.sum()), int(words @ weights)))
    return high << 16 | low


def write_chunk(images: h5py.Dataset, at: int, chunk: bytes) -> None:
    """Write picture ``at`` from its chunk."""
    images.id.write_direct_chunk((at, 0, 0, 0), chunk)


def read_chunk(images: h5py.Dataset, at: int) -> bytes:
    """The chunk of picture ``at``."""
    chunk: bytes = images.id.read_direct_chunk((at, 0, 0, 0))[1]
    return chunk


def expect_chunks(images: h5py.Dataset) -> None:
    """Look that there is a chunk for each picture.

    Raises
    ------
    ValueError
        Where there is not.
    """
    if images.chunks != (1, *images.shape[1:]) or images.id.get_num_chunks() != len(images):
        raise ValueError("not a chunk for each picture")


def frame_of(chunk: bytes) -> memoryview:
    """The zstd frame of a chunk.

    Raises
    ------
    ValueError
        Where the checksum is another one.
    """
    frame = memoryview(chunk)[:-4]
    if len(chunk) < 4 or struct.unpack("<I", chunk[-4:])[0] != fletcher32(frame):
        raise ValueError("its checksum does not fit")
    return frame
