"""Runs everything that was never seen on a GPU, step by step within a time, and writes down what it finds as it goes.

Each step runs in a process of its own, forked from this one, in which the packages are imported and CUDA has not
begun: it starts at once, and one that hangs, or breaks the GPU's context, costs only itself.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import correctness
import further_training
import speed
import torch
from data import draw
from ocsrflow.config.depiction import Depiction
from plan import FULL, TOY, Plan, Row, varied

FORK = multiprocessing.get_context("fork")
DRAWN, TRAINED = 0.5, 0.4  # share of the time after which no more is drawn; and what the training has at least


@dataclass
class Table:
    """What one or more steps found."""

    title: str
    note: str
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing failed, and everything is as it should be."""
        return not self.failures and all(row.get("ok", True) for row in self.rows)

    def markdown(self) -> str:
        """The table, with what failed under it."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [f"## {self.title}", "", self.note, ""]
        if columns:
            lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in self.rows]
        return "\n".join([*lines, *(f"\n**Failed:** {failure}" for failure in self.failures), ""])


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**NO**"
    text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


@dataclass
class Report:
    """All tables, in files that are written anew after every row."""

    folder: Path
    tables: list[Table] = field(default_factory=list)

    def write(self) -> None:
        """Write gpu.md and gpu.json."""
        head = "# What a GPU shows\n\nMade by `tests/gpu/run.sh`, which says what it is.\n"
        (self.folder / "gpu.md").write_text("\n".join([head, *(table.markdown() for table in self.tables)]))
        found = {table.title: {"rows": table.rows, "failures": table.failures} for table in self.tables}
        (self.folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")

    def table(self, function: Callable[..., object]) -> Table:
        """The table of a step, by its function; several steps of one function share one."""
        title = function.__name__.replace("_", " ").capitalize()
        if not self.tables or self.tables[-1].title != title:
            self.tables.append(Table(title, " ".join((function.__doc__ or "").split())))
        return self.tables[-1]


class Step:
    """A step in its process, which has begun."""

    def __init__(self, function: Callable[[], Iterator[Row]], log: Path, nice: int = 0) -> None:
        self.receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_work, args=(function, sender, log, nice))
        self.process.start()
        sender.close()

    def rows(self, seconds: float) -> Iterator[Row]:
        """What it finds.

        Raises
        ------
        RuntimeError
            When it failed, or takes longer than ``seconds``; it is ended then, with its processes.
        """
        until = time.time() + seconds
        try:
            while self.receiver.poll(max(0.0, until - time.time())):
                message = self.receiver.recv()
                if message is None:
                    return
                if isinstance(message, str):
                    raise RuntimeError(message)
                yield message
            raise RuntimeError(f"ended after {seconds:.0f} s")
        except EOFError:
            self.process.join(5)
            raise RuntimeError(f"its process ended with status {self.process.exitcode}") from None
        finally:
            self.end()

    def end(self) -> None:
        """End its process and those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join(5)


def _work(function: Callable[[], Iterator[Row]], sender: Connection, log: Path, nice: int) -> None:
    os.setsid()
    os.nice(nice)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        for row in function():
            sender.send(row)
        sender.send(None)
    except BaseException as error:  # whatever it is, it is written down
        traceback.print_exc()
        sender.send(" ".join(f"{type(error).__name__}: {error}".split())[:400])


