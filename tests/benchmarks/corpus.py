"""How fast lines become a sample: filter → sample of this checkout against plain ways of doing the same, in one run.

    python tests/benchmarks/corpus.py [--lines 5e6 20e6] [--rounds 3] [--molecules CID-SMILES.gz]

The lines are generated: running CIDs before the SMILES of real molecules (RDKit's embedded ones, or a given file) over
and over. Every route counts lengths, keeps up to 100 characters and draws, of each length, the 20 molecules of lowest
hash. The plain ones do no more than that, or they write the kept molecules as Parquet too, which ours has to; rejects
by reason and RDKit's canonical SMILES are in ours alone.
"""

import argparse
import gzip
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from isal import igzip_threaded

MAX_LENGTH, PER_LENGTH = 100, 20


def generate(path: Path, lines: int, smiles: list[str]) -> None:
    """Write ``lines`` lines of running CIDs and real SMILES; after the first time, with a noble gas beside each.

    So every line is another molecule.
    """
    many = len(smiles)
    with igzip_threaded.open(path, "wb", threads=1, compresslevel=1) as file:
        for times, start in enumerate(range(0, lines, many)):
            gas = f".[{100 + times % 900}{('Xe', 'Kr', 'Ar', 'Rn', 'Ne')[times // 900]}]" if times else ""
            block = range(start, min(start + many, lines))
            file.write("".join(f"{i + 1}\t{smiles[(i - start) * 7919 % many]}{gas}\n" for i in block).encode())


def embedded() -> list[str]:
    """SMILES of RDKit's embedded molecules."""
    from rdkit import RDConfig

    text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text()
    return [line.split()[0] for line in text.splitlines()]


def gzip_loop(path: Path) -> None:
    """A plain loop over lines; the lowest hashes of each length in a heap."""
    histogram: dict[int, int] = {}
    heaps: dict[int, list[tuple[int, str, str]]] = {}
    whole = 2**64 - 1
    with gzip.open(path, "rt") as file:
        for line in file:
            cid, smiles = line.rstrip("\n").split("\t")
            length = len(smiles)
            histogram[length] = histogram.get(length, 0) + 1
            if length > MAX_LENGTH:
                continue
            z = (int(cid) + 2 * 0x9E3779B97F4A7C15) & whole
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & whole
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB & whole
            z ^= z >> 31
            heap = heaps.setdefault(length, [])
            if len(heap) < PER_LENGTH:
                heapq.heappush(heap, (-z, cid, smiles))
            elif -z > heap[0][0]:
                heapq.heapreplace(heap, (-z, cid, smiles))
    print(sum(map(len, heaps.values())))


def gzip_loop_parquet(path: Path) -> None:
    """The same loop with what the stage filter has to leave behind: no CID twice, the kept molecules as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    histogram: dict[int, int] = {}
    heaps: dict[int, list[tuple[int, str, str]]] = {}
    whole, seen = 2**64 - 1, set()
    schema = pa.schema([("cid", pa.int64()), ("smiles", pa.string())])
    batch: list[tuple[int, str]] = []
    with gzip.open(path, "rt") as file, pq.ParquetWriter(path.with_suffix(".loop"), schema, compression="zstd") as out:
        for line in file:
            text, smiles = line.rstrip("\n").split("\t")
            cid, length = int(text), len(smiles)
            if cid in seen:
                continue
            seen.add(cid)
            histogram[length] = histogram.get(length, 0) + 1
            if length > MAX_LENGTH:
                continue
            batch.append((cid, smiles))
            if len(batch) == 1 << 17:
                out.write_table(pa.table(list(zip(*batch, strict=True)), schema=schema))
                batch.clear()
            z = (cid + 2 * 0x9E3779B97F4A7C15) & whole
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & whole
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB & whole
            z ^= z >> 31
            heap = heaps.setdefault(length, [])
            if len(heap) < PER_LENGTH:
                heapq.heappush(heap, (-z, text, smiles))
            elif -z > heap[0][0]:
                heapq.heapreplace(heap, (-z, text, smiles))
        out.write_table(pa.table(list(zip(*batch, strict=True)), schema=schema))
    print(sum(map(len, heaps.values())))


def pandas_chunks(path: Path, kept: Path | None = None) -> None:
    """read_csv in chunks (its C engine), with the rows of the lowest hashes of each length kept."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from ocsrflow.corpus.hash_sample import hash64

    histogram, best, out = pd.Series(dtype=int), pd.DataFrame(), None
    options = {"sep": "\t", "header": None, "names": ["cid", "smiles"], "quoting": 3, "na_filter": False}
    for chunk in pd.read_csv(path, chunksize=500_000, engine="c", **options):
        chunk["length"] = chunk["smiles"].str.len()
        histogram = histogram.add(chunk["length"].value_counts(), fill_value=0)
        chunk = chunk[chunk["length"] <= MAX_LENGTH]
        if kept:
            table = pa.Table.from_pandas(chunk, preserve_index=False)
            out = out or pq.ParquetWriter(kept, table.schema, compression="zstd")
            out.write_table(table)
        chunk = chunk.assign(hash=hash64(chunk["cid"].to_numpy(), 0))
        best = pd.concat([best, chunk]).sort_values("hash").groupby("length").head(PER_LENGTH)
    if out:
        out.close()
    print(len(best))


