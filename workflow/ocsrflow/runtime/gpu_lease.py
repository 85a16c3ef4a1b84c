"""GPU slots: ``snakemake --resources gpu=4`` starts four jobs at once but tells none which GPU is its own.

A job leases GPUs by locking one file for each. The kernel releases the locks when the job dies, however it dies. The
files lie in the temporary folder, one folder for each user: for jobs of several users there is SLURM, which gives each
job GPUs of its own.
"""

import ctypes
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from .errors import UserError

POLL = 0.5  # seconds between two looks of the one job whose turn it is
PATIENCE = 3.0  # seconds before a job that waits says so
UNUSABLE = "warning: PyTorch cannot use the GPUs here (are their drivers recent enough?): computing on the CPU"
PARENT = "OCSRFLOW_PARENT"  # environment variable: the process that a worker must not outlive
STORE = "OCSRFLOW_STORE"  # environment variable: the file by which the workers find each other


def present() -> list[str]:
    """The GPUs that this process may use, as UUIDs; for a GPU that is split (MIG), its parts.

    Those of ``CUDA_VISIBLE_DEVICES`` where that is set (SLURM sets it), else all of the machine. Numbers are those of
    nvidia-smi, and become UUIDs because those mean the same GPU to every job. Like CUDA, this stops at ``-1``.

    Raises
    ------
    UserError
        When ``CUDA_VISIBLE_DEVICES`` names a GPU that is not there, or nvidia-smi hangs.
    """
    known = _names()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not known or allowed is None:
        return list(dict.fromkeys(known.values()))
    found: list[str] = []
    for name in map(str.strip, allowed.split(",")):
        if name in ("", "NoDevFiles") or name.startswith("-"):
            break
        if name.isdecimal():
            gpus = {known[key] for key in (str(int(name)),) if key in known}
        else:  # CUDA takes the beginning of a UUID too
            gpus = {gpu for key, gpu in known.items() if name[:4] in ("GPU-", "MIG-") and key.startswith(name)}
        if len(gpus) != 1:
            problem = "several GPUs" if gpus else "no GPU of this machine"
            raise UserError(f"CUDA_VISIBLE_DEVICES={allowed}: {name} names {problem} (nvidia-smi -L lists them)")
        found += gpus - set(found)
    return found


def _names() -> dict[str, str]:
    """The machine's GPUs: the UUID for each number and each UUID; a split GPU's own names mean its first part."""
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise UserError("nvidia-smi does not answer: a GPU of this machine may need a restart") from None
    except OSError:
        return {}
    names: dict[str, str] = {}
    whole: list[str] = []  # names of the last GPU
    for line in run.stdout.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            whole = [gpu[1], gpu[2]]
            names |= dict.fromkeys(whole, gpu[2])
        elif part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            names |= dict.fromkeys([*whole, part[1]], part[1])
            whole = []
    return names


class Lease:
    """Some GPUs, all of them or none, until they are released or this process dies."""

    def __init__(self, gpus: list[str], count: int, folder: Path | None = None) -> None:
        """Wait for ``count`` of ``gpus`` (as :func:`present` gives them) and lock them.

        Jobs take turns, so that one that wants four GPUs is not passed over for ever by those that want one: a job
        that waits has the turn at each of its GPUs, and takes them as they become free. All jobs take their turns in
        one order, so that no two wait for each other.

        Raises
        ------
        UserError
            When there are fewer than ``count``, or the folder for the locks cannot be used.
        """
        if count > len(gpus):
            raise UserError(
                f"{count} GPUs are asked for, but {len(gpus)} can be used here; lower the model's gpus in the "
                "configuration, or run where there are as many"
            )
        folder = folder or Path(tempfile.gettempdir()) / f"ocsrflow-gpus-{os.getuid()}"
        self.ids: list[str] = []
        try:
            with ExitStack() as held, ExitStack() as turns:
                turns.callback(_say_later(f"waiting for {count} of {len(gpus)} GPUs: other jobs have them").cancel)
                # systemd-tmpfiles removes old files, in use or not, but leaves a folder alone that somebody locks.
                held.callback(_unlock, _lock_folder(folder))
                for gpu in sorted(gpus):
                    turns.callback(_unlock, _lock(folder, f"{gpu}.turn"))
                while len(self.ids) < count:
                    for gpu in gpus:
                        if len(self.ids) < count and gpu not in self.ids:
                            file = _lock(folder, f"{gpu}.lock", wait=False)
                            if file is not None:
                                held.callback(_unlock, file)
                                self.ids.append(gpu)
                    if len(self.ids) < count:
                        time.sleep(POLL)
                self._held = held.pop_all()
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: no place for the locks of the GPUs ({error.strerror}); remove it, or set "
                "TMPDIR to a folder of yours"
            ) from None

    def release(self) -> None:
        """Give the GPUs back."""
        self._held.close()
        self.ids = []


def _say_later(line: str) -> threading.Timer:
    timer = threading.Timer(PATIENCE, print, [line], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    return timer


def _lock_folder(folder: Path) -> int:
    """Make the folder for the locks, and share a lock on it.

    Raises
    ------
    OSError
        When it cannot be made, is a link, or belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(file).st_uid != os.getuid():
        os.close(file)
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(folder))
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _lock(folder: Path, name: str, *, wait: bool = True) -> int | None:
    """Lock a file, made where it is missing, and return it open; None where another job has it and we do not wait."""
    path = folder / quote(name, safe="")
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)  # somebody may clean up
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Removed since it was opened, it keeps nobody out: the next job makes a new one of this name.
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:
            pass
        except BaseException:  # a signal's, while it waits
            os.close(file)
            raise
        os.close(file)


def _unlock(file: int | None) -> None:
    if file is not None:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: processes forked meanwhile have it open too
        os.close(file)


def take(count: int) -> Lease | None:
    """Lease ``count`` GPUs for this process and its children, and show them no others.

    To be called before CUDA starts. None where there is no GPU here, or none is asked for: then the CPU it is.

    Raises
    ------
    UserError
        When there are GPUs, but fewer than ``count``, or their locks cannot be made.
    """
    gpus = present() if count else []
    lease = Lease(gpus, count) if gpus else None
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease.ids) if lease else ""
    return lease


def device_of(lease: Lease | None) -> str:
    """Where PyTorch computes with a lease: ``cuda``; ``cpu`` without one, or with a warning where it cannot."""
    if lease is None:
        return "cpu"
    import torch  # not at the top: those who lease for others need none of it

    if torch.cuda.is_available():
        return "cuda"
    print(UNUSABLE, file=sys.stderr)
    return "cpu"


def die_with_parent() -> None:
    """Die at once when the launcher does, to be called first thing in a process that it starts.

    The kernel gives a killed launcher's GPUs to the next job, so no process of it may go on using them. Does nothing
    in a process that was started otherwise (without ``OCSRFLOW_PARENT``).
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it died before
        os.kill(os.getpid(), signal.SIGKILL)
