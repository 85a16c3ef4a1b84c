"""Stage ``sample``: draw a data set's molecules and put each into a split.

The draw is decided by a 64-bit hash of (seed, CID) alone, so that neither the order of the source nor the way it is
read matters, and a draw of fewer molecules per length is contained in a draw of more.
"""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .chemistry import canonical, fraction
from .cli import run
from .errors import UserError
from .files import whole
from .progress import progress
from .rejects import write_rejects

MARGIN = 1.05  # candidates per wanted molecule at first, for those that RDKit will refuse


def hash64(cids: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit hash of (seed, CID): SplitMix64's finaliser over CID + SplitMix64(seed).

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", with the constants of
    Vigna's public-domain splitmix64.c. Written out here so that no library's version can change it.

    Parameters
    ----------
    cids
        Shape (n,), int64.
    seed
        Any non-negative number below 2⁶⁴.

    Returns
    -------
    Shape (n,), uint64.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return _mix((cids.astype(np.uint64) + start) + np.uint64(0x9E3779B97F4A7C15))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
    """Draw a data set from a filtered source.

    Parameters
    ----------
    kept
        Parquet file of the stage ``filter``.
    out
        Parquet file for the data set, in the order of the draw: cid, smiles, canonical, length, split, file.
    lengths
        CSV for the counts by length: length, available, wanted, got.
    rejects
        CSV for the molecules that were drawn but not usable: reason, count, example.
    max_length
        Longest SMILES, in characters.
    per_length
        Molecules of each length; without it the source's own distribution is kept.
    size
        Molecules in all, drawn from those; without it all of them.
    seed
        Seed of the draw.
    validation, test
        Shares of these splits, in [0, 1); the rest is for training.
    split_seed
        Seed of the split, the same for all data sets.
    processes
        Processes for RDKit.

    Raises
    ------
    UserError
        When a split would be empty.
    """
    ranked = _ranked(kept, max_length, seed)
    available = ranked["length"].value_counts()
    wanted = per_length if per_length is not None else (size or len(ranked))
    refused: list[tuple[str, str]] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        if per_length is None:
            pool_rows = _take(ranked, wanted, pool, refused, "drawing")
        elif ranked.empty:
            pool_rows = ranked.assign(canonical="")
        else:
            pool_rows = pd.concat(
                [
                    _take(rows, per_length, pool, refused, f"drawing length {length}")
                    for length, rows in ranked.groupby("length", sort=True)
                ]
            )
    # The second draw has a hash of its own: the first one's would prefer the lengths with many candidates.
    again = hash64(pool_rows["cid"].to_numpy(), seed + (1 << 32))
    drawn = pool_rows.iloc[np.argsort(again, kind="stable")[: size or len(pool_rows)]].copy()
    share = np.array([fraction(text, split_seed) for text in drawn["canonical"]])
    drawn["split"] = np.where(share < test, "test", np.where(share < test + validation, "validation", "train"))
    for split in ("train", "validation", "test"):
        if not (drawn["split"] == split).any():
            raise UserError(
                f"{out.parent.name}: no molecule in the {split} split of {len(drawn)}; "
                "draw more molecules or give the split a larger share"
            )
    got = drawn["length"].value_counts()
    table = pd.DataFrame({"available": available, "got": got}).fillna(0).astype(int)
    # Without a number per length, no length has a number of its own that is wanted.
    table.insert(1, "wanted", np.minimum(table["available"], per_length) if per_length else "")
    with whole(out) as part:
        columns = ["cid", "smiles", "canonical", "length", "split", "file"]
        drawn[columns].to_parquet(part, index=False, compression="zstd")
    with whole(lengths) as part:
        table.rename_axis("length").sort_index().to_csv(part)
    write_rejects(rejects, refused)
    if size and len(drawn) < size:
        print(f"{out.parent.name}: the source has only {len(drawn)} of the {size} molecules wanted")
    counts = drawn["split"].value_counts()
    print(f"{out.parent.name}: {len(drawn)} molecules, " + ", ".join(f"{n} {split}" for split, n in counts.items()))


def _ranked(kept: Path, max_length: int, seed: int) -> pd.DataFrame:
    """Every candidate, in the order of its hash: cid, smiles, file, length."""
    parts = []
    for batch in pq.ParquetFile(kept).iter_batches():
        rows = batch.to_pandas()
        rows["length"] = rows["smiles"].str.len()
        parts.append(rows[rows["length"] <= max_length])
    rows = pd.concat(parts, ignore_index=True)
    order = np.argsort(hash64(rows["cid"].to_numpy(), seed), kind="stable")
    ranked: pd.DataFrame = rows.iloc[order]
    return ranked


def _take(
    ranked: pd.DataFrame,
    wanted: int,
    pool: "multiprocessing.pool.Pool",
    refused: list[tuple[str, str]],
    what: str,
) -> pd.DataFrame:
    """The first ``wanted`` usable molecules, topped up from the next ones for those that are not.

    Not usable: what RDKit cannot parse, and a molecule that came before in another spelling. Supplied pictures
    of one molecule are all usable.
    """
    chosen: list[int] = []
    texts: list[str] = []
    known: set[str] = set()
    smiles = ranked["smiles"].tolist()
    supplied = ranked["file"].notna().to_numpy()
    for at, text in enumerate(_canonical(smiles, wanted, pool, what)):
        if text is None:
            refused.append(("not_parsed", smiles[at]))
        elif text in known and not supplied[at]:
            refused.append(("duplicate_molecule", smiles[at]))
        else:
            known.add(text)
            chosen.append(at)
            texts.append(text)
            if len(chosen) == wanted:
                break
    return ranked.iloc[chosen].assign(canonical=texts)


def _canonical(smiles: list[str], wanted: int, pool: "multiprocessing.pool.Pool", what: str) -> Iterator[str | None]:
    """Canonical SMILES, computed in parallel no further ahead than is likely to be wanted."""
    at, ahead = 0, int(wanted * MARGIN) + 16
    with progress(total=min(wanted, len(smiles)), what=what, unit="molecules") as bar:
        while at < len(smiles):
            for text in pool.imap(canonical, smiles[at : at + ahead], chunksize=256):
                bar.update()
                yield text
            at, ahead = at + ahead, max(64, ahead // 10)


if __name__ == "__main__":
    run(sample)
