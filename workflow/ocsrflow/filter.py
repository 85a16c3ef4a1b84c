"""Stage ``filter``: keep the readable lines of a source that are short enough, and count the others by reason."""

import csv
import gzip
import hashlib
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip_lib, igzip_threaded

from .cli import run
from .errors import UserError
from .files import whole
from .picture_folder import PictureFolder
from .progress import progress

SCHEMA = pa.schema([("cid", pa.int64()), ("smiles", pa.string()), ("file", pa.string())])
ROWS = 1 << 17  # rows of a Parquet row group, and of what is held in memory
MAX_CID = (1 << 63) - 1
EXAMPLE = 60  # characters of an example line in the table of rejects

Row = tuple[int, str, str | None]


class Rejects:
    """Lines counted by reason, with the first one of each as an example."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.first: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, number: int, line: object) -> None:
        """Count line ``number`` under ``reason``."""
        self.count[reason] += 1
        if reason not in self.first:
            shown = line.decode("utf-8", "backslashreplace") if isinstance(line, bytes) else str(line)
            self.first[reason] = (number, shown[:EXAMPLE])

    def table(self, kept_anyway: tuple[str, ...] = ()) -> pd.DataFrame:
        """Columns: reason, count, dropped, first_line, example."""
        rows = [
            (reason, count, reason not in kept_anyway, *self.first[reason])
            for reason, count in sorted(self.count.items())
        ]
        return pd.DataFrame(rows, columns=["reason", "count", "dropped", "first_line", "example"])


class Seen:
    """The CIDs met so far: a bitmap up to 2³¹ (PubChem's CIDs take 25 MB), a set above."""

    def __init__(self) -> None:
        self.bits = bytearray(1 << 16)
        self.large: set[int] = set()

    def add(self, cid: int) -> bool:
        """Whether ``cid`` is new; it is known from now on."""
        if cid >> 31:
            new = cid not in self.large
            self.large.add(cid)
            return new
        byte, bit = cid >> 3, 1 << (cid & 7)
        if byte >= len(self.bits):
            self.bits.extend(bytes(max(byte + 1 - len(self.bits), len(self.bits))))
        if self.bits[byte] & bit:
            return False
        self.bits[byte] |= bit
        return True


def filter_corpus(
    source: Path,
    *,
    form: Literal["cid-smiles", "pictures"] = "cid-smiles",
    max_length: int,
    kept: Path,
    lengths: Path,
    rejects: Path,
    pictures: Path | None = None,
    file_column: str = "file_name",
    smiles_column: str = "SMILES",
) -> None:
    """Keep the lines of a source whose SMILES has at most ``max_length`` characters.

    Parameters
    ----------
    source
        CID<TAB>SMILES lines (plain or .gz), or a CSV of supplied pictures.
    form
        Which of the two it is.
    max_length
        Longest SMILES kept, in characters.
    kept
        Parquet file for what is kept: cid (int64), smiles, file (picture's name, null for drawn ones).
    lengths
        CSV for the histogram of all lengths: length, count.
    rejects
        CSV for what was not kept, or kept with a mend: reason, count, dropped, first_line, example.
    pictures
        Folder or zip of the supplied pictures.
    file_column, smiles_column
        Columns of the CSV of supplied pictures. A hash of the file's name serves as CID.

    Raises
    ------
    UserError
        For an unreadable or truncated source, a missing column, or a picture that is not there.
    """
    rejected = Rejects()
    histogram = array("q", bytes(8 * (max_length + 1)))
    longer: Counter[int] = Counter()
    if form == "pictures":
        rows = _picture_rows(source, pictures, file_column, smiles_column, rejected)
    else:
        rows = _lines(source, rejected)
    seen = Seen()
    n_kept = 0
    with whole(kept) as part, pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
        batch: list[Row] = []
        for number, (cid, smiles, file) in progress(rows, what=f"filtering {source.name}", unit="lines"):
            length = len(smiles)
            if not seen.add(cid):
                rejected.add("duplicate_cid", number, f"{cid}\t{smiles}")
                continue
            if length > max_length:
                longer[length] += 1
                rejected.add("too_long", number, f"{cid}\t{smiles}")
                continue
            histogram[length] += 1
            batch.append((cid, smiles, file))
            if len(batch) >= ROWS:
                writer.write_table(_table(batch))
                n_kept += len(batch)
                batch.clear()
        if batch:
            writer.write_table(_table(batch))
            n_kept += len(batch)
        if not n_kept:
            reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.count.items())
            raise UserError(
                f"{source}: no usable line ({reasons or 'the file is empty'}); a line is CID<TAB>SMILES, "
                f"with a SMILES of at most {max_length} characters"
            )
    counts = {n: c for n, c in enumerate(histogram) if c} | dict(sorted(longer.items()))
    with whole(lengths) as part:
        pd.DataFrame(counts.items(), columns=["length", "count"]).to_csv(part, index=False)
    with whole(rejects) as part:
        rejected.table(kept_anyway=("crlf",)).to_csv(part, index=False)
    dropped = sum(rejected.count.values()) - rejected.count["crlf"]
    print(f"{source.name}: {n_kept} molecules kept, {dropped} lines rejected")


