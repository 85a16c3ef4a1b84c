"""Stage ``osra``: a baseline of another kind, the rule-based program OSRA (Filippov and Nicklaus 2009).

It is asked as it does best with RDKit's pictures, by measurement on 100 NCI molecules (mean Tanimoto similarity):

- at its own guess of the resolution (0.64 at 300 pixels; 0.15, 0.49 and 0.54 where it is told 72, 150 and 300 dots per
  inch, on 30 of them), with its own threshold and segmentation;
- with pictures enlarged by Lanczos' filter: of 300 pixels to 450 (0.64 as they are, 0.67 at 400, 0.69 at 450, 0.65 at
  500), of 96 to 288 (0.05 as they are, 0.10 at 240, 0.11 at 288, 0.08 at 400). At 96 pixels labels are a few pixels
  high, which its character recognition cannot read.

Where pictures were brought to the frame from others, as in drawings and benchmarks, it is given those others, as they
are: those of USPTO's that have less than 400 pixels (56 of 300) are read no better when enlarged by 1.5 (0.88, not
0.90).
"""

import functools
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ..chem.similarity import parse_all
from ..depiction.plain import Picture
from ..pictures.originals import Originals
from ..pictures.packed_file import Packed
from ..runtime.errors import UserError
from ..runtime.files import whole, write_json
from ..runtime.progress import progress
from ..runtime.slurm_job import of_cluster

INSTALL = "osra is not installed: apt install osra"
MISSING = f"{INSTALL} (or take it out of baselines)"
ENLARGED = [(200, 3.0), (400, 1.5)]  # pictures below a size, in pixels, and the factor by which they are enlarged
TIMED = 50  # pictures that are read one at a time, for the seconds per image


class OsraAnswer(NamedTuple):
    """What OSRA made of a picture."""

    text: str  # "" where it found nothing
    seconds: float
    outcome: str  # read, nothing_found, crashed, too_slow


def osra(
    data: Path,
    *,
    out: Path,
    facts: Path,
    originals: Path | None = None,
    name: str = "osra",
    split: str = "test",
    size: int | None = None,
    processes: int = 1,
    seconds: float = 30.0,
) -> None:
    """Let OSRA read the pictures of a split.

    Where it is not installed, the table is empty and the facts say so under ``missing``.

    Parameters
    ----------
    data
        Packed data set.
    out
        Parquet file: cid, id, reference, prediction ("" where it found nothing; several structures are joined by
        "."), valid, seconds; and for ensembles that it is a member of log_probability (NaN), complete, candidates (the
        prediction, where there is one) and candidate_complete, as in the stage ``predict``.
    facts
        JSON file: how many pictures were read; ``seconds_per_image``, the median wall time of one OSRA process on one
        picture, of the first pictures, read one at a time.
    originals
        Zip archive of the pictures as they were before they were brought to the frame, from the stages ``draw_set`` and
        ``benchmark_set``: what it is given. Without it, the pictures of ``data``.
    name
        Name of the baseline.
    split, size
        Pictures to read, as in the stage ``predict``.
    processes
        So many pictures are read at a time.
    seconds
        Time limit of a picture. One that takes longer, or crashes OSRA, counts as read as nothing.

    Raises
    ------
    UserError
        Where the split is empty.
    """
    packed = Packed(data)
    members = packed.first(split, size)
    description = {
        "name": name,
        "kind": "baseline",
        "key": f"baseline:{name}:{packed.digest}",
        "device": "CPU, 1 process",
    }
    description |= of_cluster()
    program = shutil.which("osra")
    if program is None:
        print(MISSING)
        _write(out, packed, members[:0], [])
        write_json(facts, description | {"missing": MISSING, "seconds_per_image": None})
        return
    version = _version(program)
    given = Originals(originals) if originals else None
    reading = _Program(program, packed, given, seconds).read_all(members, processes)
    with closing(reading):  # so that no process outlives this one
        found = list(progress(reading, total=len(members), what="osra reads", unit="pictures"))
    _write(out, packed, members, found, processes)
    outcomes = Counter(of_picture.outcome for of_picture in found)
    write_json(
        facts,
        description
        | {
            "key": f"{description['key']}:{version}",
            "version": version,
            "seconds_per_image": statistics.median(of_picture.seconds for of_picture in found[:TIMED]),
            **{outcome: outcomes[outcome] for outcome in ("read", "nothing_found", "crashed", "too_slow")},
        },
    )


