"""The command line of a stage or tool: its typed function, with errors as one clear line."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cyclopts

from . import parent_watch
from .errors import UserError, visible

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: Exception) -> str | None:
    """One line for an error of the system that the user can mend; None where it is not one.

    HDF5, PyTorch and safetensors raise errors of their own with the system's words in them, so those are looked at too.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if number in NO_SPACE or "No space left" in text or any(f"errno = {n}," in text for n in NO_SPACE):
        return f"no space left on the disk{where}: free some space and run the same command again"
    if not isinstance(error, OSError):
        return None
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
        version_flags=[],
        default_parameter=cyclopts.Parameter(consume_multiple=True, negative=()),
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

    Exit status: 0 done; 1 a :class:`UserError` or a full disk, told in one line on standard error; 2 a wrong
    command line; 130 stopped by Ctrl-C, 143 by SIGTERM; 141 who reads the output has gone. Anything else is a defect of
    ours and shows its traceback.
    """
    # So that temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parent_watch.tie()
    app = command_line(function, name)
    try:
        app(words)
        sys.stdout.flush()
    except UserError as error:
        fail(name, str(error))
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still writes on its way out
        sys.exit(128 + signal.SIGPIPE)
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


def fail(name: str, line: str) -> NoReturn:
    """Print the one line and leave with status 1."""
    print(f"{name}: error: {line}", file=sys.stderr, flush=True)
    sys.exit(1)
