"""Processes that tests start."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil


def described(processes: Iterable[psutil.Process]) -> str:
    """A line for each process: number, parent, what it does at the moment, command."""
    lines = []
    for process in processes:
        try:
            with process.oneshot():
                facts = f"{process.pid} of {process.ppid()} {process.status()} {' '.join(process.cmdline())}"
            lines.append(f"{facts} [{' '.join(thread_states(process))}]")
        except psutil.Error:
            continue
    return "\n".join(lines) or "no process"


def thread_states(process: psutil.Process) -> list[str]:
    """What the kernel does for each thread of a process: ``hrtimer_nanosleep``, ``futex_wait``, ..."""
    return sorted({_read(f"/proc/{process.pid}/task/{thread.id}/wchan") for thread in process.threads()})


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return "?"


def lives(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def program(path: Path, script: str) -> Path:
    """Write a program for the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def hear_ctrl_c() -> None:
    """Called in a process about to be started: one in the background of a shell is deaf to SIGINT otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python_path(folder: Path) -> str:
    """``PYTHONPATH`` with one folder more, before those that are there."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
