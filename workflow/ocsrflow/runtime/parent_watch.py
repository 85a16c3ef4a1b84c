"""The tie between a stage and the Snakemake that started it, which a stage must not outlive.

A Snakemake that is killed leaves its jobs behind: they would keep their GPUs, and write files that the next Snakemake
makes too.
"""

import multiprocessing
import os
import select
import signal
import threading
import time
from pathlib import Path

HEAD = "OCSRFLOW_HEAD"  # environment variable: the process of the Snakemake that a stage belongs to
POLL = 1.0  # seconds between two looks, where the kernel does not tell by itself


def tie() -> None:
    """From here on, stop this process by SIGTERM when its Snakemake has died, however it died.

    Does nothing in a process that was started by hand, and where there is no ``/proc``.
    """
    head = os.environ.get(HEAD, "")
    if not head.isdecimal() or not Path("/proc/self/stat").exists():
        return
    if (born := _born(int(head))) is None:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    try:
        file = os.pidfd_open(int(head))
    except (AttributeError, OSError):  # an old kernel, a Python built for one, or not allowed
        threading.Thread(target=_poll, args=(int(head), born), daemon=True).start()
    else:
        threading.Thread(target=_wait, args=(file,), daemon=True).start()


def follow_parent() -> None:
    """End a process of a pool, which waits for work for ever, at once when the process that made the pool has died."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _wait(file: int) -> None:
    select.select([file], [], [])  # it can be read when the process has ended
    os.kill(os.getpid(), signal.SIGTERM)


def _poll(process: int, born: str) -> None:
    while _born(process) == born:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)


def _born(process: int) -> str | None:
    """When a process was started, in the kernel's own ticks; None where there is none that lives."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]
