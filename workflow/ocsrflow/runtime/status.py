"""How far a run has come: a table of the stages, while it goes on, after it was cut off or failed, and at its end.

Snakemake says which jobs there are and which of them it would run. ``snakemake --summary`` tells too little: it names
the log of a job only once that has run, so that what is missing cannot be told apart by jobs. So its own job graph is
read, which is built as for ``--summary``: without taking the lock, heeding it or writing anything.
"""

import base64
import binascii
import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from . import cli
from .errors import UserError

SNAKEMAKE = Path(".snakemake")
SHOWN = 8  # running or broken off jobs of a stage that get a line of their own
TAIL_BYTES = 8192
LOADING_SECONDS = 1.0  # a clock's error: Snakemake takes longer from its start to its lock


@dataclass(frozen=True)
class Job:
    """A job of the run, as Snakemake plans it."""

    stage: str
    outputs: tuple[Path, ...]
    log: Path | None
    benchmark: Path | None
    planned: bool  # Snakemake would run it

    @property
    def name(self) -> str:
        """Its wildcards, which name its log."""
        return self.log.stem if self.log else self.outputs[0].name


@dataclass(frozen=True)
class Marker:
    """Snakemake's mark on an output whose job has begun and not ended."""

    since: float  # Unix time
    submitted: bool  # to a cluster, where the job may wait


@dataclass(frozen=True)
class Head:
    """The Snakemake that holds the lock."""

    since: float  # Unix time of the lock
    pid: int | None
    host: str | None  # where it runs, if it is not this machine

    @property
    def alive(self) -> bool:
        """False where the lock was left by a killed one."""
        return self.pid is not None or self.host is not None


@dataclass(frozen=True)
class Run:
    """What is known of the run beside its jobs."""

    started: float | None  # Unix time
    command: str | None
    head: Head | None


def status(results: Path = Path("results"), /) -> None:
    """Print how far the run has come whose results are in a folder; call it in the checkout.

    Parameters
    ----------
    results
        The folder of the results.
    """
    description = results / "experiment.yaml"
    if not description.is_file():
        others = sorted(str(path.parent) for path in results.glob("*/experiment.yaml"))
        hint = f"; give one of: {', '.join(others)}" if others else ""
        print(f"{results}: no run has started yet ({description} is not there){hint}")
        return
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile here: call it in the folder of the checkout")
    experiment = read_experiment(description)
    if os.path.realpath(experiment["results"]) != os.path.realpath(results):
        raise UserError(f"{description}: is of the results in {experiment['results']!r}: give that folder")
    jobs, marked = planned_jobs(description), markers(SNAKEMAKE / "incomplete")
    run = read_run(results / "workflow.json", jobs)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    bold = terminal and not os.environ.get("NO_COLOR")
    for line in table(jobs, marked, run, experiment, width=width, bold=bold):
        print(line)
    print(ending(jobs, marked, run))


