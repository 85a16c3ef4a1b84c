"""CID<TAB>SMILES lines, read in blocks: NumPy takes the regular lines of a block at once, the others are judged singly.

A regular line has one tab, digits before it, and printable ASCII without a space behind it. Whatever else a line may
be, :func:`judge` is the one place that decides it, so that the fast way only ever leaves work out, never decides.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from isal import igzip_lib, igzip_threaded
from numpy.typing import NDArray

from ..runtime.errors import UserError

BLOCK = 1 << 22  # bytes scanned at a time; a larger one is no faster
LONGEST = 1 << 20  # bytes of a line; nothing longer is held in memory
MAX_CID = (1 << 63) - 1
DIGITS = 18  # of a CID that fits into an int64 whatever they are
SHOWN = 200  # bytes of a line that is not used, kept as an example
TAB, RETURN, NEWLINE = b"\t\r\n"


class Odd(NamedTuple):
    """Irregular lines of a block."""

    times: int
    first: int  # which line of the block the first one is
    line: bytes  # its beginning


class Lines(NamedTuple):
    """The usable lines of a block, in order, and what became of the irregular ones."""

    cids: NDArray[np.int64]
    lengths: NDArray[np.int64]  # of the SMILES, in characters
    numbers: NDArray[np.int64]  # which line of the block each is, from 0
    short: NDArray[np.bool_]  # whether the length is wanted
    smiles: pa.StringArray  # of the short ones
    odd: dict[str, "Odd"]  # the irregular lines by reason; those under "crlf" were used all the same
    total: int  # lines in the block


class Verdict(NamedTuple):
    """What :func:`judge` makes of a line."""

    reason: str | None  # why it is not used, or how it was mended; None for a usable line
    cid: int = -1
    begin: int = 0  # the SMILES is line[begin:stop]; nothing where the line is not used
    stop: int = 0


def judge(line: bytes) -> Verdict:
    """Decide about one line, given without its newline."""
    if len(line) > LONGEST:
        return Verdict("endless_line")
    text = line.removesuffix(b"\r")
    cid, tab, smiles = text.partition(b"\t")
    if not tab:
        return Verdict("no_tab" if text else "empty_line")
    if not cid.isdigit() or len(cid) > len(str(MAX_CID)) or int(cid) > MAX_CID:
        return Verdict("bad_cid")
    if reason := unusable(smiles):
        return Verdict(reason)
    return Verdict("crlf" if text != line else None, int(cid), len(cid) + 1, len(text))


def unusable(smiles: bytes) -> str | None:
    """Why a text can be no SMILES, whatever it says; None where it may be one."""
    if not smiles or smiles.isspace():
        return "empty_smiles"
    if not smiles.isascii():
        return "not_ascii"
    if any(byte <= 32 for byte in smiles):
        return "white_space"
    return "control_character" if b"\x7f" in smiles else None


def scan(block: bytes, max_length: int) -> Lines:
    """Take a block of whole lines apart.

    Parameters
    ----------
    block
        Lines, each with its newline.
    max_length
        Longest SMILES of which the text is wanted, in characters.
    """
    data = np.frombuffer(block, np.uint8)
    # ``special`` has where the bytes are that are not printable ASCII. A regular line has two of them, its tab and its
    # newline, or three if it ends with \r\n. For "7\tCCO\n8\tC\n" it is [1, 5, 7, 9], of which ``newline`` has
    # the 1st and the 3rd (from 0), ``ends`` is [5, 9], ``starts`` [0, 6] and ``n_special`` [2, 2].
    special = np.flatnonzero((data - np.uint8(33)) > 126 - 33)  # bytes below 33 wrap round to large ones
    kinds = data[special]
    newline = np.flatnonzero(kinds == NEWLINE)
    ends = special[newline]
    starts = np.concatenate([[0], ends[:-1] + 1])
    n_special = np.diff(newline, prepend=-1)
    one_before, two_before = np.maximum(newline - 1, 0), np.maximum(newline - 2, 0)  # in ``special``
    crlf = (n_special == 3) & (kinds[one_before] == RETURN) & (special[one_before] == ends - 1)
    tab = np.where(crlf, two_before, one_before)
    regular = ((n_special == 2) | crlf) & (kinds[tab] == TAB)
    # A line is data[start:tab], the CID, and data[tab + 1:stop], the SMILES.
    tabs, stops = np.where(regular, special[tab], starts), ends - crlf
    width = tabs - starts
    regular &= (width > 0) & (width <= DIGITS) & (stops - tabs > 1) & (ends - starts <= LONGEST)
    width[~regular] = 0
    # All CIDs at once, digit after digit from the last one.
    cids = np.zeros(len(ends), np.int64)
    for k in range(int(width.max())):
        digit = data.take(tabs - (k + 1), mode="clip") - np.uint8(ord("0"))
        digit[width <= k] = 0
        regular &= digit <= 9
        cids += digit * np.int64(10**k)
    begins = tabs + 1
    odd: dict[str, Odd] = {}

    def count(reason: str, at: int, times: int = 1) -> None:
        before = odd.get(reason)
        if before and before.first < at:
            odd[reason] = before._replace(times=before.times + times)
        else:
            line = block[starts[at] : min(ends[at], starts[at] + SHOWN)]
            odd[reason] = Odd(times + (before.times if before else 0), at, line)

    # The commonest kinds of irregular lines are counted together; all others are judged one by one.
    for reason, found in (("crlf", regular & crlf), ("empty_line", ends == starts)):
        if times := int(found.sum()):
            count(reason, int(np.argmax(found)), times)
    for at in np.flatnonzero(~regular & (ends > starts)).tolist():
        verdict = judge(block[starts[at] : ends[at]])
        if verdict.stop:
            regular[at] = True
            cids[at], begins[at], stops[at] = verdict.cid, starts[at] + verdict.begin, starts[at] + verdict.stop
        if verdict.reason:
            count(verdict.reason, at)
    used = np.flatnonzero(regular)
    begins, stops = begins[used], stops[used]
    lengths = stops - begins
    short = lengths <= max_length
    smiles = _slices(data, begins[short], stops[short])
    return Lines(cids[used], lengths, used, short, smiles, odd, len(ends))


def _slices(data: NDArray[np.uint8], begins: NDArray[np.int64], stops: NDArray[np.int64]) -> pa.StringArray:
    """The texts ``data[begin:stop]`` as one Arrow array: every other one of those between all begins and stops."""
    bounds = np.empty(2 * len(begins) + 1, np.int32)
    bounds[0:-1:2], bounds[1::2], bounds[-1] = begins, stops, len(data)
    pieces = pa.StringArray.from_buffers(2 * len(begins), pa.py_buffer(bounds), pa.py_buffer(data))
    return pieces.take(pa.array(np.arange(0, 2 * len(begins), 2)))


class Source:
    """A file of lines, plain or gzip-compressed; afterwards, its size and SHA-256 as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0  # bytes read so far, as they are in the file
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the bytes read so far."""
        return self._hash.hexdigest()

    def lines(self, max_length: int, workers: int) -> Iterator[Lines]:
        """All blocks, as :func:`scan` gives them, in order; ``workers`` threads scan ahead while they are used.

        Raises
        ------
        UserError
            Where the file is damaged, or changes while it is read.
        """
        with open(self.path, "rb", buffering=0) as raw, ThreadPoolExecutor(workers) as pool:
            before = os.stat(raw.fileno())
            waiting: deque[Future[Lines]] = deque()
            for block in self._blocks(raw):
                waiting.append(pool.submit(scan, block, max_length))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            after = os.stat(raw.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise UserError(f"{self.path}: it was written to while it was read; wait for it and run again")

    def _blocks(self, raw: BinaryIO | io.FileIO) -> Iterator[bytes]:
        """Whole lines, about ``BLOCK`` bytes at a time."""
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if self.path.suffix == ".gz" and not packed and os.stat(raw.fileno()).st_size:
            raise UserError(f"{self.path}: not a gzip file, whatever its name says; fetch it again or rename it")
        counted = _Counted(raw, self)
        carry = b""
        try:
            # Inflating has a thread of its own, in which the GIL is free.
            opened = (
                igzip_threaded.open(counted, "rb", threads=1) if packed else io.BufferedReader(counted, BLOCK)  # type: ignore[type-var]
            )
            with opened as file:
                while data := file.read(BLOCK):
                    cut = data.rfind(b"\n") + 1
                    if cut:
                        yield carry + data[:cut]
                        carry = data[cut:]
                    else:
                        carry = (carry + data)[: LONGEST + 1]
        except (EOFError, zlib.error, igzip_lib.error, gzip.BadGzipFile) as error:  # type: ignore[misc]
            raise UserError(
                f"{self.path}: the gzip file is damaged or cut off, or something else follows it ({error}); "
                "fetch it again or give a whole copy"
            ) from None
        if carry:
            yield carry + b"\n"


class _Counted(io.RawIOBase):
    """A file that tells its source what was read from it."""

    def __init__(self, raw: BinaryIO | io.FileIO, source: Source) -> None:
        self.raw, self.source = raw, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = self.raw.readinto(buffer) or 0  # type: ignore[union-attr]
        self.source.read += count
        self.source._hash.update(memoryview(buffer)[:count])
        return count
