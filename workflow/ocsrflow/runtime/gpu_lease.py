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
import warnings
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from .errors import UserError

POLL = 0.5  # seconds between two looks of the one job whose turn it is
PATIENCE = 3.0  # seconds before a job that waits says so
# What an error about GPUs ends with.
WAYS = (
    "set gpus: 0 to compute on the CPU, or install a PyTorch for this driver: uv pip install --torch-backend=auto "
    "--reinstall torch torchvision (docs/how-to/run-on-a-cluster.md)"
)
MADE_UP = "OCSRFLOW_MADE_UP_GPUS"  # environment variable, for tests: GPUs are leased, and the CPU computes
PARENT = "OCSRFLOW_PARENT"  # environment variable: the process that a worker must not outlive
STORE = "OCSRFLOW_STORE"  # environment variable: the file by which the workers find each other


def present() -> list[str]:
    """The GPUs that this process may use, as UUIDs; for a GPU that is split (MIG), its parts.

    Those of ``CUDA_VISIBLE_DEVICES`` where that is set (SLURM sets it), else all of the machine. Numbers are those of
    nvidia-smi, and become UUIDs because those mean the same GPU to every job. Like CUDA, this stops at ``-1``. Where
    nvidia-smi is missing or fails, as in some containers, they are those that PyTorch finds, as numbers or as
    ``CUDA_VISIBLE_DEVICES`` names them.

    Raises
    ------
    UserError
        When ``CUDA_VISIBLE_DEVICES`` names a GPU that is not there, or nvidia-smi hangs.
    """
    uuids, _ = _listed()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not uuids:
        return _found_by_torch(allowed)
    if allowed is None:
        return list(dict.fromkeys(uuids.values()))
    found: list[str] = []
    for name in map(str.strip, allowed.split(",")):
        if name in ("", "NoDevFiles") or name.startswith("-"):
            break
        if name.isdecimal():
            gpus = {uuids[key] for key in (str(int(name)),) if key in uuids}
        else:  # CUDA takes the beginning of a UUID too
            gpus = {gpu for key, gpu in uuids.items() if name[:4] in ("GPU-", "MIG-") and key.startswith(name)}
        if len(gpus) != 1:
            problem = "several GPUs" if gpus else "no GPU of this machine"
            raise UserError(f"CUDA_VISIBLE_DEVICES={allowed}: {name} names {problem} (nvidia-smi -L lists them)")
        found += gpus - set(found)
    return found


def _found_by_torch(allowed: str | None) -> list[str]:
    import torch  # not at the top: those who lease for others need none of it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reported by unusable()
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [str(i) for i in range(count)] if allowed is None else [name.strip() for name in allowed.split(",")]
    return names[:count]


def _listed() -> tuple[dict[str, str], str]:
    """The machine's GPUs by nvidia-smi: the UUID for each number and each UUID; and why there is none.

    A split GPU's own names mean its first part.
    """
    try:
        run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise UserError("nvidia-smi does not answer: a GPU of this machine may need a restart") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return {}, "there is no nvidia-smi" if missing else f"nvidia-smi cannot be run ({error.strerror})"
    names: dict[str, str] = {}
    whole: list[str] = []  # names of the last GPU
    for line in run.stdout.splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", line):
            whole = [gpu[1], gpu[2]]
            names |= dict.fromkeys(whole, gpu[2])
        elif part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            names |= dict.fromkeys([*whole, part[1]], part[1])
            whole = []
    if run.returncode or not names:
        said = next(iter((run.stdout + run.stderr).splitlines()), "")
        return {}, "nvidia-smi " + ("fails" if run.returncode else "lists none") + (f" ({said})" if said else "")
    return names, ""


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
        self.indices: list[int] = []  # where they stand in ``gpus``
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
                self.indices = [gpus.index(gpu) for gpu in self.ids]
                self._held = held.pop_all()
        except OSError as error:
            mend = "remove it, or set TMPDIR to a folder of yours"
            if error.filename is None:  # of the lock itself
                mend = "set TMPDIR to a folder on a disk of this machine"
            raise UserError(
                f"{error.filename or folder}: no place for the locks of the GPUs ({error.strerror}); {mend}"
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


def take(count: int | None, granted: int | None = None) -> Lease | None:
    """Lease ``count`` GPUs for this process and its children, and show them no others.

    To be called before CUDA starts. None where none is asked for: then the CPU it is. ``count`` None asks for one where
    there is one. ``granted`` is what Snakemake allows: with ``--resources gpu=N`` it may be less than a rule asks for.

    Raises
    ------
    UserError
        When there are fewer than ``count``, fewer are granted, or their locks cannot be made.
    """
    if count and granted is not None and granted < count:
        raise UserError(
            f"{count} {'GPU is' if count == 1 else 'GPUs are'} asked for, but Snakemake granted {granted}: give "
            f"--resources gpu={count} or more, or lower the models' gpus"
        )
    gpus = present() if count != 0 else []
    if count is None:
        count = min(1, len(gpus))
    if count and not gpus:
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        causes = [cause for cause in (_listed()[1], unusable()) if cause]
        if allowed is not None:
            causes.insert(0, f"CUDA_VISIBLE_DEVICES={allowed} names no GPU that can be used")
        raise UserError(f"a GPU is asked for, but none can be used here: {'; '.join(causes)}; {WAYS}")
    lease = Lease(gpus, count) if count else None
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease.ids) if lease else ""
    return lease


def unusable() -> str | None:
    """Why PyTorch finds no GPU that it can use, in words; None where it finds one."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    # PyTorch warns where a driver is too old, with its version.
    said = "".join(f" ({str(warning.message).splitlines()[0].split('. ')[0]})" for warning in caught[:1])
    return f"PyTorch {torch.__version__}, built {built}, finds no GPU{said}"


def outdated() -> str | None:
    """Why PyTorch cannot compute on the GPU that it finds, in words; None where it can. Starts CUDA in this process."""
    import torch

    try:
        major, minor = torch.cuda.get_device_capability()
        kernels = [re.match(r"(sm|compute)_(\d+)(\d)", name) for name in torch.cuda.get_arch_list()]
        name = torch.cuda.get_device_name()
    except (RuntimeError, AssertionError):  # of a driver, reported where it is used
        return None
    built = [(kind[1], int(kind[2]), int(kind[3])) for kind in kernels if kind]
    fits = any(
        (kind == "sm" and has == major and least <= minor) or (kind == "compute" and (has, least) <= (major, minor))
        for kind, has, least in built
    )
    if fits or not built:
        return None
    return f"PyTorch {torch.__version__} has no code for a {name} (compute capability {major}.{minor})"


def device_of(lease: Lease | None, *, required: bool = True) -> str:
    """Where PyTorch computes with a lease: ``cuda``; ``cpu`` without one.

    Raises
    ------
    UserError
        Where PyTorch cannot use the leased GPU and it is ``required``; else a warning says so, and it is ``cpu``.
    """
    if lease is None or os.environ.get(MADE_UP):
        return "cpu"
    import torch

    cause = unusable() or outdated()
    if cause is None:
        # Where PyTorch had to be asked for GPUs, CUDA may have begun with all of them: then a lease is a number.
        shown = torch.cuda.device_count() == len(lease.ids)
        return "cuda" if shown else f"cuda:{lease.indices[0]}"
    if required:
        raise UserError(f"{cause}; {WAYS}")
    print(f"{cause}: computing on the CPU", file=sys.stderr)
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
