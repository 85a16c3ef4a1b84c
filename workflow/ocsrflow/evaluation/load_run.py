"""What is compared: the configuration and the scores of a folder of results."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
import yaml
from pyarrow import ArrowException

from ..runtime.errors import UserError
from ..runtime.progress import progress

COLUMNS = {"cid", "id", "tanimoto", "exact", "valid"}
INTERVAL = ("value", "low", "high")
AGAIN = "remove it and run the workflow again"


@dataclass(frozen=True)
class Scored:
    """One reader's scores of one test set, as the stage ``score`` wrote them."""

    facts: dict[str, Any]
    images: pd.DataFrame  # a row a picture: cid, id, tanimoto, exact, valid, and reference where it is there


@dataclass(frozen=True)
class LoadedRun:
    """What is compared: a folder of results."""

    what: str
    origin: dict[str, str]  # started, commit, ... where known
    configuration: dict[str, Any] | None  # None where it was not kept
    scores: dict[tuple[str, str], Scored] = field(default_factory=dict)  # by test set and reader


def load_run(folder: Path) -> LoadedRun:
    """Read A or B, a folder of results.

    Raises
    ------
    UserError
        Where it is none, or a file in it is damaged.
    """
    paths = sorted(folder.glob("scores/*/*.json"), key=lambda path: (path.parent.name, path.stem))
    if not paths:
        raise UserError(f"{folder}: not a results folder, there is no scores/TEST_SET/READER.json; run the workflow")
    scores = {}
    for path in progress(paths, what=f"reading {folder}", unit="scores", leave=False):
        scores[path.parent.name, path.stem] = _scored(path, path.with_suffix(".parquet"))
    settings, workflow = folder / "experiment.yaml", folder / "workflow.json"
    return LoadedRun(
        what=f"results folder {folder}",
        origin=_origin(_mapping(workflow, json.loads) if workflow.is_file() else {}),
        configuration=_mapping(settings, _yaml) if settings.is_file() else None,
        scores=scores,
    )


def _origin(facts: dict[str, Any]) -> dict[str, str]:
    """The facts about a workflow's run that are shown."""
    commit = str(facts.get("commit") or "")[:12]
    if commit and (facts.get("patch") or facts.get("not_in_git")):
        commit += " and changes that are not committed"
    shown = {"started": facts.get("started"), "commit": commit, "configuration": facts.get("config_hash")}
    return {name: str(value) for name, value in shown.items() if value}


def _scored(facts: Path, images: Path) -> Scored:
    found = _mapping(facts, json.loads)
    scores = found.get("scores")
    if found.get("missing"):
        return Scored(found, pd.DataFrame())
    if not isinstance(scores, dict) or not {"tanimoto", "exact", "validity"} <= scores.keys():
        raise UserError(f"{facts}: damaged, it lacks scores; {AGAIN}")
    if not all(isinstance(own, dict) and _are_numbers(map(own.get, INTERVAL)) for own in scores.values()):
        raise UserError(f"{facts}: damaged, a score lacks its value or interval; {AGAIN}")
    if not images.is_file():
        raise UserError(f"{images}: missing, beside {facts}; run the workflow again")
    with _reading(images):
        table = pd.read_parquet(images)
    lacking = sorted(COLUMNS - set(table.columns))
    if lacking:
        raise UserError(f"{images}: damaged, it lacks {', '.join(lacking)}; {AGAIN}")
    with _reading(images):  # of one type each, so that an empty table can be compared, too
        table = table.astype({"cid": "int64", "id": str, "tanimoto": float, "exact": bool, "valid": bool})
    if table["tanimoto"].isna().any() or table.duplicated(["cid", "id"]).any():
        raise UserError(f"{images}: damaged, a picture is there twice or lacks its score; {AGAIN}")
    return Scored(found, table)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _yaml(text: str) -> Any:
    """The value of a YAML text, dates and such as texts, so that it can be written as JSON."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The mapping that a text file holds."""
    with _reading(file):
        value = parse(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged, no mapping; {AGAIN}")
    return value


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, RecursionError, ArrowException, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged or unreadable ({_line(error)}); {AGAIN}") from None


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return shorten(str(error) or type(error).__name__, 240, placeholder=" …")
