"""Stage ``sample``: take a data set's molecules from its source and put each into a split."""

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..chem.molecules import canonical
from ..runtime.csv_tables import write_csv, write_rejects
from ..runtime.errors import UserError
from ..runtime.files import whole
from ..runtime.parent_watch import follow_parent
from .filtered_molecules import FilteredMolecules
from .sampler import Canonicalise, Sampler, lay_out

MARGIN, SLACK = 1.25, 1000  # candidates for each molecule wanted, for those that RDKit will refuse
CHUNK = 256  # SMILES handed to a process at a time


def sample(
    kept: Path,
    *,
    out: Path,
    lengths: Path,
    rejects: Path,
    max_length: int,
    per_length: int | None = None,
    size: int | None = None,
    seed: int = 0,
    validation: float = 0.01,
    test: float = 0.01,
    split_seed: int = 0,
    processes: int = 1,
) -> None:
    """Sample a data set from a filtered source.

    Memory grows with the data set, not with the source.

    Parameters
    ----------
    kept
        Parquet file of the stage ``filter``.
    out
        Parquet file for the data set, in the order of the sample: cid, smiles, canonical, length, split, file, spare.
        Spares come last; the stage ``pack`` puts them in the place of what could not be depicted.
    lengths
        CSV for the counts by length: length, available, wanted, got, why (there are fewer than asked for).
    rejects
        CSV for the molecules that were taken but not usable: reason, count, example.
    max_length
        Longest SMILES, in characters.
    per_length
        Molecules of each length; without it the source's own distribution is kept.
    size
        Molecules in all, sampled from those; without it all of them.
    seed
        Seed of the sample.
    validation, test
        Shares of these splits, in (0, 1); the rest is for training.
    split_seed
        Seed of the split, the same for all data sets.
    processes
        Processes for RDKit.

    Raises
    ------
    UserError
        When a split would be empty, or the source is damaged.
    """
    source = FilteredMolecules(kept)
    available = source.available(max_length)
    slots = lay_out(available, per_length, size, seed)
    of_group = available if per_length else np.array([available.sum()])  # a group is a length, or all molecules
    limits = (np.bincount(slots.likely, minlength=len(of_group)) * MARGIN + SLACK).astype(np.int64)
    with _canonicaliser(processes) as canonicalise:
        while True:
            sampler = Sampler(*source.lowest(limits, of_group, max_length, seed), of_group, canonicalise)
            sampler.fill(slots)
            if not sampler.short:
                break
            limits[list(sampler.short)] *= 4  # RDKit refused more than the margin
    table = sampler.table(validation=validation, test=test, split_seed=split_seed)
    taken = table.filter(pc.invert(table["spare"]))
    splits = Counter(taken["split"].to_pylist())
    for split in ("train", "validation", "test"):
        if not splits[split]:
            raise UserError(
                f"{out.parent.name}: no molecule in the {split} split of {len(taken)}; "
                "take more molecules or give the split a larger share"
            )
    options = {"max_length": max_length, "per_length": per_length, "size": size, "seed": seed}
    shares = {"validation": validation, "test": test, "split_seed": split_seed}
    by_length = per_length is not None and size is None
    notes = {"sample": json.dumps(options | shares), "spares": "length" if by_length else "any"}
    with whole(out) as part:
        pq.write_table(table.replace_schema_metadata(notes), part, compression="zstd")
    got = np.bincount(taken["length"].to_numpy(), minlength=len(available))
    columns = ("length", "available", "wanted", "got", "why")
    write_csv(lengths, columns, _by_length(available, sampler, got, per_length, size))
    write_rejects(rejects, sampler.refused)
    if size and len(taken) < size:
        print(f"{out.parent.name}: the source has only {len(taken)} of the {size} molecules wanted")
    print(f"{out.parent.name}: {len(taken)} molecules, " + ", ".join(f"{n} {s}" for s, n in splits.most_common()))


@contextmanager
def _canonicaliser(processes: int) -> Iterator[Canonicalise]:
    """A function that makes canonical SMILES, in so many processes."""
    if processes == 1:
        yield lambda texts: map(canonical, texts)
        return
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), follow_parent) as pool:
            yield lambda texts: pool.map(canonical, texts, chunksize=CHUNK)
    except BrokenProcessPool:
        raise UserError(
            "a process that asked RDKit for canonical SMILES died, perhaps for want of memory: give fewer processes"
        ) from None


def _by_length(
    available: NDArray[np.int64], sampler: Sampler, got: NDArray[np.int64], per_length: int | None, size: int | None
) -> list[tuple[object, ...]]:
    """Rows of length, available, wanted, got, why; ``wanted`` is empty where no length has a number of its own."""
    rows: list[tuple[object, ...]] = []
    for length in range(1, len(available)):
        if per_length is None:
            if available[length]:
                rows.append((length, available[length], "", got[length], ""))
            continue
        wanted = per_length if size is None else sampler.wanted[length]
        why = []
        if got[length] < wanted:
            if available[length] < wanted:
                why.append(f"the source has {available[length]}")
            reasons = sorted((reason, n) for (group, reason), n in sampler.refused_of.items() if group == length)
            why += [f"{n} {reason}" for reason, n in reasons]
        rows.append((length, available[length], wanted, got[length], ", ".join(why)))
    return rows
