"""Stages end with the Snakemake that started them, however it ends.

On SIGTERM or SIGINT Snakemake 9 starts no further jobs and waits for those at work on this machine, perhaps for days;
killed, it leaves them behind: they would keep their GPUs, and write files that the next Snakemake makes too.
"""

import multiprocessing
import os
import re
import signal
import threading
from contextlib import suppress
from types import FrameType

import psutil

GRACE = 3.0  # seconds that a Ctrl-C, which a terminal sends to the jobs as well, has before they get SIGTERM
SNAKEMAKE = "OCSRFLOW_SNAKEMAKE"  # environment variable: the process id of the Snakemake that started a stage


def stop_jobs_on_signal() -> None:
    """From here on, a signal that stops this Snakemake stops its jobs on this machine as well, by SIGTERM.

    A training saves and leaves. For ``onstart``, when Snakemake's own signal handlers are there.
    """
    for number in _signals():
        signal.signal(number, _stop_jobs)


def _signals() -> list[signal.Signals]:
    stops = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    return [number for number in stops if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP


def _stop_jobs(number: int, _: FrameType | None) -> None:
    for other in _signals():  # a second signal must not tear Snakemake away from the jobs that it waits for
        signal.signal(other, lambda *_: None)
    timer = threading.Timer(GRACE if number == signal.SIGINT else 0.0, _terminate, [_stages()])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt  # on which Snakemake starts no further jobs, cancels those on SLURM, and waits for the rest


def _stages() -> list[psutil.Process]:
    """The stages among this process' children; the shells around them wait for their end."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has gone
            if any(re.search(r"(^|/)ocsrflow(\.\w+)?$", word) for word in process.cmdline()[1:4]):
                found.append(process)
    return found


def _terminate(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()


def stop_with_snakemake() -> None:
    """From here on, stop this process by SIGTERM when its Snakemake has died, however it died.

    Does nothing in a process that was started by hand.
    """
    snakemake = os.environ.get(SNAKEMAKE, "")
    if snakemake.isdecimal():
        threading.Thread(target=_stop_after, args=(int(snakemake),), daemon=True).start()


def follow_parent() -> None:
    """End a process of a pool, which waits for work for ever, at once when the process that made the pool has died."""
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        threading.Thread(target=_exit_after, args=(parent.pid,), daemon=True).start()


def _stop_after(snakemake: int) -> None:
    _wait_for_end(snakemake)
    os.kill(os.getpid(), signal.SIGTERM)


def _exit_after(parent: int) -> None:
    _wait_for_end(parent)
    os._exit(1)


def _wait_for_end(process: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it has gone already
        psutil.Process(process).wait()
