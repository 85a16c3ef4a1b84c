"""The tie between a stage and the Snakemake that started it, which a stage must not outlive.

A Snakemake that is killed leaves its jobs behind: they would keep their GPUs, and write files that the next Snakemake
makes too.
"""

import os
import select
import signal
import threading

HEAD = "OCSRFLOW_HEAD"  # environment variable: the process of the Snakemake that a stage belongs to


def tie() -> None:
    """From here on, stop this process by SIGTERM when its Snakemake has died, however it died.

    Does nothing in a process that was started by hand, and where the kernel has no process descriptors (Linux has them
    since 5.3).
    """
    head = os.environ.get(HEAD, "")
    if not head.isdecimal() or not hasattr(os, "pidfd_open"):
        return
    try:
        file = os.pidfd_open(int(head))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
    except OSError:  # not allowed, as in some containers
        pass
    else:
        threading.Thread(target=_wait, args=(file,), daemon=True).start()


def _wait(file: int) -> None:
    select.select([file], [], [])  # it can be read when the process has ended
    os.kill(os.getpid(), signal.SIGTERM)
