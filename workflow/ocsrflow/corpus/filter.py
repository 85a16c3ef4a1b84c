"""Stage ``filter``: keep the readable lines of a source that are short enough, and count the others by reason."""

import csv
import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..runtime.csv_tables import write_csv
from ..runtime.errors import UserError
from ..runtime.files import read_json, sha256, whole, write_json
from ..runtime.progress import progress
from .cid_smiles import Lines, Odd, Source, unusable
from .picture_folder import PictureFolder

SCHEMA = pa.schema([("cid", pa.int64()), ("length", pa.uint16()), ("smiles", pa.string()), ("file", pa.string())])
# Plain texts are written and read fastest; CIDs in their order take next to no room as differences.
LAYOUT = {
    "compression": "zstd",
    "use_dictionary": ["length", "file"],
    "column_encoding": {"cid": "DELTA_BINARY_PACKED", "smiles": "PLAIN"},
}
BITMAP = 1 << 31  # CIDs below have a bit each, 256 MB at most (PubChem's: 25 MB)
REJECTS = ("reason", "count", "dropped", "first_line", "example")
EXAMPLE = 60  # characters of an example line in the table of rejects


class Rejects:
    """Lines counted by reason, with the first one of each as an example."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.first: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, number: int, line: object, count: int = 1) -> None:
        """Count ``count`` lines under ``reason``, the first of them being line ``number``."""
        self.count[reason] += count
        if reason not in self.first:
            shown = line.decode("utf-8", "backslashreplace") if isinstance(line, bytes) else str(line)
            self.first[reason] = (number, shown[:EXAMPLE])

    def add_lines(self, reason: str, rejected: NDArray[np.bool_], base: int, lines: Lines) -> None:
        """Count those usable lines of a block that are ``rejected``; ``base`` lines came before the block."""
        if count := int(rejected.sum()):
            at = int(np.argmax(rejected))
            line = f"CID {lines.cids[at]}, {lines.lengths[at]} characters"
            self.add(reason, base + int(lines.numbers[at]) + 1, line, count)

    def table(self, kept_anyway: tuple[str, ...] = ()) -> list[tuple[object, ...]]:
        """Rows of reason, count, dropped, first_line, example."""
        return [(name, n, name not in kept_anyway, *self.first[name]) for name, n in sorted(self.count.items())]


class Seen:
    """The CIDs met so far: a bitmap below 2³¹, above it sorted runs of eight bytes a CID."""

    def __init__(self) -> None:
        self.bitmap = BITMAP
        self.bits = np.zeros(1 << 16, np.uint8)
        self.runs: list[NDArray[np.int64]] = []  # each more than twice as long as the next

    def add(self, cids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some CIDs are new, shape (n,) bool: the first of equal ones is; all are known from now on."""
        new = np.ones(len(cids), bool)
        if (cids[1:] <= cids[:-1]).any():
            new[:] = False
            new[np.unique(cids, return_index=True)[1]] = True
        small = cids < self.bitmap
        if small.all():
            return new & self._add_small(cids)
        new[small] &= self._add_small(cids[small])
        large = np.flatnonzero(~small & new)
        new[large] = self._add_large(cids[large])
        return new

    def _add_small(self, cids: NDArray[np.int64]) -> NDArray[np.bool_]:
        byte, bit = cids >> 3, np.left_shift(1, cids & 7).astype(np.uint8)
        if len(cids) and (needed := int(byte.max()) + 1) > len(self.bits):
            size = min(max(needed, 2 * len(self.bits)), max(needed, self.bitmap >> 3))
            larger = np.zeros(size, np.uint8)
            larger[: len(self.bits)] = self.bits
            self.bits = larger
        new: NDArray[np.bool_] = (self.bits[byte] & bit) == 0
        np.bitwise_or.at(self.bits, byte, bit)
        return new

    def _add_large(self, cids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """As ``add``, for CIDs that differ from each other."""
        new = np.ones(len(cids), bool)
        for run in self.runs:
            at = np.minimum(np.searchsorted(run, cids), len(run) - 1)
            new &= run[at] != cids
        self.runs.append(np.sort(cids[new]))
        while len(self.runs) > 1 and len(self.runs[-2]) <= 2 * len(self.runs[-1]):
            merged = np.concatenate([self.runs.pop(), self.runs.pop()])
            merged.sort(kind="stable")  # finds the two runs
            self.runs.append(merged)
        self.runs = [run for run in self.runs if len(run)]
        return new


class Writer:
    """A Parquet file that is compressed and written by a thread of its own, a few blocks behind."""

    BEHIND = 2  # blocks

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, **LAYOUT)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def write(self, table: pa.Table) -> None:
        """Hand over some rows; raises what went wrong with earlier ones."""
        self._waiting.append(self._thread.submit(self._file.write_table, table))
        while len(self._waiting) > self.BEHIND:
            self._waiting.popleft().result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        try:
            while self._waiting and kind is None:
                self._waiting.popleft().result()
        finally:
            self._file.close()


