"""What a training does with its time and its device."""

import statistics
import time
from typing import Any

import torch

from .loader import Share
from .processes import Place


class Meter:
    """Counts and clocks between two lines of metrics."""

    def __init__(self, flops: tuple[float, float], peak: float | None, place: Place) -> None:
        """Start.

        Parameters
        ----------
        flops
            Floating-point operations for each picture, and for each token on top.
        peak
            Those that the device could do in a second; None where that is not known.
        place
            This process among the others.
        """
        self.flops, self.peak, self.place = flops, peak, place
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self.since, self.waited = time.perf_counter(), 0.0
        self.everyones = self.pictures = self.tokens = 0

    def wait(self, stream: Any, share: Share) -> Any:
        """The next batch."""
        before = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - before
        self.everyones += share.pictures
        self.pictures += len(batch.positions)
        self.tokens += len(batch.targets)
        return batch

    def read(self) -> dict[str, float]:
        """Speed of all processes and what this one's own device was used for, since the start; starts anew.

        To be called when the device has done what it was told. ``gpu_memory_gib`` is the most that tensors ever took.
        """
        seconds = time.perf_counter() - self.since
        per_picture, per_token = self.flops
        flops = (self.pictures * per_picture + self.tokens * per_token) / seconds
        values = {
            "images_per_second": self.everyones / seconds,
            "data_wait": self.waited / seconds,
            "teraflops": flops / 1e12,
        }
        if self.place.cuda:
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.peak:
            values["mfu"] = flops / self.peak
        self.restart()
        return values


def medians(history: list[dict[str, Any]]) -> dict[str, float]:
    """The usual speed: medians over the lines of metrics."""
    names = ("images_per_second", "data_wait", "teraflops", "gpu_memory_gib", "mfu")
    found = {name: [line[name] for line in history if name in line] for name in names}
    return {name: round(statistics.median(values), 4) for name, values in found.items() if values}