def machine(plan: Plan) -> Iterator[Row]:
    """What this ran on."""
    device = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU, a toy: its figures mean nothing"
    row = {"device": device, "cores": plan.cores, "torch": torch.__version__, "CUDA": torch.version.cuda}
    if plan.device == "cuda":
        row["GiB"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    yield row | {"Python": sys.version.split()[0], "when": time.strftime("%Y-%m-%d %H:%M")}


def small_sets(plan: Plan) -> Iterator[Row]:
    """Pictures for the checks, drawn here by the real stages."""
    for path, depiction in ((plan.drawings, varied(plan.sizes.frame)), (plan.plain, Depiction())):
        began = time.time()
        length, size = plan.sizes.max_length, plan.sizes.molecules
        draw(path.parent, depiction, processes=plan.cores, max_length=length, size=size)
        yield {"set": path.parent.name, "molecules": size, "seconds": time.time() - began}


def training_set(plan: Plan) -> Iterator[Row]:
    """Pictures for the training, as many as there is time for, drawn beside the rest."""
    began, limits = time.time(), plan.sizes.training_set
    depiction, length = varied(plan.sizes.training_frame), plan.sizes.max_length
    processes = max(1, plan.cores - 4)
    path = draw(
        plan.work / "training", depiction, processes=processes, max_length=length, until=plan.draw_until, **limits
    )
    yield {"file": str(path), "MB": path.stat().st_size / 1e6, "seconds": time.time() - began}


def has_gpu() -> bool:
    """Whether PyTorch can use a GPU; asked in another process, since CUDA must not begin in this one."""
    with FORK.Pool(1) as pool:
        return bool(pool.apply(torch.cuda.is_available))


def run(plan: Plan, report: Report) -> None:
    """All steps, one after the other, within the time."""
    log = report.folder / "log.txt"

    def do(seconds: float, function: Callable[..., Iterator[Row]], *given: object, step: Step | None = None) -> None:
        table = report.table(function)
        # Whatever goes wrong, the training and its pictures must have their time.
        last = function in (training_set, further_training.further_training)
        reserved = 0.0 if last else TRAINED * (plan.deadline - BEGAN)
        seconds = min(seconds, plan.deadline - reserved - time.time())
        try:
            if seconds <= 0:
                raise RuntimeError("left out: no time")
            for row in (step or Step(partial(function, *given, plan), log)).rows(seconds):
                table.rows.append(row)
                report.write()
        except RuntimeError as error:
            table.failures.append(" ".join([*map(str, given), str(error)]))
        report.write()
        print(f"{time.time() - BEGAN:4.0f} s  {table.title}: {'done' if table.good else 'SEE gpu.md'}", flush=True)

    drawing = Step(partial(training_set, plan), log, nice=10)
    try:
        do(60, machine)
        do(90, small_sets)
        do(60, correctness.decoder_pass)
        do(90, correctness.training_steps)
        do(60, correctness.graph_replay)
        do(60, correctness.reading)
        for encoder in plan.sizes.encoders:
            do(60, speed.training_speed, encoder)
        do(60, speed.reading_speed)
        do(90, speed.one_image)
        do(plan.deadline - time.time(), training_set, step=drawing)
        if rows := report.tables[-1].rows:
            do(plan.deadline - time.time(), further_training.further_training, Path(rows[0]["file"]))
    finally:
        drawing.end()


BEGAN = float(os.environ.get("GPU_BEGAN", time.time()))  # when run.sh did


def main() -> None:
    """Run, write and leave."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="all of it takes no longer")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "results/gpu")))
    parser.add_argument("--toy", action="store_true", help="tiny, on the CPU")
    given = parser.parse_args()
    if not given.toy and not has_gpu():
        print("no GPU that PyTorch can use here: --toy runs it at toy size on the CPU", file=sys.stderr)
        sys.exit(2)
    if given.toy:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    cores = 1 if given.toy else len(os.sched_getaffinity(0))
    seconds = 60 * given.minutes
    report = Report(given.out.resolve())
    report.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ocsrflow-gpu-", ignore_cleanup_errors=True) as work:
        sizes, device = (TOY, "cpu") if given.toy else (FULL, "cuda")
        plan = Plan(sizes, device, Path(work), report.folder, BEGAN + DRAWN * seconds, BEGAN + seconds, cores)
        run(plan, report)
    good = all(table.good for table in report.tables)
    print(f"{time.time() - BEGAN:4.0f} s  {report.folder}/gpu.md: {'all as it should be' if good else 'NOT all well'}")
    sys.exit(not good)
