"""``make verify``: whether every finished file of a run is still what it was when it was made."""

import os
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from .cli import run
from .errors import UserError
from .files import HASHES, sha256
from .progress import progress
from .status import command_of

THREADS = 8  # hashing lets other threads run
SHOWN = 20  # files of a kind that are named
NOTES = {"source.json"}  # what a stage leaves for its next time


class Finding(NamedTuple):
    """What became of a file."""

    path: Path  # below the results
    state: Literal["as made", "damaged", "missing", "no record"]
    size: int  # bytes


def verify(results: Path = Path("results"), /) -> None:
    """Compare each finished file of a run with the SHA-256 that was written down when it was made.

    Parameters
    ----------
    results
        Folder of results.

    Raises
    ------
    UserError
        Where a file has changed or is missing; the commands that make it again are printed before.
    """
    records = sorted((results / HASHES).rglob("*.sha256"))
    if not records:
        raise UserError(f"{results}: nothing is written down in {results / HASHES}: no run has finished a file here")
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        checked = threads.map(lambda record: check(results, record), records)
        found = list(progress(checked, total=len(records), what="verifying", unit="files"))
    found += [Finding(path, "no record", 0) for path in unrecorded(results, {finding.path for finding in found})]
    by_state: dict[str, list[Finding]] = {}
    for finding in found:
        by_state.setdefault(finding.state, []).append(finding)
    for state in ("damaged", "missing", "no record"):
        for line in shown(results, state, by_state.get(state, [])):
            print(line)
    good = by_state.get("as made", [])
    print(f"{len(good)} files are as they were made ({sum(finding.size for finding in good) / 1e6:,.1f} MB)")
    bad = [*by_state.get("damaged", []), *by_state.get("missing", [])]
    if bad:
        print("\n".join(["", "To make them and what follows from them again:", *mending(results, bad)]))
        raise UserError(f"{results}: {len(bad)} of {len(records)} files are not as they were made: see above")


def check(results: Path, record: Path) -> Finding:
    """Compare a file with its record, in which nothing else than the file's name and its SHA-256 stands."""
    path = record.relative_to(results / HASHES).with_suffix("")
    try:
        size, digest = (results / path).stat().st_size, sha256(results / path)
    except FileNotFoundError:
        return Finding(path, "missing", 0)
    except OSError:  # the disk cannot read it
        return Finding(path, "damaged", 0)
    same = record.read_bytes() == f"{digest}  {path.as_posix()}\n".encode()
    return Finding(path, "as made" if same else "damaged", size)


def unrecorded(results: Path, recorded: set[Path]) -> Iterator[Path]:
    """Files in the folders of finished ones that nothing is written down of, such as those of an older version."""
    for folder in sorted({path.parent for path in recorded} - {Path()}):
        for path in sorted((results / folder).glob("*")):
            passing = {".part", ".arrived", ".partial"} & set(path.suffixes)
            if path.is_file() and not passing and path.name not in NOTES and path.relative_to(results) not in recorded:
                yield path.relative_to(results)


def shown(results: Path, state: str, found: list[Finding]) -> Iterator[str]:
    """Lines that name files."""
    for finding in found[:SHOWN]:
        yield f"{state}: {results / finding.path}"
    if len(found) > SHOWN:
        yield f"{state}: {len(found) - SHOWN} more"


def mending(results: Path, bad: Iterable[Finding]) -> Iterator[str]:
    """Commands that make files again: Snakemake's for its outputs; pictures are drawn where their file is gone."""
    stored: list[Path] = []
    outputs: list[Path] = []
    for finding in bad:
        (stored if finding.path.match("corpus/*/pictures/*/*.h5") else outputs).append(results / finding.path)
    outputs += [index for index in indices(results) if any(points_to(index, path) for path in stored)]
    if stored:
        yield f"rm -f {_words(stored)}"
    if outputs:
        yield f"{command_of(results)} --forcerun {_words(outputs)}"


def _words(paths: Iterable[Path]) -> str:
    return shlex.join(str(path) for path in dict.fromkeys(paths))


def indices(results: Path) -> list[Path]:
    """The stage ``render``'s files that say where pictures are."""
    return sorted((results / "datasets").glob("*/shards/*.parquet"))


def points_to(index: Path, stored: Path) -> bool:
    """Whether an index has pictures in a file of the store; a damaged index is made again anyway."""
    try:
        names = pq.read_table(index, columns=["file"])["file"].unique().to_pylist()
    except (pa.ArrowException, OSError):
        return False
    return f"{stored.parent.name}/{stored.name}" in names


if __name__ == "__main__":
    run(verify)
