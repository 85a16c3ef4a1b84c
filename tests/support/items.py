"""Items that hang or kill their process; it imports little, for every process that works on them imports it."""

import os
import time
from collections.abc import Sequence

_prepared: list[str] = []


def prepare(word: str) -> None:
    """What a process does first."""
    _prepared.append(word)


def behave(items: Sequence[int | str]) -> list[str]:
    """A greeting for each item, but for those that hang or die."""
    found = []
    for item in items:
        if item == "hang":
            time.sleep(600)
        if item == "die":
            os.abort()
        found.append(f"{_prepared[0]} {item}")
    return found