def pandas_chunks_parquet(path: Path) -> None:
    """The same with the kept molecules as Parquet, without a look for equal CIDs."""
    pandas_chunks(path, path.with_suffix(".pandas"))


def ours(path: Path, folder: Path) -> list[list[str]]:
    """The commands of this checkout."""
    command = [sys.executable, "-m", "ocsrflow"]
    return [
        [*command, "filter", str(path), "--max-length", str(MAX_LENGTH)]
        + [word for name in ("kept", "lengths", "rejects") for word in (f"--{name}", str(folder / name))],
        [*command, "sample", str(folder / "kept"), "--max-length", str(MAX_LENGTH)]
        + ["--per-length", str(PER_LENGTH), "--processes", "1"]
        + [word for name in ("out", "lengths", "rejects") for word in (f"--{name}", str(folder / f"s-{name}"))],
    ]


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of wall clock and the most MB resident in a command and all its processes together."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        tree = psutil.Process(process.pid)
        while not done.wait(0.02):
            most = max(most, sum(_resident(p) for p in [tree, *_children(tree)]))

    thread = threading.Thread(target=watch)
    thread.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    if process.returncode:
        raise SystemExit(errors)
    return seconds, most / 1e6


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def routes(path: Path, folder: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Names and commands."""
    for name, route in (
        ("plain gzip loop", "gzip_loop"),
        ("plain gzip loop that writes Parquet", "gzip_loop_parquet"),
        ("pandas, chunks", "pandas_chunks"),
        ("pandas, chunks, that writes Parquet", "pandas_chunks_parquet"),
    ):
        yield name, [[sys.executable, __file__, "--route", route, str(path)]]
    filtering, sampling = ours(path, folder)
    yield "ocsrflow: filter → sample", [filtering, sampling]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=float, nargs="+", default=[5e6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--molecules", type=Path, help="CID-SMILES.gz in place of the embedded molecules")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--route", help=argparse.SUPPRESS)
    parser.add_argument("path", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.route:
        globals()[options.route](options.path)
        return
    if options.molecules:
        with gzip.open(options.molecules, "rt") as file:
            smiles = [line.rstrip("\n").split("\t")[1] for line in file]
    else:
        smiles = embedded()
    print("| lines | route | seconds | million lines/s | against the loop | peak MB |\n|---|---|---|---|---|---|")
    for lines in map(int, options.lines):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "CID-SMILES.gz"
            generate(path, lines, smiles)
            found: dict[str, list[tuple[float, float]]] = {}
            for _ in range(options.rounds):
                for name, commands in routes(path, Path(folder)):
                    parts = [measured(command) for command in commands]
                    found.setdefault(name, []).append((sum(s for s, _ in parts), max(mb for _, mb in parts)))
                    if len(parts) > 1:
                        for stage, part in zip(("filter", "sample"), parts, strict=True):
                            found.setdefault(f"– {stage} alone", []).append(part)
        if options.json:
            print(json.dumps(found))
        loop = statistics.median(s for s, _ in found["plain gzip loop"])
        for name, values in found.items():
            seconds, megabytes = statistics.median(s for s, _ in values), max(mb for _, mb in values)
            rate = f"{lines / 1e6:g} M | {name} | {seconds:.2f} | {lines / seconds / 1e6:.2f} | {loop / seconds:.1f} ×"
            print(f"| {rate} | {megabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
