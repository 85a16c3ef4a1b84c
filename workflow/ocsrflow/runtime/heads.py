"""Snakemake itself, the head of a run: what it is told to stop stops its jobs, and nothing is left of a dead one."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import psutil

from .errors import UserError

GRACE = 3.0  # seconds that a Ctrl-C, which a terminal sends to the jobs as well, has before they are sent SIGTERM
POLL = 1.0  # seconds
LONGEST = 900.0  # seconds that a cluster's jobs have to save and go
HEADS = Path(".snakemake/ocsrflow-heads")  # a file for each head on SLURM, locked as long as it lives


class Head:
    """The process of Snakemake; ``slurm_name`` is what its jobs on SLURM are called, where it runs them there."""

    def __init__(self, slurm_name: str | None = None) -> None:
        self.slurm_name = slurm_name

    def stop_with_jobs(self) -> None:
        """From here on, a signal to this process alone stops its jobs as well: a training saves and leaves.

        Snakemake waits for its jobs of this machine, which may take days, and SIGHUP ends it at once. To be called when
        its own signal handlers are there.
        """
        for number in _signals():
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: FrameType | None) -> None:
        stages = _stages()  # what Snakemake starts from here on closes the run
        for other in _signals():  # a second one must not tear it away from the jobs that it waits for
            signal.signal(other, lambda *_: self._end(stages))
        timer = threading.Timer(GRACE if number == signal.SIGINT else 0.0, self._end, [stages])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt  # which Snakemake takes for Ctrl-C: no further jobs, and it waits for these to end

    def _end(self, stages: list[psutil.Process]) -> None:
        for process in stages:
            with suppress(psutil.Error):  # it has gone
                process.terminate()
        if self.slurm_name:  # Snakemake cancels those that it is not just asking about
            subprocess.run(["scancel", "--me", "--name", self.slurm_name], check=False)

    def cancel_left_jobs(self) -> None:
        """Cancel this folder's jobs on SLURM that an earlier Snakemake left when it was killed; wait for their end.

        Those of another one that lives are left alone: two may be at work in a folder, at different files. A training
        saves before it goes, and goes on in its next job.

        Raises
        ------
        UserError
            Where SLURM does not answer, or jobs do not end.
        """
        HEADS.mkdir(parents=True, exist_ok=True)
        self._file = open(HEADS / str(self.slurm_name), "w")  # noqa: SIM115  (open until this process ends)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        left = [job for job in _jobs_here() if not _alive(job.head)]
        if not left:
            return
        numbers = [job.number for job in left]
        told = f"stopping {len(left)} jobs that an earlier Snakemake left: {', '.join(numbers)}"
        print(told, file=sys.stderr, flush=True)
        _slurm("scancel", *numbers)
        until = time.monotonic() + LONGEST
        while still := {job.number for job in _jobs_here()} & {*numbers}:
            if time.monotonic() > until:
                raise UserError(f"jobs of an earlier Snakemake do not end: {', '.join(sorted(still))}; see scontrol")
            time.sleep(POLL)
        for job in left:
            (HEADS / job.head).unlink(missing_ok=True)


class Job(NamedTuple):
    """A job on SLURM."""

    number: str
    head: str  # what its Snakemake calls all of its jobs


def _signals() -> list[signal.Signals]:
    """Signals that stop a run; nohup ignores SIGHUP."""
    deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if deaf else [signal.SIGHUP])]


def _stages() -> list[psutil.Process]:
    """The stages among this process' children; a shell around one waits for it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has gone
            if any(word.startswith("ocsrflow.") for word in process.cmdline()[:6]):
                found.append(process)
    return found


def _alive(head: str) -> bool:
    """Whether the Snakemake of some jobs is at work, on whatever machine."""
    try:
        with open(HEADS / head, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _jobs_here() -> list[Job]:
    """Our jobs on SLURM that work in this folder, running or waiting."""
    found = []
    for line in _slurm("squeue", "--me", "--noheader", "--format=%A %j %k %Z").splitlines():
        # Number, name, Snakemake's comment, folder.
        job = re.fullmatch(r"\s*(\d+) (\S+) (?:rule|group)_\S* (.*)", line)
        if job and os.path.realpath(job[3]) == os.path.realpath("."):
            found.append(Job(job[1], job[2]))
    return list(dict.fromkeys(found))


def _slurm(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"{command[0]} failed, is SLURM there? {' '.join(run.stderr.split())}")
    return run.stdout
