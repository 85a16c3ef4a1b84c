"""``make verify``: whether every finished file of a run is still what it was when it was made."""

import os
import shlex
import sys
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
from .status import planned_jobs

THREADS = 8  # hashing lets other threads run
SHOWN = 20  # files of a kind that are named
NOTES = {"source.json"}  # what a stage leaves for its next time


class Finding(NamedTuple):
    """What became of a file."""

    path: Path  # below the results
    state: Literal["as made", "damaged", "missing", "cannot be read", "no record"]
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
    if any(Path(".snakemake/locks").glob("*")):
        print("A run is on here, or was killed: files that it is making are told as missing.")
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
    for state in ("damaged", "missing", "cannot be read", "no record"):
        for line in shown(results, state, by_state.get(state, [])):
            print(line)
    good = by_state.get("as made", [])
    print(f"{len(good)} files are as they were made ({sum(finding.size for finding in good) / 1e6:,.1f} MB)")
    bad = [*by_state.get("damaged", []), *by_state.get("missing", [])]
    if bad:
        print("\n".join(["", *mending(results, [finding.path for finding in bad])]))
    if count := len(bad) + len(by_state.get("cannot be read", [])):
        raise UserError(f"{results}: {count} of {len(records)} files are not as they were made: see above")


def check(results: Path, record: Path) -> Finding:
    """Compare a file with its record, in which nothing else than the file's name and its SHA-256 stands."""
    path = record.relative_to(results / HASHES).with_suffix("")
    try:
        size, digest = (results / path).stat().st_size, sha256(results / path)
        same = record.read_bytes() == f"{digest}  {path.as_posix()}\n".encode()
    except FileNotFoundError:
        return Finding(path, "missing", 0)
    except OSError:  # of the system: a disk or a network may be back tomorrow
        return Finding(path, "cannot be read", 0)
    return Finding(path, "as made" if same else "damaged", size)


def unrecorded(results: Path, recorded: set[Path]) -> Iterator[Path]:
    """Files in the folders of finished ones that nothing is written down of, such as those of an older version."""
    for folder in sorted({path.parent for path in recorded} - {Path()}):
        for path in sorted((results / folder).glob("*")):
            passing = {".part", ".arrived", ".partial"} & {*path.suffixes} or path.name.startswith(".")
            if path.is_file() and not passing and path.name not in NOTES and path.relative_to(results) not in recorded:
                yield path.relative_to(results)


def shown(results: Path, state: str, found: list[Finding]) -> Iterator[str]:
    """Lines that name files."""
    for finding in found[:SHOWN]:
        yield f"{state}: {results / finding.path}"
    if len(found) > SHOWN:
        yield f"{state}: {len(found) - SHOWN} more"


def mending(results: Path, bad: Iterable[Path]) -> Iterator[str]:
    """What to do about files, given below ``results``, as lines of text and commands."""
    outputs = outputs_of(results)
    again: list[Path] = []
    alone: list[Path] = []
    for path in bad:
        # A figure, say, is made with its folder. Where Snakemake cannot be asked, each counts as an output.
        above = (path, *path.parents)
        made = next((p for p in above if os.path.realpath(results / p) in outputs), None) if outputs else path
        if path.match("corpus/*/pictures/*/*.h5"):
            again += [index for index in indices(results) if points_to(index, path)]
            alone.append(path)
        elif made is None:
            alone.append(path)
        else:
            again.append(results / made)
    if alone:
        yield "No job makes these, or only where they are gone:"
        records = [results / HASHES / f"{path}.sha256" for path in alone]
        yield f"  rm -f {_words([*(results / path for path in alone), *records])}"
    if again:
        yield "To make these and what follows from them again (add your profile, or your --resources):"
        options = f"--cores all --rerun-incomplete --configfile {_words([results / 'experiment.yaml'])}"
        yield f"  snakemake {options} --forcerun {_words(again)}"


def outputs_of(results: Path) -> set[str]:
    """Real paths of all outputs of the experiment; none where Snakemake cannot be asked, as outside of the checkout."""
    if not Path("Snakefile").is_file():
        return set()
    try:
        jobs = planned_jobs(results / "experiment.yaml")
        return {os.path.realpath(output) for job in jobs for output in job.outputs}
    except UserError as error:
        print(error, file=sys.stderr)
        return set()


def _words(paths: Iterable[Path]) -> str:
    return shlex.join(str(path) for path in dict.fromkeys(paths))


def indices(results: Path) -> list[Path]:
    """The stage ``render``'s files that say where pictures are."""
    return sorted((results / "datasets").glob("*/shards/*.parquet"))


def points_to(index: Path, stored: Path) -> bool:
    """Whether an index has pictures in a file of the store; one that is damaged itself is made again anyway."""
    try:
        names = pq.read_table(index, columns=["file"])["file"].unique().to_pylist()
    except (pa.ArrowException, OSError):
        return False
    return f"{stored.parent.name}/{stored.name}" in names


if __name__ == "__main__":
    run(verify)
