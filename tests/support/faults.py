"""The table at the end of the tests of faults: what was tried, what was survived, and what work was lost."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import pytest

FULL = os.environ.get("OCSRFLOW_FAULTS") == "full"  # `make test-faults`; else a sample of each
PROPERTY = "fault"


@dataclass
class Row:
    """One kind of fault in one stage."""

    tried: int = 0
    survived: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # work, by unit


class Fault:
    """A fault, or some of a kind, being tried."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.work: Counter[str] = Counter()

    def lost(self, amount: float, unit: str) -> None:
        """Work that has to be done again, in whatever it is counted in: seconds, steps, bytes."""
        self.work[unit] += amount


class Faults:
    """Those that a test tries, told to whoever prints the table, which may be another process."""

    def __init__(self, tell: Callable[[str, object], None]) -> None:
        self.tell = tell

    @contextmanager
    def tried(self, kind: str, stage: str, times: int = 1) -> Iterator[Fault]:
        """Count a fault as tried, and as survived where the block ends well: the assertions belong into it.

        Where a test repeats its fault, it gives ``times``, or sets it in the block.
        """
        fault, survived = Fault(times), False
        try:
            yield fault
            survived = True
        finally:
            self.tell(PROPERTY, [kind, stage, fault.times, fault.times if survived else 0, dict(fault.work)])


@pytest.fixture
def faults(record_property: Callable[[str, object], None]) -> Faults:
    """Where a test counts its faults; the table is printed at the end."""
    return Faults(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    rows: dict[tuple[str, str], Row] = {}
    for report in chain.from_iterable(terminalreporter.stats.values()):
        for name, told in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                kind, stage, tried, survived, work = told
                row = rows.setdefault((kind, stage), Row())
                row.tried += tried
                row.survived += survived
                row.lost += Counter(work)  # only what is above zero is kept
    if rows:
        terminalreporter.section("faults")
        for line in lines(rows):
            terminalreporter.write_line(line)


def lines(rows: Mapping[tuple[str, str], Row]) -> Iterator[str]:
    """The table, a row for each kind and stage, and the sum."""
    total = Row(sum(row.tried for row in rows.values()), sum(row.survived for row in rows.values()))
    told = [(*key, rows[key]) for key in sorted(rows)] + [("all", "", total)]
    header = ("fault", "stage", "tried", "survived", "lost work")
    table = [header, *((kind, stage, str(row.tried), str(row.survived), _told(row)) for kind, stage, row in told)]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for kind, stage, tried, survived, lost in table:
        numbers = f"{tried:>{widths[2]}}  {survived:>{widths[3]}}"
        yield f"{kind:{widths[0]}}  {stage:{widths[1]}}  {numbers}  {lost}".rstrip()


def _told(row: Row) -> str:
    return ", ".join(f"{amount:,.{1 if amount % 1 else 0}f} {unit}" for unit, amount in row.lost.items())