def _version(program: str) -> str:
    result = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False, timeout=60
    ).stdout.split()
    return result[-1] if result else "unknown"


class _Program:
    """OSRA, and the pictures that it reads."""

    def __init__(self, path: str, packed: Packed, originals: Originals | None, limit: float) -> None:
        self.path, self.packed, self.originals, self.limit = path, packed, originals, limit
        self._opened = Lock()  # HDF5 files are read by one thread at a time

    def read_all(self, members: NDArray[np.int64], processes: int) -> Generator[OsraAnswer]:
        """What it makes of each picture, in order; the first ones one at a time."""
        with tempfile.TemporaryDirectory(prefix="ocsrflow-osra-") as folder:
            read = functools.partial(self.read, Path(folder))
            yield from map(read, members[:TIMED])
            pool = ThreadPoolExecutor(processes)
            try:
                yield from pool.map(read, members[TIMED:])
            finally:
                pool.shutdown(cancel_futures=True)

    def read(self, folder: Path, at: int) -> OsraAnswer:
        """What it makes of one picture, in a process of its own."""
        path = folder / f"{at}.png"
        with self._opened:
            image = self._image(at)
        image.save(path)
        try:
            return ask(self.path, path, self.limit)
        finally:
            path.unlink()

    def _image(self, at: int) -> Image.Image:
        """The picture that it is given."""
        if self.originals is None:
            return as_image(self.packed.picture(at), self.packed.depiction.channel_order)
        try:
            return self.originals.picture(int(self.packed.cid[at]))
        except ValueError as error:
            raise UserError(f"{self.originals.path}: {error}; remove it and run the workflow again") from None


def ask(program: str, picture: Path, limit: float) -> OsraAnswer:
    """What OSRA makes of a PNG file, within so many seconds."""
    began = time.perf_counter()
    try:
        result = subprocess.run([program, picture], capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return OsraAnswer("", limit, "too_slow")
    seconds = time.perf_counter() - began
    if result.returncode:
        return OsraAnswer("", seconds, "crashed")
    lines = result.stdout.decode(errors="replace").splitlines()
    text = ".".join(line.split()[0] for line in lines if line.strip())  # of several structures one a line
    return OsraAnswer(text, seconds, "read" if text else "nothing_found")


def as_image(picture: Picture, channel_order: str) -> Image.Image:
    """A picture, (size, size, channels) uint8, as OSRA is given it: in RGB or grey, small ones enlarged."""
    size, _, channels = picture.shape
    rgb = picture[..., ::-1] if channels == 3 and channel_order == "bgr" else picture
    image = Image.fromarray(np.ascontiguousarray(rgb.squeeze()))
    factor = next((factor for below, factor in ENLARGED if size < below), 1.0)
    return image.resize((round(size * factor),) * 2, Image.Resampling.LANCZOS) if factor > 1 else image


def _write(out: Path, packed: Packed, members: NDArray[np.int64], found: list[OsraAnswer], processes: int = 1) -> None:
    texts = [of_picture.text for of_picture in found]
    molecules = parse_all(texts, processes=processes, what="parsing what osra read")
    nothing_known = np.full(len(texts), np.nan)
    columns = {
        "cid": np.asarray(packed.cid[members], np.int64),
        "id": pd.array(packed.ids(members), "str"),
        "reference": pd.array(packed.text("smiles", members), "str"),
        "prediction": pd.array(texts, "str"),
        "log_probability": nothing_known,
        "valid": np.array([molecules[text] is not None for text in texts], bool),
        "complete": np.array([text != "" for text in texts], bool),
        "candidates": [[text] if text else [] for text in texts],
        "candidate_complete": [[True] if text else [] for text in texts],
        "seconds": np.array([of_picture.seconds for of_picture in found], np.float64),
    }
    with whole(out) as part:
        pd.DataFrame(columns).to_parquet(part, index=False)