def filter_corpus(
    source: Path,
    *,
    form: Literal["cid-smiles", "pictures"] = "cid-smiles",
    max_length: int,
    kept: Path,
    lengths: Path,
    rejects: Path,
    record: Path | None = None,
    pictures: Path | None = None,
    file_column: str = "file_name",
    smiles_column: str = "SMILES",
    threads: int = 2,
) -> None:
    """Keep the lines of a source whose SMILES has at most ``max_length`` characters.

    One pass, a block at a time: memory does not grow with the source (but for 8 bytes for each CID from 2³¹ on).

    Parameters
    ----------
    source
        CID<TAB>SMILES lines (plain or gzip-compressed), or a CSV of supplied pictures.
    form
        Which of the two it is.
    max_length
        Longest SMILES kept, in characters.
    kept
        Parquet file for what is kept: cid (int64), length (characters), smiles, file (picture's name, null for drawn
        ones).
    lengths
        CSV for the histogram of all lengths: length, count.
    rejects
        CSV for what was not kept, or kept with a mend: reason, count, dropped, first_line, example.
    record
        JSON file that remembers which file the source was, so that the next run can say that it has changed.
    pictures
        Folder or zip of the supplied pictures.
    file_column, smiles_column
        Columns of the CSV of supplied pictures. A hash of the file's name serves as CID.
    threads
        Threads that scan ahead.

    Raises
    ------
    UserError
        For an unreadable or truncated source, a missing column, or a picture that is not there.
    """
    rejected = Rejects()
    histogram: Counter[int] = Counter()
    reader = Source(source)
    n_lines = n_kept = 0
    seen = Seen()
    with whole(kept) as part, Writer(part) as writer:
        if form == "pictures":
            blocks = _picture_blocks(source, pictures, file_column, smiles_column, max_length)
        else:
            blocks = ((block, None) for block in _watched(reader, max_length, threads))
        for block, files in blocks:
            for reason, odd in block.odd.items():
                rejected.add(reason, n_lines + odd.first + 1, odd.line, odd.times)
            new = seen.add(block.cids)
            rejected.add_lines("duplicate_cid", ~new, n_lines, block)
            rejected.add_lines("too_long", new & ~block.short, n_lines, block)
            counts = np.bincount(block.lengths[new])
            for length in np.flatnonzero(counts).tolist():
                histogram[length] += int(counts[length])
            lengths_kept = block.lengths[block.short].astype(np.uint16)
            names = pa.nulls(len(block.smiles), pa.string()) if files is None else files
            table = pa.table([block.cids[block.short], lengths_kept, block.smiles, names], schema=SCHEMA)
            if not (new_short := new[block.short]).all():
                table = table.filter(pa.array(new_short))
            writer.write(table)
            n_kept += len(table)
            n_lines += block.total
        if not n_kept:
            reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.count.items())
            raise UserError(
                f"{source}: no usable line ({reasons or 'the file is empty'}); a line is CID<TAB>SMILES, "
                f"with a SMILES of at most {max_length} characters"
            )
    write_csv(lengths, ("length", "count"), sorted(histogram.items()))
    write_csv(rejects, REJECTS, rejected.table(kept_anyway=("crlf",)))
    if record is not None:
        digest = reader.sha256 if reader.read else sha256(source)
        remember(record, {"sha256": digest, "bytes": source.stat().st_size, "lines": n_lines, "kept": n_kept}, source)
    dropped = sum(rejected.count.values()) - rejected.count["crlf"]
    print(f"{source.name}: {n_kept} molecules kept, {dropped} lines rejected")


