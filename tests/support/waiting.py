"""Waiting for what happens elsewhere, with limits that end a hang and measure nothing."""

import time
from collections.abc import Callable

# Seconds. On a busy machine what takes one second has taken a minute.
PATIENCE = 600.0


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = PATIENCE, details: Callable[[], str] = str
) -> None:
    """Wait until something is so.

    Parameters
    ----------
    condition
        True once it is so; it is asked again and again.
    what
        What is waited for, for the failure.
    seconds
        After so many the test fails.
    details
        What else the failure shows, as the log of the process that is waited for.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"after {seconds:.0f} s still waiting: {what}\n{details()}"
        time.sleep(0.02)