def read_experiment(path: Path) -> dict[str, Any]:
    """The configuration that a run wrote down.

    Raises
    ------
    UserError
        Where it is damaged.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path}: damaged, no YAML ({told}); the next run writes it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("results"), str):
        raise UserError(f"{path}: damaged, it names no folder of results; the next run writes it again")
    return found


def planned_jobs(configuration: Path) -> list[Job]:
    """The jobs of the default target with a file as their output, in the order of their rules.

    Raises
    ------
    UserError
        Where Snakemake cannot plan: its own words.
    """
    # Not above: it takes more than a second to import, and a run that has not started needs nothing of it.
    from snakemake.api import SnakemakeApi  # type: ignore[import-untyped]
    from snakemake.settings.enums import RerunTrigger  # type: ignore[import-untyped]
    from snakemake.settings.types import (  # type: ignore[import-untyped]
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        ResourceSettings,
    )

    # Conda environments are known to a Snakemake that uses them alone: to this one, all would have changed.
    triggers = RerunTrigger.all() - {RerunTrigger.SOFTWARE_ENV}
    quiet = OutputSettings(log_level_override=logging.ERROR, enable_file_logging=False)
    try:
        with SnakemakeApi(quiet) as api, contextlib.redirect_stdout(io.StringIO()):
            workflow = api.workflow(ResourceSettings(), config_settings=ConfigSettings(configfiles=[configuration]))
            workflow.dag(DAGSettings(rerun_triggers=triggers)).summary()
            # Snakemake offers nothing public that tells all outputs and the log of a job that has not run.
            graph = workflow._workflow.dag
            order = {rule.name: place for place, rule in enumerate(workflow._workflow.rules)}
            found = [
                Job(
                    stage=job.rule.name,
                    outputs=tuple(Path(path) for path in job.output),
                    log=Path(job.log[0]) if job.log else None,
                    benchmark=Path(job.benchmark) if job.benchmark else None,
                    planned=graph.needrun(job),
                )
                for job in graph.jobs
                if job.output
            ]
    except Exception as error:  # noqa: BLE001 - whatever a Snakefile raises
        raise UserError(f"Snakemake cannot plan: {' '.join(str(error).split()) or type(error).__name__}") from None
    return sorted(found, key=lambda job: (order[job.stage], job.name))


def markers(folder: Path) -> dict[Path, Marker]:
    """The outputs that Snakemake has marked as incomplete.

    A marker's name is its output's path in base64; one that is longer than a file system allows is divided into
    folders, whose names have an ``@`` before them.
    """
    found = {}
    for path in folder.rglob("*"):
        name = "".join(part.removeprefix("@") for part in path.relative_to(folder).parts)
        try:
            output = Path(base64.urlsafe_b64decode(name).decode())
            found[output] = Marker(path.stat().st_mtime, _job_id(path.read_text(encoding="utf-8")) is not None)
        except (binascii.Error, UnicodeDecodeError, OSError):
            continue  # a folder, something else, or gone since: its job has just ended
    return found


def _job_id(text: str) -> str | None:
    try:
        number: str | None = json.loads(text)["external_jobid"]
    except (ValueError, KeyError, TypeError):  # it is being written
        return None
    return number


def read_run(path: Path, jobs: Iterable[Job]) -> Run:
    """What the run's own description, Snakemake's log and its lock tell of it."""
    started = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        started = datetime.fromisoformat(json.loads(path.read_text(encoding="utf-8"))["started"]).timestamp()
    told = snakemake_log(SNAKEMAKE / "log", started)
    outputs = {str(output) for job in jobs for output in job.outputs}
    return Run(started, told.get("Command"), head(SNAKEMAKE / "locks", outputs, told.get("Host")))


def snakemake_log(folder: Path, started: float | None) -> dict[str, str]:
    """The header of Snakemake's log of the last run, such as its ``Host`` and its ``Command``.

    Only runs have one; and the log of another experiment's run, which began later, is not this one's.
    """
    for path in sorted(folder.glob("*.snakemake.log"), reverse=True):
        try:
            opened = datetime.strptime(path.name[:17], "%Y-%m-%dT%H%M%S").timestamp()
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [next(file, "") for _ in range(40)]
        except (OSError, ValueError):
            continue
        found = {match[1]: match[2] for line in lines if (match := re.match(r"  (\w+): (.*)", line))}
        if "Command" in found and (started is None or opened <= started + LOADING_SECONDS):
            return found
    return {}


def head(locks: Path, outputs: set[str], host: str | None) -> Head | None:
    """The Snakemake that makes these outputs; None where no lock names one of them.

    Parameters
    ----------
    locks
        Snakemake's folder of locks.
    outputs
        All outputs of the experiment: others may run in the same checkout.
    host
        Name of the machine where the last run was started, if known.
    """
    for path in sorted(locks.glob("*.output.lock")):
        try:
            if outputs.isdisjoint(path.read_text(encoding="utf-8").splitlines()):
                continue
            since = path.stat().st_mtime
        except OSError:  # it has just ended
            continue
        elsewhere = host if host and host != os.uname().nodename else None
        return Head(since, None if elsewhere else process_of(since), elsewhere)
    return None


def process_of(since: float) -> int | None:
    """The process of the Snakemake in this folder that took a lock at ``since`` (Unix time); None where it has gone.

    A killed one leaves its lock, so that another may be at work here that only looks, or jobs that outlived it, which
    may be Snakemakes too: all these were started after the lock was taken.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.create_time() <= since + LOADING_SECONDS:
                first = [os.path.basename(word) for word in process.cmdline()[:4]]
                if "snakemake" in first and os.path.samefile(process.cwd(), "."):
                    found.append((process.create_time(), process.pid))
    return max(found)[1] if found else None


