"""GPU slots: ``snakemake --resources gpu=4`` starts four jobs at once but tells none which GPU is its own.

A job leases GPUs by locking one file for each. The kernel releases the locks when the job dies, however it dies.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from .errors import UserError

POLL = 1.0  # seconds between two tries


def present() -> list[tuple[str, str]]:
    """The GPUs this process may use, as (what CUDA_VISIBLE_DEVICES takes, name of the lock).

    Those of ``CUDA_VISIBLE_DEVICES`` where that is set (SLURM sets it), else all of the machine. The lock is named by
    the GPU's UUID, because two SLURM jobs may each call theirs 0.
    """
    try:
        query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    uuids = dict(line.split(", ") for line in listed.splitlines() if ", " in line)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = list(uuids) if allowed is None else [i.strip() for i in allowed.split(",") if i.strip()]
    job = os.environ.get("SLURM_JOB_ID", "")
    return [(i, uuids.get(i, f"{i}-{job}" if job and not i.startswith("GPU-") else i)) for i in ids]


class Lease:
    """Some GPUs, all of them or none, for as long as the object or its process lives."""

    def __init__(self, gpus: list[tuple[str, str]], count: int, folder: Path | None = None) -> None:
        """Wait for ``count`` of ``gpus`` (as :func:`present` gives them) and lock them.

        Raises
        ------
        UserError
            When there are fewer than ``count``.
        """
        if count > len(gpus):
            raise UserError(
                f"{count} GPUs are asked for, but {len(gpus)} can be used here; lower the model's gpus in the "
                "configuration, or run where there are as many"
            )
        self.folder = folder or Path(tempfile.gettempdir()) / f"ocsrflow-gpus-{os.getuid()}"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ids: list[str] = []
        self._files: list[IO[str]] = []
        while not self._try(gpus, count):
            time.sleep(POLL)

    def _try(self, gpus: list[tuple[str, str]], count: int) -> bool:
        for gpu, name in gpus:
            file = open(self.folder / f"{name}.lock", "w")  # noqa: SIM115  (held open on purpose)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self._files.append(file)
            self.ids.append(gpu)
            if len(self.ids) == count:
                return True
        self.release()
        return count == 0

    def release(self) -> None:
        """Give the GPUs back."""
        for file in self._files:
            file.close()
        self._files, self.ids = [], []


def take(count: int) -> Lease | None:
    """Lease ``count`` GPUs for this process and its children, and show them no others.

    To be called before CUDA starts. None where there is no GPU here, or none is asked for: then the CPU it is.

    Raises
    ------
    UserError
        When there are GPUs, but fewer than ``count``.
    """
    gpus = present() if count else []
    lease = Lease(gpus, count) if gpus else None
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease.ids) if lease else ""
    return lease