def _watched(reader: Source, max_length: int, threads: int) -> Iterator[Lines]:
    """The blocks of a file, with progress by its bytes."""
    size = reader.path.stat().st_size
    with progress(total=size, what=f"filtering {reader.path.name}", unit="B") as bar:
        for block in reader.lines(max_length, threads):
            bar.update(reader.read - bar.n)
            yield block


def remember(record: Path, now: dict[str, object], source: Path) -> None:
    """Note which file a source was, and say so where it is another one than last time."""
    try:
        last = read_json(record)
    except (OSError, ValueError):
        last = {}
    if last.get("sha256", now["sha256"]) != now["sha256"]:
        print(
            f"{source}: the source has changed since {last['date']}: {last['lines']} lines then, {now['lines']} now "
            f"(SHA-256 {last['sha256'][:12]} then, {str(now['sha256'])[:12]} now); what was drawn from it is made again"
        )
    write_json(record, now | {"date": datetime.now(UTC).isoformat(timespec="seconds")}, recorded=False)  # a note


def _picture_blocks(
    source: Path, pictures: Path | None, file_column: str, smiles_column: str, max_length: int
) -> Iterable[tuple[Lines, pa.Array]]:
    """The CSV of supplied pictures as one block, after a look whether every picture is there."""
    if pictures is None:
        raise UserError("supplied pictures need --pictures: the folder or zip archive that holds them")
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in (file_column, smiles_column):
                if column not in (reader.fieldnames or []):
                    raise UserError(
                        f"{source}: no column {column!r} in the header "
                        f"({', '.join(' '.join(name.split()) for name in reader.fieldnames or [])}); "
                        "name it in the source's settings"
                    )
            rows = [(row[file_column] or "", (row[smiles_column] or "").strip()) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"{source}, line {reader.line_num}: not a CSV file ({error})") from None
    available = PictureFolder(pictures).names()
    missing = [(n, name) for n, (name, _) in enumerate(rows, 2) if name not in available]
    if missing:
        n, name = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{source}, line {n}: no picture {name!r} in {pictures}{more}; add it or drop the row")
    reasons = [unusable(smiles.encode("utf-8")) for _, smiles in rows]
    odd: dict[str, Odd] = {}
    for n, (reason, (name, smiles)) in enumerate(zip(reasons, rows, strict=True), 1):  # line 0 is the header
        if reason:
            first = odd.get(reason, Odd(0, n, f"{name},{smiles}".encode()))
            odd[reason] = first._replace(times=first.times + 1)
    used = [n for n, reason in enumerate(reasons) if not reason]
    # By its name, so that the order of the rows does not matter to what is drawn from them.
    cids = [int.from_bytes(hashlib.blake2b(rows[n][0].encode(), digest_size=6).digest(), "big") for n in used]
    lengths = np.array([len(rows[n][1]) for n in used], np.int64)
    short = lengths <= max_length
    kept = [rows[n] for n, keep in zip(used, short.tolist(), strict=True) if keep]
    names, texts = (pa.array([row[column] for row in kept], pa.string()) for column in (0, 1))
    cids_of_rows, numbers = np.array(cids, np.int64), np.array(used, np.int64) + 1
    return [(Lines(cids_of_rows, lengths, numbers, short, texts, odd, len(rows) + 1), names)]
