"""Work on items in processes of their own; it imports little, for every such process imports it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

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


def nothing() -> None:
    """Nothing is to be done first."""


def meet(folders: Sequence[Path]) -> list[int]:
    """Wait for another process that does the same."""
    (folders[0] / str(os.getpid())).touch()
    while len(list(folders[0].iterdir())) < 2:
        time.sleep(0.01)
    return [os.getpid()] * len(folders)


def halve(item: int) -> float:
    """What fails in two ways."""
    if item == 3:
        raise MemoryError
    return 1 / item
