"""Stage ``osra``: the rule-based program OSRA reads the same pictures, as a peer to be compared with.

Filippov and Nicklaus 2009, "Optical Structure Recognition Software To Recover Chemical Information: OSRA, An Open
Source Solution". It is a program of its own (Debian's package ``osra``), started once for each picture.
"""

import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from .cli import run
from .errors import UserError
from .files import whole, write_json
from .images import Picture
from .packed import Packed
from .progress import progress
from .similarity import known

MISSING = "OSRA is not installed (apt install osra), or take it out of baselines"
# Pixels to which smaller pictures are enlarged. Of 60 NCI molecules drawn at 96 pixels OSRA found a structure in 26 as
# they are and in 40 three times enlarged (mean Tanimoto 0.03 and 0.14); enlarging those drawn at 300, or telling it a
# resolution, made it no better (0.72 as they are).
ENLARGED = 300
AT_ONCE = 64  # pictures in memory
TIMED = 20  # pictures read one after the other


class Read(NamedTuple):
    """What OSRA made of a picture."""

    smiles: str  # empty where it found nothing
    seconds: float
    failed: bool  # it crashed, or took too long


def osra(
    data: Path,
    *,
    out: Path,
    facts: Path,
    name: str = "osra",
    split: str = "test",
    size: int | None = None,
    processes: int = 1,
    seconds: float = 60.0,
) -> None:
    """Have OSRA read the pictures of a split. Where it is not installed, the files say so, and that is no error.

    Parameters
    ----------
    data
        Packed data set.
    out
        Parquet file: cid, id, reference, prediction (empty where it found no structure), valid, seconds. Of several
        structures in a picture, which are parts of one molecule here, the SMILES are joined by a dot.
    facts
        JSON file: the version; seconds_per_image, the median wall time of the program for one picture, from the PNG
        file to the SMILES, its start included, of the first 20, read one after the other; pictures without an answer
        (``nothing``) and those that crashed it or took too long (``failed``); ``missing``, where it is not installed.
    name
        Name of the baseline.
    split, size
        Pictures to read, as in the stage ``predict``.
    processes
        So many pictures are read at a time.
    seconds
        Time limit of one picture.

    Raises
    ------
    UserError
        When the split is empty.
    """
    packed = Packed(data)
    members = packed.members(split)[:size]
    if not len(members):
        raise UserError(f"{data}: its {split} split is empty")
    rows = pd.DataFrame(
        {"cid": packed.cid[members], "id": packed.ids(members), "reference": packed.text("smiles", members)}
    )
    about = {"name": name, "kind": "baseline", "key": f"baseline:{name}:{packed.digest}"}
    program = shutil.which("osra")
    if program is None:
        print(MISSING)
        _write(out, rows.iloc[:0].assign(prediction="", valid=False, seconds=0.0))
        write_json(facts, {**about, "missing": MISSING})
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        read = partial(_read, program, Path(folder), seconds)
        with progress(total=len(members), what="OSRA reads", unit="pictures") as bar:
            # The first ones with nothing beside them, for the seconds per image.
            found = [read(int(at), packed.picture(int(at))) for at in members[:TIMED]]
            bar.update(len(found))
            members = members[TIMED:]
            for part in np.array_split(
                members, max(1, -(-len(members) // AT_ONCE))
            ):  # all pictures would fill the memory
                found += pool.map(read, part, [packed.picture(int(at)) for at in part])
                bar.update(len(part))
    texts = [answer.smiles for answer in found]
    molecules = known(texts, processes=processes, what="parsing what OSRA read")
    _write(
        out,
        rows.assign(
            prediction=texts,
            valid=[molecules[text] is not None for text in texts],
            seconds=[answer.seconds for answer in found],
        ),
    )
    write_json(
        facts,
        {
            **about,
            "version": _version(program),
            "seconds_per_image": statistics.median(answer.seconds for answer in found[:TIMED]),
            "nothing": sum(not text for text in texts),
            "failed": sum(answer.failed for answer in found),
            "device": "one CPU process a picture",
        },
    )


def _read(program: str, folder: Path, limit: float, number: int, picture: Picture) -> Read:
    """Have one picture read by a process of its own."""
    path = folder / f"{number}.png"
    image = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
    if image.width < ENLARGED:
        image = image.resize((ENLARGED, ENLARGED), Image.Resampling.LANCZOS)
    image.save(path)
    began = time.perf_counter()
    try:
        done = subprocess.run([program, path], capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired:
        return Read("", time.perf_counter() - began, failed=True)
    finally:
        path.unlink()
    taken = time.perf_counter() - began
    # A line for each structure: its SMILES, and on some versions more behind it.
    structures = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    return Read(".".join(structures), taken, failed=done.returncode != 0)


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return said[-1] if said else "unknown"


def _write(path: Path, rows: pd.DataFrame) -> None:
    with whole(path) as part:
        rows.to_parquet(part, index=False)


if __name__ == "__main__":
    run(osra)
