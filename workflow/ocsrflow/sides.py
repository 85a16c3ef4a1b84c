"""What is compared: the configuration and the scores of a results folder or of an MLflow run, in one shape."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
import yaml
from pyarrow import ArrowException

from .errors import UserError, of_the_system
from .progress import progress
from .store import read_place, sqlite_path
from .temporary import temporary_folder

WHERE = Path("results/tracking.json")  # which store, where the command line does not say
RUN = re.compile(r"(?:runs:/+)?([0-9a-f]{32})/?")
COLUMNS = {"cid", "id", "tanimoto", "exact", "valid"}
INTERVAL = ("value", "low", "high")
WHOLE = "workflow"  # the kind of a run of everything
SCORED = ("prediction", "ensemble", "ceiling", "baseline")  # the kinds that are one reader's scores of one test set
AGAIN = "remove it and run the workflow again"
SYNC = "python -m ocsrflow.tracking sync sends what MLflow lacks"


@dataclass(frozen=True)
class Scored:
    """One reader's scores of one test set, as the stage ``score`` wrote them."""

    facts: dict[str, Any]
    images: pd.DataFrame  # a row a picture: cid, id, tanimoto, exact, valid, and reference where it is there


@dataclass(frozen=True)
class Side:
    """A or B."""

    what: str
    about: dict[str, str]  # started, commit, ... where known
    kind: str  # folder, workflow, or the kind of a single run
    configuration: dict[str, Any] | None  # None where it was not kept
    scores: dict[tuple[str, str], Scored] = field(default_factory=dict)  # by test set and reader
    metrics: dict[str, float] = field(default_factory=dict)  # final values of a single run

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole workflow's results rather than one stage's run."""
        return self.kind in ("folder", WHOLE)


@dataclass(frozen=True)
class _File:
    path: Path
    where: str  # what it is called in messages
    mend: str  # what to do where it is damaged


def read_side(name: str, uri: str) -> Side:
    """Read A or B.

    Parameters
    ----------
    name
        A results folder, an MLflow run's id, or ``runs:/`` with one.
    uri
        MLflow's store; empty for that of :data:`WHERE`.

    Raises
    ------
    UserError
        Where it is none of these, is damaged, or cannot be reached.
    """
    found = RUN.fullmatch(name)
    if found and not Path(name).is_dir():
        with temporary_folder("compare") as folder:
            return _read_run(_Store(uri or _default_store(), folder), found[1])
    if not Path(name).is_dir():
        raise UserError(f"{name}: neither a folder nor an MLflow run; give a results folder, a run's id or runs:/ID")
    return _read_folder(Path(name))


def _read_folder(folder: Path) -> Side:
    paths = sorted(folder.glob("scores/*/*.json"), key=lambda path: (path.parent.name, path.stem))
    if not paths:
        raise UserError(f"{folder}: not a results folder, there is no scores/TEST_SET/READER.json; run the workflow")
    scores = {}
    for path in progress(paths, what=f"reading {folder}", unit="scores", leave=False):
        facts, images = (_File(own, str(own), AGAIN) for own in (path, path.with_suffix(".parquet")))
        scores[path.parent.name, path.stem] = _scored(facts, images)
    settings, workflow = folder / "experiment.yaml", folder / "workflow.json"
    return Side(
        what=f"results folder {folder}",
        about=_about(_mapping(_File(workflow, str(workflow), AGAIN), json.loads) if workflow.is_file() else {}),
        kind="folder",
        configuration=_mapping(_File(settings, str(settings), AGAIN), _yaml) if settings.is_file() else None,
        scores=scores,
    )


def _about(facts: dict[str, Any]) -> dict[str, str]:
    """The facts about a workflow's run that are shown."""
    commit = str(facts.get("commit") or "")[:12]
    if commit and (facts.get("patch") or facts.get("not_in_git")):
        commit += " and changes that are not committed"
    shown = {"started": facts.get("started"), "commit": commit, "configuration": facts.get("config_hash")}
    return {name: str(value) for name, value in shown.items() if value}


