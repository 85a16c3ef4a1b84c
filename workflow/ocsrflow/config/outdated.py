"""Results that say of themselves that they were made with other settings than are configured now.

Snakemake compares settings by records of its own (``.snakemake/metadata``). Where those are lost, as a power cut may
lose them, a finished model would stay, and the report would print settings that it was not made with.
"""

import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .experiment import Config, longest_text, model_folder
from .planning import Plan
from .reading import Reading
from .searches import Search, space_to_json, whole_length
from .sections import Dataset, Model, TestSet

FIFTY_YEARS = 50 * 365 * 86_400 * 10**9  # nanoseconds
BEFORE_ANY_RESULT = 30 * 365 * 86_400 * 10**9  # since 1970: no result is as old


def date_back(config: Config) -> None:
    """Date results that were made with other settings back by fifty years, so that Snakemake makes them again.

    Looked at are how data sets were sampled and drawn, what models and trials of searches were trained by, how and what
    they read, and among whom ensembles were chosen. Where the configuration is again what it was, the date is too.
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
    results, plan = Path(config.results), Plan(config)
    depiction = {"depiction": config.depiction.model_dump(mode="json")}
    if find_spec("pyarrow"):  # which with --sdm conda only the jobs' environments have
        for dataset in config.datasets:
            folder = results / "datasets" / dataset.name
            for path in folder.glob("sample.parquet"):
                yield path, _table_notes(path, b"sample"), _sampling(config, dataset)
            for path in sorted(folder.glob("shards/*.parquet")):
                yield path, _table_notes(path, b"made"), depiction | {"drawings": dataset.drawings}
    drawn: dict[str, dict[str, Any]] = dict.fromkeys(plan.benchmarks, depiction)
    for name, drawing in plan.drawings.items():
        drawn[name] = {"style": drawing.style.model_dump(mode="json"), **_molecules(plan.drawn_molecules())}
    for name, wanted in drawn.items():
        for path in (results / "datasets" / name).glob("originals.zip"):
            yield path, _archive_notes(path), wanted
    reading = {"reading": config.prediction.model_dump(mode="json", include=set(Reading.model_fields))}
    for model in config.models:
        for path in Path(model_folder(config, model)).glob("model.json"):
            yield path, _facts(path), _training(model) | depiction
        for test_set in plan.picture_sets.values():
            for path in (results / "predictions" / test_set.name).glob(f"{model.name}.json"):
                yield path, _facts(path), reading | _molecules(test_set)
    for search in config.searches:
        for path in (results / "searches" / search.name).glob("rung-*/*.json"):
            yield path, _facts(path).get("made_with", {}), _trials(config, search)
    for ensemble in config.ensembles:
        for path in results.glob(f"ensembles/{ensemble.name}.json"):
            found = _facts(path)
            wanted = {"models": ensemble.models, **ensemble.model_dump(mode="json", include={"selection", "largest"})}
            yield path, found | {"models": list(found.get("scores", wanted["models"]))}, wanted


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


def _trials(config: Config, search: Search) -> dict[str, Any]:
    """What the stage ``trial`` writes down of its settings."""
    model = whole_length(search, next(model for model in config.models if model.name == search.model))
    return {
        "network": model.network.model_dump(mode="json"),
        "training": model.training.model_dump(mode="json"),
        "space": json.loads(space_to_json(search.space)),
        "seed": search.seed,
    }


def _molecules(test_set: TestSet) -> dict[str, Any]:
    """What the stages write down of the pictures that they took of a data set."""
    return test_set.model_dump(mode="json", include={"split", "size"})


def _table_notes(path: Path, key: bytes) -> dict[str, Any]:
    """JSON in the metadata of a Parquet file; nothing where there is none or it is damaged, as its reader says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        notes = pq.read_schema(path).metadata or {}
    except pa.ArrowException:
        return {}
    return _notes(notes.get(key, b"{}"))


def _archive_notes(path: Path) -> dict[str, Any]:
    """JSON in the comment of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _notes(archive.comment)
    except zipfile.BadZipFile:
        return {}


def _facts(path: Path) -> dict[str, Any]:
    return _notes(path.read_bytes())


def _notes(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
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
