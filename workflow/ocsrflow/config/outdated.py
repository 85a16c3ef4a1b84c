"""Results that say of themselves that they were made with other settings than are configured now.

Snakemake compares settings by records of its own (``.snakemake/metadata``). Where those are lost, as a power cut may
lose them, a finished model would stay, and the report would print settings that it was not made with.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..runtime.errors import UserError
from ..runtime.files import read_json
from .experiment import Config, longest_text, model_folder
from .reading import Reading
from .sections import Dataset, Model

FIFTY_YEARS = 50 * 365 * 86_400 * 10**9  # nanoseconds
BEFORE_ANY_RESULT = 30 * 365 * 86_400 * 10**9  # since 1970: no result is as old


def date_back(config: Config) -> None:
    """Date results that were made with other settings back by fifty years, so that Snakemake makes them again.

    Looked at are how data sets were sampled, what models were trained by, and how they read. Where the configuration
    is again what it was, the date is too.
    """
    for path, made, wanted in _results(config):
        difference = _first_difference(made, wanted)
        date = path.stat().st_mtime_ns
        if difference and date > BEFORE_ANY_RESULT:
            print(f"{path}: made with {difference}; it is made again", file=sys.stderr)
            os.utime(path, ns=(date - FIFTY_YEARS, date - FIFTY_YEARS))
        elif not difference and date < BEFORE_ANY_RESULT:
            os.utime(path, ns=(date + FIFTY_YEARS, date + FIFTY_YEARS))


def _results(config: Config) -> Iterator[tuple[Path, Mapping[str, Any], Mapping[str, Any]]]:
    """Finished files, each with the settings it was made with and those that it would be made with now."""
    results = Path(config.results)
    for dataset in config.datasets:
        path = results / "datasets" / dataset.name / "sample.parquet"
        if path.is_file() and find_spec("pyarrow"):  # which with --sdm conda only the jobs' environments have
            yield path, _sampled_by(path), _sampling(config, dataset)
    reading = config.prediction.model_dump(mode="json", include=set(Reading.model_fields))
    for model in config.models:
        path = Path(model_folder(config, model)) / "model.json"
        if path.is_file():
            yield path, _facts(path), _training(model)
        for facts in sorted(results.glob(f"predictions/*/{model.name}.json")):
            yield facts, _facts(facts), {"reading": reading}


def _sampling(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What the stage ``sample`` writes down of a sample."""
    return {
        "max_length": longest_text(config, dataset),
        "per_length": dataset.per_length,
        "size": dataset.size,
        "seed": dataset.seed,
        "validation": config.split.validation,
        "test": config.split.test,
        "split_seed": config.split.seed,
    }


def _training(model: Model) -> dict[str, Any]:
    """What the stage ``train`` writes down of its settings; ``auto`` as a precision stands for what was found."""
    left_open = {"precision"} if model.training.precision == "auto" else set()
    return {
        "dataset": model.dataset,
        "network": model.network.model_dump(mode="json"),
        "training": model.training.model_dump(mode="json", exclude=left_open),
    }


def _sampled_by(sample: Path) -> Mapping[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        notes = pq.read_schema(sample).metadata or {}
        found = json.loads(notes.get(b"sample", b"{}"))
    except (pa.ArrowException, ValueError):
        return {}  # damaged: its reader says so
    return found if isinstance(found, dict) else {}


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _first_difference(made: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> str:
    """The first setting that is another one, with both values; empty where those that are written down agree."""
    for key, value in wanted.items():
        if key not in made:
            continue
        written = made[key]
        if isinstance(value, Mapping) and isinstance(written, Mapping):
            if found := _first_difference(written, value, f"{where}{key}."):
                return found
        elif written != value:
            return f"{where}{key} {json.dumps(written)}, configured is {json.dumps(value)}"
    return ""
