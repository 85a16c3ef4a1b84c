"""A process that reads what may be harmful, under limits of time and memory, and tells how it went."""

import multiprocessing
import os
import re
import resource
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

SECONDS = 10.0  # of CPU time, for one file
BUSY = 30  # times as long it may take by the clock, on a busy machine
MEGABYTES = 1024  # that reading one file may add to the memory in use
ADDRESS_SPACE = 6 << 30  # bytes; what asks for more is refused by the kernel, whether it would use it or not

# What readers import takes seconds: the server that forks the sandboxes has done it once.
HEAVY = [
    "ocsrflow.corpus.filter",
    "ocsrflow.pictures.benchmark_set",
    "ocsrflow.training.checkpoints",
    "ocsrflow.reader.ensemble_reader",
    "ocsrflow.config.experiment",
]

Read = Callable[[Path], None]


class Limits(NamedTuple):
    """What reading one file may take."""

    seconds: float = SECONDS  # of CPU time
    megabytes: int = MEGABYTES


class Outcome(NamedTuple):
    """How the reading of one file ended."""

    kind: str  # read, refused; or what must not be: crashed, died, hung, grew
    detail: str = ""
    seconds: float = 0.0
    megabytes: int = 0  # at most, above what was in use before

    @property
    def harmless(self) -> bool:
        """Whether the file was read, or refused as files are to be refused."""
        return self.kind in ("read", "refused")


class Sandbox:
    """One process for one reader; a new one takes its place where it dies or hangs."""

    def __init__(self, read: Read, refusals: tuple[type[Exception], ...], *, lines: int = 1) -> None:
        """Start it.

        Parameters
        ----------
        read
            Reads a file; a function of a module, for it is handed to another process.
        refusals
            What it may raise.
        lines
            At most so many lines of text may be in what it raises.
        """
        self._arguments = (read, refusals, lines)
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(HEAVY)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def read(self, data: bytes | Path, limits: Limits = Limits()) -> Outcome:  # noqa: B008  (immutable)
        """Read some bytes, or a file that lies there already."""
        self._pipe.send(data)
        began, before = time.monotonic(), self._seconds()
        while not self._pipe.poll(0.1):
            used, waited = self._seconds() - before, time.monotonic() - began
            if used > limits.seconds or waited > BUSY * limits.seconds:
                self.close()
                self._start()
                return Outcome("hung", f"no end after {waited:.0f} s, {used:.0f} s of them at work", waited)
        try:
            outcome: Outcome = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Outcome("died", f"exit code {code}")
        if outcome.harmless and outcome.megabytes > limits.megabytes:
            return outcome._replace(kind="grew", detail=f"{outcome.megabytes} MB; {outcome.detail}")
        return outcome

    def _seconds(self) -> float:
        """The CPU time of the process so far; 0 where it has just died."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, read: Read, refusals: tuple[type[Exception], ...], lines: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries of C write there, too
        os.dup2(nowhere, stream)
    torch.set_num_threads(1)  # threads that wait for one another would be counted as at work
    used = _memory("VmSize") << 20
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="ocsrflow-fuzz-") as folder:
        pipe.send("ready")
        while True:
            try:
                data = pipe.recv()
            except EOFError:
                return
            path = data if isinstance(data, Path) else Path(folder) / "file"
            if isinstance(data, bytes):
                path.write_bytes(data)
            del data
            pipe.send(attempt(read, path, refusals, lines))


def attempt(read: Read, path: Path, refusals: tuple[type[Exception], ...], lines: int) -> Outcome:
    """Read a file in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _memory("VmRSS"), time.monotonic()
    kind, detail = "read", ""
    try:
        read(path)
    except refusals as error:
        kind, detail = "refused", str(error)
        if not detail or len(detail.splitlines()) > lines:
            kind, detail = "crashed", f"the refusal should have 1 to {lines} lines: {detail!r}"
    except Exception:
        kind, detail = "crashed", traceback.format_exc(limit=-6)
    return Outcome(kind, detail, time.monotonic() - began, _memory("VmHWM") - before)


def _memory(what: str) -> int:
    """Megabytes, of this process."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024
