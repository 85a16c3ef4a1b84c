"""Reading HDF5 files that may be damaged, or made by somebody else.

HDF5 finds damage in most of its own structures by checksums, but not in its global heap, where attributes and columns
of text keep their characters. A free piece of size 0 in it is a loop without end (``H5HG__cache_heap_deserialize`` of
HDF5 2.0.0 goes on by the size that it reads), and other sizes make HDF5 ask for any amount of memory. No Python code
can stop that, so attributes and columns are read in a forked process under limits of processor time and memory, which
sends what it has read; long columns of numbers are only tried there, and then read where they are wanted. A fork costs
milliseconds, since nothing is imported again.
"""

import faulthandler
import math
import os
import resource
import signal
import stat
import warnings
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import h5py

from .errors import UserError, of_the_system, system_error

T = TypeVar("T")
CPU_SECONDS = 1.0  # of processor time for each part, and as much again for each GB of the file; a part takes far less
CHUNK = 64 << 20  # bytes; a filter may unpack as many from a few, and a column's own chunks have less than 1 MB
MEMORY = 512 << 20  # bytes that reading may take besides a few times the file's own size


class Damaged(ValueError):
    """An HDF5 file was read, and what is in it is wrong; the message says what, in one line, without the path."""


def parts(path: Path, read: Callable[[h5py.File], Iterable[T]]) -> Generator[T]:
    """Read a file part by part, in a process of its own.

    Parameters
    ----------
    path
        HDF5 file.
    read
        Called with the open file; each part is sent, so it must be picklable, and must not be lazily read.

    Yields
    ------
    The parts.

    Raises
    ------
    Damaged
        Where the file is damaged, HDF5 does not come to an end of it, or it asks for absurd amounts of memory.
    FileNotFoundError
        Where there is no such file.
    UserError
        Where ``path`` is no regular file, the system does not let it be read or locked, or it killed the process.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would be waited for
        raise UserError(f"{path}: not a file")
    receiver, sender = Pipe(duplex=False)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in processes with threads. This child calls nothing but HDF5, whose lock h5py
        # passes on, and the C library, which does the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            child = os.fork()
        except OSError as error:
            reason = f"no process can be started to read it ({error.strerror})"
            raise UserError(f"{path}: {reason}: free some memory, and run the same command again") from None
    if child == 0:
        _serve(path, read, sender)
    sender.close()
    status: int | None = None
    try:
        while True:
            try:
                message = receiver.recv()
            except (EOFError, OSError):
                status = os.waitpid(child, 0)[1]
                raise _ended(path, status) from None
            if message is None:
                return
            if isinstance(message, OSError) and not isinstance(message, FileNotFoundError):
                raise of_the_system(message, path) or message
            if isinstance(message, Exception):
                raise message
            (part,) = message
            yield part
    finally:
        receiver.close()
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def values(path: Path, read: Callable[[h5py.File], T]) -> T:
    """What ``read`` returns for the open file; as :func:`parts` else."""
    (found,) = parts(path, lambda file: [read(file)])
    return found


def expect_plain(file: h5py.File, *names: str, size: float = math.inf) -> None:
    """Look that columns lie in this very file, are not larger than its ``size`` in bytes, and have chunks to be had.

    Raises
    ------
    Damaged
        Where one does not, or is.
    """
    for name in names:
        link = file.get(name, getlink=True)
        column = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(column, h5py.Dataset) or column.external or column.is_virtual or column.shape is None:
            raise Damaged(f"{name} is no column of this file")
        if column.nbytes > size:
            raise Damaged(f"{name} larger than the file")
        if column.chunks and math.prod(column.chunks) * column.dtype.itemsize > CHUNK:
            raise Damaged(f"{name} has chunks of more than {CHUNK >> 20} MB")


def _serve(path: Path, read: Callable[[h5py.File], Iterable[Any]], sender: Connection) -> NoReturn:
    """Read and send, in the forked process, and end it: nothing of the program may run on here."""
    try:
        faulthandler.disable()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)  # where the C library says that it aborts
        sender.send(_attempt(path, read, sender))
    finally:
        os._exit(0)


def _attempt(path: Path, read: Callable[[h5py.File], Iterable[Any]], sender: Connection) -> Exception | None:
    try:
        size = os.path.getsize(path)
        _limit_memory(MEMORY + 4 * size)
        _limit_seconds(CPU_SECONDS * (1 + size / 1e9))
        with h5py.File(path) as file:
            for part in read(file):
                sender.send((part,))
                _limit_seconds(CPU_SECONDS * (1 + size / 1e9))
    except MemoryError:
        return Damaged("it asks for more memory than it can need")
    except Exception as error:  # noqa: BLE001  (h5py raises all kinds for a damaged file)
        number = system_error(error)
        return Damaged(_line(error)) if number is None else OSError(number, _line(error), os.fspath(path))
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _limit_memory(more: int) -> None:
    """Refuse this process more than so many further bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return
    limit = pages * resource.getpagesize() + more
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _limit_seconds(seconds: float) -> None:
    """Let the kernel end this process when it computes for so long from now on; waiting for a disk does not count."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _ended(path: Path, status: int) -> Exception:
    """Why the process has ended before it had sent all."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGPROF:
        return Damaged("HDF5 does not come to an end of it")
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        return Damaged("HDF5 crashes on it")
    return UserError(f"{path}: the process that read it was ended (out of memory?); run the same command again")