class _Store:
    """An MLflow store, whose errors are told in one line; files are fetched into a folder."""

    def __init__(self, uri: str, folder: Path) -> None:
        path = sqlite_path(uri)
        if path is not None and not path.is_file():  # MLflow would make one
            raise UserError(f"there is no MLflow store {path}; give the right one with --uri")
        self.uri, self.folder = _public(uri), folder  # the address as it is told
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for every try
        with self.asking(""):
            from mlflow.tracking import MlflowClient  # takes seconds to import

            self.client = MlflowClient(tracking_uri=uri)

    @contextmanager
    def asking(self, missing: str) -> Iterator[None]:
        """Turn whatever a store raises into a :class:`UserError`; ``missing`` is said where it has no such thing."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (a server, its database or the network may raise anything)
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                raise UserError(missing) from None
            raise UserError(f"MLflow cannot be used at {self.uri}: {_line(error)}; start it or give --uri") from None

    def run(self, run_id: str) -> Any:
        with self.asking(f"there is no run {run_id} in {self.uri}; give the store that has it with --uri"):
            return self.client.get_run(run_id)

    def fetch(self, run_id: str, name: str) -> _File:
        """Fetch one artifact of a run."""
        where = f"{name} of run {run_id} in {self.uri}"
        folder = self.folder / run_id
        folder.mkdir(exist_ok=True)
        try:
            return _File(Path(self.client.download_artifacts(run_id, name, str(folder))), where, f"{SYNC} --everything")
        except Exception as error:  # noqa: BLE001  (as above; stores have no one way to say that there is no such file)
            raise UserError(f"{where} cannot be had ({_line(error)}); {SYNC}") from None

    def scores(self, run_id: str, reader: str) -> Scored:
        return _scored(*(self.fetch(run_id, f"scores/{reader}.{form}") for form in ("json", "parquet")))

    def only_reader(self, run_id: str) -> str:
        """Whose scores a single run holds."""
        with self.asking(f"run {run_id} in {self.uri} has no artifacts; {SYNC}"):
            paths = [Path(found.path) for found in self.client.list_artifacts(run_id, "scores")]
        readers = [path.stem for path in paths if path.suffix == ".json"]
        if len(readers) != 1:
            told = ", ".join(readers) or "none"
            raise UserError(f"run {run_id} in {self.uri} should hold one scores/READER.json; it has {told}; {SYNC}")
        return readers[0]


def _default_store() -> str:
    if not WHERE.is_file():
        raise UserError(f"an MLflow run was named, but there is no {WHERE} that tells the store: give it with --uri")
    uri = _mapping(_File(WHERE, str(WHERE), "give --uri"), json.loads).get("uri")
    if not isinstance(uri, str):
        raise UserError(f"{WHERE}: tells no uri: give the MLflow store with --uri")
    return uri or read_place(WHERE).uri


def _read_run(store: _Store, run_id: str) -> Side:
    run = store.run(run_id)
    kind = run.data.tags.get("ocsrflow.kind", "")
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    about = {"started": started, "status": run.info.status.lower()}
    for tag, name in (("mlflow.source.git.commit", "commit"), ("ocsrflow.config", "configuration")):
        about |= {name: run.data.tags[tag]} if tag in run.data.tags else {}
    what = f"{kind or 'MLflow'} run {run_id} ({run.info.run_name}) in {store.uri}"
    if kind == WHOLE:
        configuration = _mapping(store.fetch(run_id, "config/experiment.yaml"), _yaml)
        return Side(what, about, kind, configuration, scores=_whole_scores(store, run_id))
    scores = {}
    if kind in SCORED:
        reader = store.only_reader(run_id)
        found = store.scores(run_id, reader)
        scores = {(str(found.facts.get("test_set")), reader): found}
    return Side(what, about, kind, dict(run.data.params), scores=scores, metrics=dict(run.data.metrics))


def _whole_scores(store: _Store, run_id: str) -> dict[tuple[str, str], Scored]:
    """The scores that a workflow's run names."""
    index = store.fetch(run_id, "runs.json")
    named = {tuple(key.split("/", 2)): own for key, own in _mapping(index, json.loads).items()}
    scores = {}
    for parts, own in progress(named.items(), total=len(named), what="fetching scores", unit="runs", leave=False):
        if parts[0] != "scores":
            continue
        if len(parts) != 3 or not isinstance(own, str):
            raise UserError(f"{index.where}: damaged, {'/'.join(parts)!r} is no run of scores; {index.mend}")
        scores[parts[1], parts[2]] = store.scores(own, parts[2])
    return scores


def _scored(facts: _File, images: _File) -> Scored:
    found = _mapping(facts, json.loads)
    scores = found.get("scores")
    if found.get("missing"):
        return Scored(found, pd.DataFrame())
    if not isinstance(scores, dict) or not {"tanimoto", "exact", "validity"} <= scores.keys():
        raise UserError(f"{facts.where}: damaged, it lacks scores; {facts.mend}")
    if not all(isinstance(own, dict) and _are_numbers(map(own.get, INTERVAL)) for own in scores.values()):
        raise UserError(f"{facts.where}: damaged, a score lacks its value or interval; {facts.mend}")
    if not images.path.is_file():
        raise UserError(f"{images.where}: missing, beside {facts.where}; {images.mend.replace('remove it and ', '')}")
    with _reading(images):
        table = pd.read_parquet(images.path)
    lacking = sorted(COLUMNS - set(table.columns))
    if lacking:
        raise UserError(f"{images.where}: damaged, it lacks {', '.join(lacking)}; {images.mend}")
    with _reading(images):  # of one type each, so that an empty table can be compared, too
        table = table.astype({"cid": "int64", "id": str, "tanimoto": float, "exact": bool, "valid": bool})
    if table["tanimoto"].isna().any() or table.duplicated(["cid", "id"]).any():
        raise UserError(f"{images.where}: damaged, a picture is there twice or lacks its score; {images.mend}")
    return Scored(found, table)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _yaml(text: str) -> Any:
    """The value of a YAML text, dates and such as texts, so that it can be told as JSON."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _mapping(file: _File, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The mapping that a text file holds."""
    with _reading(file):
        value = parse(file.path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(f"{file.where}: damaged, no mapping; {file.mend}")
    return value


@contextmanager
def _reading(file: _File) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, RecursionError, ArrowException, yaml.YAMLError) as error:
        raise of_the_system(error, file.where) or UserError(
            f"{file.where}: damaged or unreadable ({_line(error)}); {file.mend}"
        ) from None


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return shorten(_public(str(error)) or type(error).__name__, 240, placeholder=" …")


def _public(text: str) -> str:
    """A text without the passwords that may be in addresses."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