def table(
    jobs: Sequence[Job],
    marked: Mapping[Path, Marker],
    run: Run,
    experiment: Mapping[str, Any],
    *,
    width: int | None,
    bold: bool,
) -> Iterator[str]:
    """Lines of the table.

    Parameters
    ----------
    jobs
        In the order of their stages.
    marked
        Outputs whose jobs have begun and not ended.
    run
        What else is known.
    experiment
        The configuration.
    width
        Longest line (characters); None for any length.
    bold
        Whether stages with running jobs are set in bold type.
    """
    stages: dict[str, list[Job]] = {}
    for job in jobs:
        stages.setdefault(job.stage, []).append(job)
    first = max(len(stage) for stage in [*stages, "stage"])
    yield f"{'stage':{first}}  {'jobs':>7}  {'time':>8}  last"
    now = time.time()
    for stage, members in stages.items():
        done = [job for job in members if is_done(job, marked)]
        seconds = [benchmark_seconds(job.benchmark) for job in done if job.benchmark]
        spent = clock(sum(seconds)) if seconds else ""
        running, active = activity(members, marked, run, now)
        last = "; ".join([*remark(stage, done, experiment, run.started), *running])
        count = f"{len(done)}/{len(members)}"
        row = f"{stage:{first}}  {count:>7}  {spent:>8}  {last}".rstrip()[:width]
        yield f"\033[1m{row}\033[0m" if bold and running else row
        for line in active[:SHOWN]:
            yield f"{'':{first}}  {line}"[:width]
        if len(active) > SHOWN:
            yield f"{'':{first}}  and {len(active) - SHOWN} more"


def is_done(job: Job, marked: Mapping[Path, Marker]) -> bool:
    """Whether Snakemake would not run it again.

    An output in which nothing is missing any more may have been removed. And one that its killed job has left half
    made counts as made for Snakemake, as long as it only plans.
    """
    return not job.planned and not any(output in marked for output in job.outputs)


def activity(jobs: Iterable[Job], marked: Mapping[Path, Marker], run: Run, now: float) -> tuple[list[str], list[str]]:
    """How many of a stage's jobs run, and a line for each that runs or was broken off: the last of its log."""
    alive = run.head is not None and run.head.alive
    begun = run.head.since if run.head and alive else 0.0  # older marks are those of a killed run before this one
    running: list[float] = []
    waiting = 0
    active = []
    for job in jobs:
        marks = [marked[output] for output in job.outputs if output in marked and marked[output].since >= begun]
        mark = max(marks, key=lambda mark: mark.since, default=None)
        if alive and mark and mark.submitted and modified(job.log) < mark.since:
            waiting += 1
        elif alive and mark:
            running.append(now - mark.since)
            active.append(f"{job.name}, {clock(now - mark.since)}: {word(job) or 'no word yet'}")
        elif is_broken_off(job, bool(marks), run.started):
            active.append(f"{job.name} did not end: {word(job) or 'it said nothing'}")
    told = [f"{len(running)} running for {clock(max(running))}"] if running else []
    return told + ([f"{waiting} submitted"] if waiting else []), active


def word(job: Job) -> str:
    """What a job said last, without its name before it, which many lines of logs have."""
    return last_line(job.log).removeprefix(f"{job.name}:").strip()


def is_broken_off(job: Job, marked: bool, started: float | None) -> bool:
    """Whether a job that does not run has begun in the last run and has not ended, since it failed or was cut off.

    A job that is planned because the configuration has changed since has ended: its benchmark is written last.
    """
    if marked:
        return True
    if not job.planned or not job.log or started is None or modified(job.log) < started:
        return False
    if job.benchmark:
        return modified(job.benchmark) < modified(job.log)
    return not all(output.exists() for output in job.outputs)


def remark(stage: str, done: Sequence[Job], experiment: Mapping[str, Any], started: float | None) -> list[str]:
    """The last score of a stage that has one, as a list of one text or none."""
    results = Path(experiment["results"])
    if stage == "train":
        told = last_training(results, done, experiment, started or 0.0)
    elif stage == "score":
        told = last_score(done)
    else:
        told = None
    return [told] if told else []


