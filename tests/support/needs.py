"""What some tests need beyond Python, and an account of the tests that were skipped.

A test that needs a program asks here, and is skipped where the program is not installed. At the end of a test run one
line names what was not tested for want of which program. With ``OCSRFLOW_NO_SKIPS=1``, as CI has it, a test that is
skipped for any other reason fails the run: what is installed is tested.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

STRICT = "OCSRFLOW_NO_SKIPS"
# Names of a program, the first that is there, and Debian's package of it.
PROGRAMS = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium"),
    "initdb": (("initdb",), "postgresql"),
    "slurmctld": (("slurmctld",), "slurm-wlm"),
    "munged": (("munged",), "munge"),
    "osra": (("osra",), "osra"),
    "g++": (("g++",), "g++"),
}
# What cannot be had everywhere.
ELSEWHERE = (
    "needs a GPU",
    "needs the shared corpus beside this checkout",
    "needs root, who may mount file systems",
    "needs root, who may start SLURM's daemons",
)
MISSING = re.compile(r"(\S+) is not installed: apt-get install \S+")


@cache
def found(program: str) -> str | None:
    """Where a program is; Debian keeps PostgreSQL's off the PATH."""
    names, _ = PROGRAMS[program]
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True) if program == "initdb" else []
    places = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, homes)])
    return next(filter(None, (shutil.which(name, path=places) for name in names)), None)


def need(program: str) -> str:
    """Where a program is; the test is skipped where it is not installed."""
    where = found(program)
    if where is None:
        pytest.skip(f"{program} is not installed: apt-get install {PROGRAMS[program][1]}")
    return where


def mount(*command: str | Path) -> None:
    """Run a command that mounts something; the test is skipped where nothing can be mounted, as in most containers."""
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root, who may mount file systems")


def reasons_of(reporter: pytest.TerminalReporter) -> Counter[str]:
    """How many tests were skipped for which reason."""
    reports = reporter.stats.get("skipped", [])
    return Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)


def unexcused(reasons: Counter[str]) -> list[str]:
    """Reasons for which nothing may be skipped where CI runs."""

    def excused(reason: str) -> bool:
        missing = MISSING.fullmatch(reason)
        if missing:
            return missing[1] in PROGRAMS and found(missing[1]) is None
        return reason in ELSEWHERE

    return [reason for reason in reasons if not excused(reason)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where something was skipped without an excuse."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and os.environ.get(STRICT) and unexcused(reasons_of(reporter)) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not tested, in one line."""
    reasons = reasons_of(terminalreporter)
    if reasons:
        text = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        terminalreporter.write_line(f"WARNING: not tested here: {text}", yellow=True)
    if os.environ.get(STRICT):
        for reason in unexcused(reasons):
            terminalreporter.write_line(f"ERROR: skipped without an excuse ({STRICT}=1): {reason}", red=True)
