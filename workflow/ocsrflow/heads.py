"""Snakemake itself, the head of a run: what it is told to stop stops its jobs, and nothing is left of a dead one."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

import psutil

from .errors import UserError

GRACE = 3.0  # seconds that a Ctrl-C, which a terminal sends to the jobs as well, has before they are sent SIGTERM
POLL = 1.0  # seconds
LONGEST = 900.0  # seconds that a cluster's jobs have to save and go


def stop_with_jobs() -> None:
    """From here on, a signal to this Snakemake alone stops its jobs as well: a training saves and leaves.

    Snakemake itself stops its jobs of a cluster, but waits for those of this machine, which may take days; SIGHUP ends
    it at once. To be called when its own signal handlers are there.
    """
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, _stop)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    timer = threading.Timer(GRACE if number == signal.SIGINT else 0.0, _stop_stages)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt  # which Snakemake takes for Ctrl-C: no further jobs, and it waits for these to end


def _stop_stages() -> None:
    """Send SIGTERM to the stages among this process' children; a shell around one waits for it."""
    for process in psutil.Process().children(recursive=True):
        try:
            if any(word.startswith("ocsrflow.") for word in process.cmdline()[:6]):
                process.terminate()
        except psutil.Error:  # it has gone
            continue


def cancel_left_jobs() -> None:
    """Cancel this folder's jobs on SLURM that an earlier Snakemake left when it was killed, and wait for their end.

    Snakemake's lock keeps a second one out of the folder, so whatever is there when one begins is nobody's. A training
    saves before it goes, and goes on in its next job.

    Raises
    ------
    UserError
        Where SLURM does not answer, or jobs do not end.
    """
    left = _jobs_here()
    if not left:
        return
    print(f"stopping {len(left)} jobs that an earlier Snakemake left: {', '.join(left)}", file=sys.stderr, flush=True)
    _slurm("scancel", *left)
    until = time.monotonic() + LONGEST
    while left := _jobs_here():
        if time.monotonic() > until:
            raise UserError(f"jobs of an earlier Snakemake do not end: {', '.join(left)}; scancel them and start again")
        time.sleep(POLL)


def _jobs_here() -> list[str]:
    """Numbers of our jobs on SLURM that work in this folder, running or waiting."""
    found = []
    for line in _slurm("squeue", "--me", "--noheader", "--format=%A %k %Z").splitlines():
        # Snakemake's comment on a job, then its folder.
        job = re.fullmatch(r"\s*(\d+) ((?:rule|group)_\S*) (.*)", line)
        if job and os.path.realpath(job[3]) == os.path.realpath("."):
            found.append(job[1])
    return list(dict.fromkeys(found))


def _slurm(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"{command[0]} failed, is SLURM there? {' '.join(run.stderr.split())}")
    return run.stdout
