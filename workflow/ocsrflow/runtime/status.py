"""How far a run has come: jobs done and seconds of each rule, what runs, what failed.

Read from Snakemake's log of the last run and from the benchmarks, which each job writes last.
"""

import csv
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from .errors import UserError, visible
from .files import read_json

SNAKEMAKE = Path(".snakemake")
LOADING = 1.0  # seconds by which clocks may differ: Snakemake opens its log before it writes down the run's start
EVENT = re.compile(  # a time; a job that starts, ends or fails
    r"^\[(?P<time>\w+ \w+ +\d+ [\d:]+ \d+)\]$"
    r"|^ {0,4}Job (?P<started>\d+): (?P<message>.*)$"
    r"|^Finished jobid: (?P<finished>\d+) \(Rule: (?P<rule>\w+)\)"
    r"|^Error in rule (?P<failed>\w+):\n(?: {4}.*\n)*? {4}jobid: (?P<broken>\d+)\n"
    r"(?:(?: {4}.*\n)*? {4}log: (?P<log>[^\s,]+))?",
    re.MULTILINE,
)


@dataclass
class Log:
    """What Snakemake's log tells of a run."""

    planned: dict[str, int]  # jobs by rule, in Snakemake's order
    done: Counter[str] = field(default_factory=Counter)
    running: dict[str, tuple[float, str]] = field(default_factory=dict)  # jobs by number: Unix time, message
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)  # jobs by number: rule, log


def status(results: Path = Path("results"), /) -> None:
    """Print how far the last run has come whose results are in a folder; call it in the checkout.

    Example: ``ocsrflow status results/demo``

    Raises
    ------
    UserError
        Where no run has started there, or its log is not here.
    """
    log = read_log(find_log(results))
    seconds = read_benchmarks(results / "benchmarks")
    width = max(map(len, [*log.planned, *seconds, "rule"]))
    print(f"{'rule':{width}}  {'done':>7}  {'seconds':>8}")
    for rule in dict.fromkeys([*log.planned, *seconds]):
        count = f"{log.done[rule]}/{log.planned[rule]}" if rule in log.planned else "before"
        print(f"{rule:{width}}  {count:>7}  {seconds.get(rule, 0):8,.0f}")
    locked = any((SNAKEMAKE / "locks").glob("*"))
    for since, message in log.running.values():
        print(f"{f'running for {time.time() - since:,.0f} s' if locked else 'did not end'}: {message}")
    for rule, path in log.failed.values():
        print(f"failed: {rule}, see {path}: {last_line(Path(path))}")
    done, planned = log.done.total(), sum(log.planned.values())
    if locked:
        print(f"{done} of {planned} jobs are done; Snakemake is at work here, or was killed: then add --unlock once")
    elif done < planned:
        print(f"{done} of {planned} jobs are done, none runs; the same command goes on from here")
    else:
        print(f"finished, {planned} jobs")


def find_log(results: Path) -> Path:
    """Snakemake's log of the last run of these results: the newest one that was opened before the run's start."""
    try:
        started = datetime.fromisoformat(read_json(results / "workflow.json")["started"]).timestamp()
    except FileNotFoundError:
        raise UserError(f"{results}: no run has started yet, there is no workflow.json") from None
    logs = sorted((SNAKEMAKE / "log").glob("*.snakemake.log"))
    before = [p for p in logs if datetime.strptime(p.name[:17], "%Y-%m-%dT%H%M%S").timestamp() <= started + LOADING]
    if not before:
        raise UserError(f"{SNAKEMAKE / 'log'}: no log of the run here; call it in the folder of the checkout")
    return before[-1]


def read_log(path: Path) -> Log:
    """What Snakemake has written of its jobs so far."""
    text = path.read_text(encoding="utf-8", errors="replace")
    counts = re.findall(r"^(\w+) +(\d+)$", text.partition("\nJob stats:\n")[2].partition("\n\n")[0], re.MULTILINE)
    log = Log({rule: int(count) for rule, count in counts if rule not in ("all", "total")})
    now = 0.0
    for event in EVENT.finditer(text):
        if event["time"]:
            now = datetime.strptime(event["time"], "%a %b %d %H:%M:%S %Y").timestamp()
        elif number := event["started"]:
            log.running[number] = (now, event["message"])
            log.failed.pop(number, None)  # it is tried again
        elif event["finished"]:
            log.running.pop(event["finished"], None)
            log.done[event["rule"]] += event["rule"] in log.planned
        else:
            log.running.pop(event["broken"], None)
            log.failed[event["broken"]] = (event["failed"], event["log"] or "")
    return log


def read_benchmarks(folder: Path) -> dict[str, float]:
    """Rules, and the seconds that their finished jobs took together."""
    total: dict[str, float] = defaultdict(float)
    for path in sorted(folder.rglob("*.tsv")):
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                total[path.relative_to(folder).parts[0].removesuffix(".tsv")] += float(row["s"] or 0)
    return dict(total)


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "there is none"
    return visible(re.split(r"[\r\n]+", text.strip())[-1])
