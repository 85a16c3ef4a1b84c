"""What trials of a search came to: their files, and their order."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..config.searches import Metric
from ..runtime.errors import UserError
from ..runtime.files import read_json, write_json


@dataclass(frozen=True)
class Result:
    """What a trial had come to at the end of a rung."""

    search: str
    rung: int
    trial: int | None  # its number; None for a place of the rung that no trial was left for
    epochs: int = 0  # that it was to be trained for, from the beginning
    values: dict[str, Any] = field(default_factory=dict)  # of the settings that are varied
    curve: list[dict[str, float]] = field(default_factory=list)  # its validations: epoch, step, time, scores
    failed: str = ""  # why, where it failed
    key: str = ""  # of the training, where it did not
    seconds: float = 0.0  # of training, from the beginning; where it failed, of this rung alone
    processes: int = 1
    device: str = ""
    made_with: dict[str, Any] = field(default_factory=dict)  # what the trial was made with

    def score(self, metric: Metric) -> float:
        """The best of its validations so far."""
        best = max if metric == "validation_tanimoto" else min
        return best(point[metric] for point in self.curve)

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, asdict(self))


def read_rung(folder: Path, rung: int, places: int) -> list[Result]:
    """The trials of a rung, from the files ``rung-RUNG/PLACE.json`` of a search's folder.

    Raises
    ------
    UserError
        Where a file is damaged.
    """
    results = [Result(**read_json(folder / f"rung-{rung}" / f"{place}.json")) for place in range(places)]
    return [result for result in results if result.trial is not None]


def ranked(results: Iterable[Result], metric: Metric) -> list[Result]:
    """Trials from the best to the worst, failed ones at the end.

    Of two that are equal, as similarities often are after an epoch, the one of the lower loss comes first, and then the
    one of the lower number.
    """

    def rank(result: Result) -> tuple[bool, float, float, int]:
        number = result.trial or 0
        if result.failed:
            return True, 0.0, 0.0, number
        sign = -1 if metric == "validation_tanimoto" else 1
        return False, sign * result.score(metric), result.score("validation_loss"), number

    return sorted(results, key=rank)


def best_of(results: Sequence[Result], metric: Metric) -> list[Result]:
    """Those that did not fail, from the best to the worst.

    Raises
    ------
    UserError
        Where all failed.
    """
    found = [result for result in ranked(results, metric) if not result.failed]
    if not found:
        first = results[0]
        raise UserError(
            f"search {first.search}: all {len(results)} trials of rung {first.rung} failed, the first one so: "
            f"{first.failed}. Change its space or its model; where the machine was to blame, remove the search's folder"
        )
    return found
