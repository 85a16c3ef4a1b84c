"""Progress that can be watched in a terminal and read in a log file."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

LOG_SECONDS = 10.0


class _Lines:
    """A stream that turns a bar's redrawing into lines, for log files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    what: str,
    unit: str,
    shown: bool = True,
    leave: bool = True,
) -> Any:
    """A tqdm bar on a terminal; elsewhere one line at most every ten seconds.

    Parameters
    ----------
    items
        What to iterate over; None for a bar that is advanced with ``update``.
    total
        How many there are, where ``len(items)`` does not tell.
    initial
        How many of them are done already.
    what
        What is going on, at the start of the line.
    unit
        What is counted.
    shown
        False for a bar that shows nothing.
    leave
        Whether it stays on the terminal when it is done.

    Returns
    -------
    A ``tqdm`` bar.
    """
    options: dict[str, Any] = {
        "total": total,
        "initial": initial,
        "desc": what,
        "unit": f" {unit}",
        "unit_scale": unit == "B",
        "disable": not shown,
        "leave": leave,
    }
    # By itself tqdm writes slow rates as "45.29s/ pictures".
    counted = total is not None or hasattr(items, "__len__")
    if sys.stderr.isatty():
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
        return tqdm(items, dynamic_ncols=True, bar_format=form if counted else None, **options)
    return tqdm(
        items,
        file=_Lines(sys.stderr),
        mininterval=LOG_SECONDS,
        maxinterval=LOG_SECONDS,
        delay=1.0,
        ascii=True,
        bar_format="{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {elapsed} gone, "
        "{remaining} to go{postfix}"
        if counted
        else "{desc}: {n_fmt}{unit}, {rate_noinv_fmt}, {elapsed} gone{postfix}",
        **options,
    )