def _table(batch: list[Row]) -> pa.Table:
    cids, smiles, files = zip(*batch, strict=True)
    return pa.table([cids, smiles, files], schema=SCHEMA)


def _lines(source: Path, rejected: Rejects) -> Iterator[tuple[int, Row]]:
    """Numbered rows of a CID<TAB>SMILES file; unreadable lines go to ``rejected``."""
    packed = source.suffix == ".gz"
    try:
        with igzip_threaded.open(source, "rb", threads=1) if packed else open(source, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.rstrip(b"\n")
                if line.endswith(b"\r"):
                    rejected.add("crlf", number, line)
                    line = line[:-1]
                cid, tab, smiles = line.partition(b"\t")
                if not tab:
                    rejected.add("no_tab" if line else "empty_line", number, line)
                elif not cid.isdigit() or len(cid) > len(str(MAX_CID)) or int(cid) > MAX_CID:
                    rejected.add("bad_cid", number, line)
                elif reason := _unusable(smiles):
                    rejected.add(reason, number, line)
                else:
                    yield number, (int(cid), smiles.decode("ascii"), None)
    except (EOFError, zlib.error, igzip_lib.error, gzip.BadGzipFile) as error:  # type: ignore[misc]
        raise UserError(
            f"{source}: the gzip file is damaged or cut off ({error}); fetch it again or give a whole copy"
        ) from None


def _unusable(smiles: bytes) -> str | None:
    """Why a text can be no SMILES, whatever it says; None where it may be one."""
    if not smiles or smiles.isspace():
        return "empty_smiles"
    if not smiles.isascii():
        return "not_ascii"
    if len(smiles.split()) > 1 or smiles[-1:].isspace() or smiles[:1].isspace():
        return "white_space"
    return None


def _picture_rows(
    source: Path, pictures: Path | None, file_column: str, smiles_column: str, rejected: Rejects
) -> Iterator[tuple[int, Row]]:
    """Numbered rows of the CSV of supplied pictures, after a look whether every picture is there."""
    if pictures is None:
        raise UserError("supplied pictures need --pictures: the folder or zip archive that holds them")
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in (file_column, smiles_column):
                if column not in (reader.fieldnames or []):
                    raise UserError(
                        f"{source}: no column {column!r} in the header "
                        f"({', '.join(reader.fieldnames or [])}); name it in the source's settings"
                    )
            rows = [(row[file_column] or "", (row[smiles_column] or "").strip()) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    there = PictureFolder(pictures).names()
    missing = [(n, name) for n, (name, _) in enumerate(rows, 2) if name not in there]
    if missing:
        n, name = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{source}, line {n}: no picture {name!r} in {pictures}{more}; add it or drop the row")
    for number, (name, smiles) in enumerate(rows, 1):
        if reason := _unusable(smiles.encode("utf-8")):
            rejected.add(reason, number, f"{name},{smiles}")
        else:
            # By its name, so that the order of the rows does not matter to what is drawn from them.
            cid = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")
            yield number, (cid, smiles, name)


if __name__ == "__main__":
    run(filter_corpus)
