"""What Snakemake needs to plan a data set of many shards: dry runs of this checkout, few shards beside many.

    python tests/benchmarks/planning.py [--shards 10 10000] [--rounds 3]

Nothing is computed: the toy experiment is planned, with one of its data sets divided into so many shards. Four plans of
each: of an empty folder; of a finished run; of one in which every module has a new date, so that all checksums are
compared; and of a single shard, as each job of a cluster does when it starts. For the second and third, empty files
stand for all outputs, and ``snakemake --touch`` writes Snakemake's own metadata of them (without its pause of 0.1 s a
job), which is measured too: a real run's head process has the same to do. Of 10,000 jobs it takes six minutes of CPU.
Everything is printed, into a file. Beside the wall clock stand the CPU seconds, which a busy machine changes less.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

REPOSITORY = Path(__file__).parent.parent.parent
NEEDED = ("Snakefile", "config.yaml", "envs", "workflow", "tests/workflow")
CONFIG = "planned.yaml"
DRY = ("-m", "snakemake", "-n", "--cores", "2", "--configfile", CONFIG)
ONE = ("--nolock", "--force", "--target-jobs", "render:dataset=short,shard=1", "--allowed-rules", "render", "--")
TOUCH = """
from snakemake.executors.touch import Executor
from snakemake.cli import main
Executor.SLEEPING_TIME = 0
main()
"""


class Cost(NamedTuple):
    """What one process took."""

    wall: float  # seconds
    cpu: float  # seconds, user and system
    megabytes: float  # largest resident memory
    text: str  # what it printed


def checkout(folder: Path, shards: int) -> None:
    """This checkout's workflow, in a folder, and the toy's configuration with so many shards."""
    for name in NEEDED:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    config = yaml.safe_load((folder / "tests/workflow/toy.yaml").read_text())
    config["datasets"][0]["shards"] = shards
    (folder / CONFIG).write_text(yaml.safe_dump(config))


def measured(folder: Path, *words: str) -> Cost:
    """Run Python with these arguments."""
    printed = folder / "printed.txt"
    with open(printed, "w") as file:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(printed.read_text()[-5000:])
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed.read_text())


def pretend_finished(folder: Path) -> Cost:
    """Give every job empty outputs and Snakemake's metadata; what the latter cost."""
    summary = subprocess.run(
        [sys.executable, "-m", "snakemake", "--summary", "--cores", "2", "--configfile", CONFIG],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in summary.stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("{}" if path.suffix == ".json" else "")
        else:
            path.mkdir(exist_ok=True)  # of the report's figures
    return measured(folder, "-c", TOUCH, "--touch", "--forceall", "--cores", "2", "--configfile", CONFIG)


def plans(folder: Path, shards: int, rounds: int) -> Iterator[tuple[str, list[Cost]]]:
    """The names of all plans, and what each round of them cost."""

    def plan(*options: str, expected: str) -> list[Cost]:
        costs = [measured(folder, *DRY, *options) for _ in range(rounds)]
        if not all(expected in cost.text for cost in costs):
            raise SystemExit(f"{shards} shards: another plan than expected:\n{costs[-1].text[-3000:]}")
        return costs

    yield "empty folder", plan(expected=f"Draw shard {shards - 1} of {shards} of data set short")
    yield "metadata of all jobs (--touch), once", [pretend_finished(folder)]
    yield "finished run", plan(expected="Nothing to be done")
    yield "one shard, as a job of a cluster", plan(*ONE, expected="Draw shard 1 of ")
    for path in (folder / "workflow").rglob("*.py"):
        path.touch()
    yield "finished run, new dates", plan(expected="Nothing to be done")


def files_of(folder: Path) -> tuple[int, float]:
    """Files of Snakemake's metadata, and their size on disk (MB)."""
    files = [path.stat() for path in (folder / ".snakemake" / "metadata").rglob("*") if path.is_file()]
    return len(files), sum(status.st_blocks for status in files) * 512 / 1e6


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| shards | plan | seconds | CPU seconds | peak MB |\n|---|---|---|---|---|", flush=True)
    for shards in options.shards:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            checkout(folder, shards)
            for plan, costs in plans(folder, shards, options.rounds):
                wall, cpu = (statistics.median(cost[i] for cost in costs) for i in (0, 1))
                most = max(cost.megabytes for cost in costs)
                print(f"| {shards:,} | {plan} | {wall:.1f} | {cpu:.1f} | {most:.0f} |", flush=True)
            count, megabytes = files_of(folder)
            print(f"| {shards:,} | Snakemake's metadata: {count:,} files, {megabytes:.0f} MB | | | |", flush=True)


if __name__ == "__main__":
    main()