def last_training(results: Path, done: Iterable[Job], experiment: Mapping[str, Any], started: float) -> str | None:
    """How well the model does that learnt last in this run; the best of those done if none has learnt since."""
    models = {model["name"]: model for model in experiment.get("models", [])}
    files = [
        (path, match[1])
        for path in results.glob("checkpoints/*/metrics.jsonl")
        if (match := re.fullmatch(r"(.+)-[0-9a-f]{12}", path.parent.name)) and match[1] in models
    ]
    facts = [output for job in done for output in job.outputs if output.name == "model.json"]
    newest, name = max(files, key=lambda file: modified(file[0]), default=(None, ""))
    if newest and modified(newest) > max([started, *map(modified, facts)]):
        epochs = models[name].get("training", {}).get("epochs", "?")
        return training_told(newest, name, epochs)
    scores = [(found["validation_tanimoto"], found["name"]) for path in facts if (found := _facts(path))]
    scores = [(score, name) for score, name in scores if score is not None]
    return "best: {1}, validation Tanimoto {0:.4f}".format(*max(scores)) if scores else None


def training_told(path: Path, name: str, epochs: object) -> str | None:
    """The last validation in a ``metrics.jsonl`` that grows, or the last loss where there was none yet."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for key, told in (("validation_tanimoto", "validation Tanimoto {:.4f} after"), ("loss", "loss {:.3f} in")):
        for line in reversed(lines):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line may be half written
                values = json.loads(line)
                line = f"{name}: {told.format(values[key])} epoch {values['epoch']} of {epochs}"
                return f"{line}, minimum risk" if values.get("phase") == "minimum_risk" else line
    return None


def last_score(done: Iterable[Job]) -> str | None:
    """The Tanimoto similarity of the reader that was scored last."""
    files = [output for job in done for output in job.outputs if output.suffix == ".json"]
    for path in sorted(files, key=modified, reverse=True):
        found = _facts(path)
        if found and "scores" in found:  # a baseline may not be installed
            return f"{found['name']} on {found['test_set']}: Tanimoto {found['scores']['tanimoto']['value']:.4f}"
    return None


def _facts(path: Path) -> dict[str, Any] | None:
    """A JSON file of a job that is done; None where someone has damaged or removed it: the table is more than that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def benchmark_seconds(path: Path) -> float:
    """Running time of a job (s): the sum of the column ``s`` of its benchmark; 0 where it has none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def last_line(path: Path | None) -> str:
    """The last line of a log that says something; empty where there is none."""
    try:
        with open(path or os.devnull, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    # Nothing that would move the cursor or colour the terminal.
    return "".join(c if c.isprintable() else " " for c in lines[-1]).strip() if lines else ""


def modified(path: Path | None) -> float:
    """When a file was written (Unix time); 0 where it is not there."""
    try:
        return path.stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


def clock(seconds: float) -> str:
    """A time (s) as ``0:31``, or ``1:05:00`` from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(at: float) -> str:
    """A Unix time in words: the local time, with the date where it is not today."""
    when = datetime.fromtimestamp(at)
    return f"{when:%H:%M}" if when.date() == datetime.now().date() else f"{when:%Y-%m-%d %H:%M}"


def ending(jobs: Iterable[Job], marked: Mapping[Path, Marker], run: Run) -> str:
    """The last line: whether it runs, has finished, or how it goes on."""
    jobs = list(jobs)
    left = [job for job in jobs if not is_done(job, marked)]
    command = _command(run.command)
    if run.head and run.head.alive:
        since = moment(run.started or run.head.since)
        if run.head.host:
            return f"seems to be running since {since} on {run.head.host}: its lock is there"
        return f"running since {since} (process {run.head.pid})"
    unlock = f"`{command} --unlock`, then " if run.head else ""
    if not left:
        return f"finished {moment(max(modified(output) for job in jobs for output in job.outputs))}"
    # The profiles of this repository have it.
    again = " --rerun-incomplete" if marked and not re.search("profile|rerun-incomplete|--ri", command) else ""
    return f"not running, {len(left)} of {len(jobs)} jobs are left: {unlock}`{command}{again}` goes on from here"


def _command(logged: str | None) -> str:
    """Snakemake's command line as it was typed, as far as its log tells: without the folders before its name."""
    program, _, options = (logged or "snakemake ...").partition(" ")
    name = os.path.basename(program)
    return f"{'snakemake' if name == '__main__.py' else name} {options}".strip()


if __name__ == "__main__":
    cli.run(status)
