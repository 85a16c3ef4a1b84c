"""The command line of a stage or tool: its typed function, with errors as one clear line."""

import errno
import gc
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cyclopts

from . import parent_watch
from .errors import UserError, of_the_system, visible

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of disks, network file systems and the table of open files.
SYSTEM = (
    errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EAGAIN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.ENOTCONN, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.EBUSY, errno.EMFILE,
    errno.ENFILE,
)  # fmt: skip


def explain(error: Exception) -> str | None:
    """One line for an error of the system that the user can mend; None where it is not one.

    HDF5, PyTorch and safetensors raise errors of their own with the system's words in them, so those are looked at too.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if "No space left" in text and ("shared memory" in text or "/dev/shm" in text):  # noqa: S108
        return "no space left in /dev/shm, the memory that processes share: enlarge it (docker run --shm-size=2g)"
    if number in NO_SPACE or "No space left" in text or any(f"errno = {n}," in text for n in NO_SPACE):
        return f"no space left on the disk{where}: free some space and run the same command again"
    if not isinstance(error, OSError):
        return None
    if error.errno in SYSTEM or "unable to lock" in text:
        return str(of_the_system(error, error.filename or "a file"))
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"no permission{where}: {os.strerror(error.errno)}"
    if isinstance(error, FileNotFoundError):
        return f"no such file or folder: {error.filename or error}"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        return f"{os.strerror(error.errno).lower()}: {error.filename}; give the path of a file"
    return None


def command_line(function: Callable[..., Any], name: str) -> cyclopts.App:
    """The command line of a function, whose help calls it ``name``."""
    app = cyclopts.App(
        name=name,
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # reported in run()
        version_flags=[],
        default_parameter=cyclopts.Parameter(consume_multiple=True, negative_iterable=(), negative_none=()),
    )
    app.default(function)
    return app


def run(function: Callable[..., Any], words: Sequence[str] | None = None, *, name: str = "ocsrflow") -> NoReturn:
    """Run a function from its command line and leave the process.

    Parameters
    ----------
    function
        What a stage or a tool does.
    words
        The command line; by default that of this process.
    name
        What help and messages call it.

    Exit status: 0 done; 1 a :class:`UserError` or an error of the system, in one line on standard error; 2 a wrong
    command line; 3 a training that fails by its own settings; 130 stopped by Ctrl-C, 143 by SIGTERM; 141 who reads the
    output has gone, though files may have been written (0 where standard output was closed from the start). Anything
    else is a defect of ours and shows its traceback.
    """
    # So that temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as it was during the imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_streams()
    parent_watch.stop_with_snakemake()
    app = command_line(function, name)
    words = sys.argv[1:] if words is None else words
    try:
        _refuse_values_of_flags(function, words)
        app(words)
        sys.stdout.flush()
    except UserError as error:
        fail(name, str(error), error.status)
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, f"{name}: stopped")
    except BrokenPipeError:
        _leave(128 + signal.SIGPIPE)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(visible(f"{name}: error: {line}"), file=sys.stderr, flush=True)
        sys.stdout.flush()
        # HDF5 cannot close a file on a full disk, and would crash on Python's way out; all else is let go here.
        gc.collect()
        os._exit(1)
    sys.exit(0)


def fail(name: str, line: str, status: int = 1) -> NoReturn:
    """Print the one line and leave, by default with status 1."""
    _leave(status, f"{name}: error: {line}")


def _leave(status: int, line: str = "") -> NoReturn:
    """Leave the process with a last line on standard error, whether or not anybody reads it."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, line and f"{line}\n")):
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):  # what Python still writes on its way out must not change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _open_streams() -> None:
    """Open the null device for each standard stream that is closed: the next file would take its place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _refuse_values_of_flags(function: Callable[..., Any], words: Sequence[str]) -> None:
    """Refuse a value behind a flag, which would be taken for the next argument, such as a picture called "False".

    Raises
    ------
    UserError
        Where there is one.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [p.name.replace("_", "-") for p in parameters if p.annotation is bool]
    for flag, value in itertools.pairwise(words):
        own = [name for name in names if flag in (f"--{name}", f"--no-{name}")]
        if own and value.lower() in ("true", "false", "yes", "no", "on", "off", "0", "1"):
            raise UserError(f"{flag} {value}: give --{own[0]} or --no-{own[0]} without a value; ./{value} for a file")
