"""The one description of the configuration.

``config.yaml`` is validated against :class:`Config` before any job is planned. The JSON schema in
``workflow/schemas/`` is generated from it: ``python -m ocsrflow.config --schema``.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from .errors import UserError
from .settings.base import Settings
from .settings.depiction import Depiction
from .settings.network import Network
from .settings.training import Training

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*$",
        description="A name for files and wildcards: letters, digits, '_' and '-'.",
    ),
]


class _Source(Settings):
    name: Name
    max_length: int = Field(
        100, ge=1, le=2000, description="Longest SMILES kept, in characters; longer ones are rejected."
    )


class PubChemSource(_Source):
    """PubChem's CID-SMILES file, downloaded."""

    kind: Literal["pubchem"]
    url: str = Field(description="Address of the gzip-compressed CID<TAB>SMILES file.")
    md5_url: str | None = Field(None, description="Address of its published md5; null to go without.")

    @field_validator("url", "md5_url")
    @classmethod
    def _secure(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1"):
                raise ValueError("an https:// address (http:// is for localhost only)")
        return value


class FileSource(_Source):
    """A local file of CID<TAB>SMILES lines."""

    kind: Literal["file"]
    path: str = Field(description="Path of the file, plain or gzip-compressed (.gz).")


class EmbeddedSource(_Source):
    """The 4,999 NCI molecules that come with RDKit: no download, no file."""

    kind: Literal["nci"]


class PicturesSource(_Source):
    """Supplied pictures: a CSV of file names and SMILES, and a folder or zip of PNGs (the contest's form)."""

    kind: Literal["pictures"]
    csv: str = Field(description="CSV with a header line.")
    pictures: str = Field(description="Folder or zip archive that holds the pictures.")
    file_column: str = Field("file_name", description="Column of the CSV with the picture's file name.")
    smiles_column: str = Field("SMILES", description="Column of the CSV with the SMILES.")


Source = Annotated[PubChemSource | FileSource | EmbeddedSource | PicturesSource, Field(discriminator="kind")]


class Dataset(Settings):
    """Molecules drawn from a source, their pictures and their tokens."""

    name: Name
    source: str = Field(description="Name of the source it is drawn from.")
    max_length: int | None = Field(
        None, ge=1, description="Longest SMILES, in characters; null for the source's own limit."
    )
    per_length: int | None = Field(
        None,
        ge=1,
        description="So many molecules of each SMILES length (a uniform distribution); "
        "null keeps the source's own distribution.",
    )
    size: int | None = Field(
        None,
        ge=1,
        description="Molecules in the data set, all splits together, drawn from those; null for all.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draw.")
    shards: int | None = Field(
        None,
        ge=1,
        description="Jobs that its drawing is divided into; null for as many as rendering.shard_size gives.",
    )


class Split(Settings):
    """Shares of the splits, decided by a hash of the canonical SMILES: the same in every data set."""

    validation: float = Field(0.01, gt=0, lt=1, description="Share of the molecules for validation.")
    test: float = Field(0.01, gt=0, lt=1, description="Share of the molecules for testing.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the hash.")

    @model_validator(mode="after")
    def _some_left(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test must leave a share for training: their sum is 1 or more")
        return self


class Model(Settings):
    """One trained model: network and training start from the top-level sections of the same names."""

    name: Name
    dataset: str = Field(description="Name of the data set it learns from.")
    network: Network
    training: Training
    gpus: int = Field(1, ge=0, description="GPUs for the training, one process each; 0 trains on the CPU.")


class TestSet(Settings):
    """Molecules that every model reads; the first test set is the report's main one."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    name: Name
    dataset: str = Field(description="Name of the data set whose split is read.")
    split: Literal["validation", "test"] = Field("test", description="Which split of it.")
    size: int | None = Field(None, ge=1, description="At most so many pictures; null for all.")


class Ensemble(Settings):
    """Models that vote in pairs."""

    name: Name
    models: list[str] = Field(min_length=2, description="Names of its members; ties go to the earlier one.")


class Prediction(Settings):
    """How trained models read pictures."""

    batch: int = Field(256, ge=1, description="Pictures decoded together.")
    timed_images: int = Field(
        100, ge=1, description="Pictures read one at a time, after a warm-up, for the seconds per image."
    )


class Rendering(Settings):
    """How the drawing is divided."""

    shard_size: int = Field(20000, ge=1, description="Molecules drawn by one job, about.")
    time_limit: float = Field(
        10.0, gt=0, description="Seconds after which the drawing of one molecule is given up; a spare one replaces it."
    )


class Checkpoints(Settings):
    """How a training is saved; it does not change what comes out."""

    minutes: float = Field(
        10.0, ge=0, description="Minutes between two checkpoints of a training; one is saved after each validation too."
    )


class Speed(Settings):
    """What is measured of the speed: trainings on one process and on several, ensembles in turn and side by side."""

    training: list[str] = Field(
        default=[], description="Names of the models whose training speed is measured, for a short time each."
    )
    processes: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        default=[1, 2, 4],
        min_length=1,
        description="Numbers of processes that share such a training, ascending; on GPUs, one GPU each. "
        "What a machine is too small for is left out.",
    )
    steps: int = Field(
        30,
        ge=1,
        description="Training steps that are timed for each number of processes; a machine that needs more than a "
        "minute for them does fewer.",
    )
    ensembles: list[str] | None = Field(
        None,
        description="Names of the ensembles whose members read one after the other and side by side; null for all.",
    )
    prediction_gpus: int = Field(
        1,
        ge=0,
        description="GPUs that the members of an ensemble share when they read side by side, as many of them as there "
        "are; 0 for the CPU, where ensembles of models with gpus 0 always read.",
    )

    @field_validator("processes")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if sorted(set(value)) != value:
            raise ValueError("ascending numbers are expected, each once")
        return value


class Tracking(Settings):
    """Where MLflow records the runs."""

    experiment: str = Field("ocsrflow", min_length=1, description="Name of the MLflow experiment.")
    uri: str | None = Field(
        None, description="MLflow tracking server; null for an SQLite file under the results folder."
    )


class Report(Settings):
    """What the report says and shows."""

    title: str = Field("ocsrflow", min_length=1, description="Title of the report.")
    note: str = Field("", description="A remark under the title.")
    gallery: int = Field(24, ge=0, description="Predictions shown in the gallery.")


class Config(Settings):
    """The whole experiment."""

    results: str = Field("results", description="Folder for everything that a run makes.")
    weights_folder: str = Field(
        "weights",
        description="Folder searched for ImageNet weights before they are fetched: "
        "put files there on machines without network.",
    )
    sources: list[Source] = Field(min_length=1, description="Where molecules come from.")
    split: Split = Field(default_factory=Split, description="Training, validation and test shares.")
    datasets: list[Dataset] = Field(min_length=1, description="What is drawn from the sources.")
    depiction: Depiction = Field(default_factory=Depiction, description="How molecules are drawn.")
    rendering: Rendering = Field(default_factory=Rendering, description="How the drawing is divided.")
    network: dict[str, Any] = Field(
        default_factory=dict, description="Network settings of every model that does not set its own."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Training settings of every model that does not set its own."
    )
    models: list[Model] = Field(min_length=1, description="What is trained.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="How trainings are saved.")
    prediction: Prediction = Field(default_factory=Prediction, description="How trained models read pictures.")
    test_sets: list[TestSet] = Field(min_length=1, description="What every model is tested on.")
    ensembles: list[Ensemble] = Field(default_factory=list, description="Which models vote together.")
    baselines: list[Literal["constant"]] = Field(
        default=["constant"],
        description="Answers to compare with. constant: the training molecule with the highest mean "
        "Tanimoto similarity to the test set, for every picture.",
    )
    speed: Speed = Field(default_factory=Speed, description="What is measured of the speed.")
    tracking: Tracking = Field(default_factory=Tracking, description="MLflow.")
    report: Report = Field(default_factory=Report, description="The report.")

    @model_validator(mode="before")
    @classmethod
    def _shared_sections(cls, data: Any) -> Any:
        """Give every model the top-level network and training settings that it does not set itself."""
        if not isinstance(data, Mapping) or not isinstance(data.get("models"), list):
            return data
        models = []
        for model in data["models"]:
            if isinstance(model, Mapping):
                for section in ("network", "training"):
                    shared, own = data.get(section) or {}, model.get(section) or {}
                    # Anything else is left for the section's own validation to refuse.
                    if isinstance(shared, Mapping) and isinstance(own, Mapping):
                        model = {**model, section: {**shared, **own}}
            models.append(model)
        return {**data, "models": models}

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        """Names are unique, and every reference names something that is there."""
        sources = _unique("sources", self.sources)
        datasets = _unique("datasets", self.datasets)
        models = _unique("models", self.models)
        _unique("test_sets", self.test_sets)
        readers = _unique("ensembles", self.ensembles)
        for name in readers:
            if name in models or name in self.baselines:
                raise ValueError(f"ensembles: {name!r} is the name of a model or a baseline too")
        for name in self.baselines:
            if name in models or self.baselines.count(name) > 1:
                raise ValueError(f"baselines: {name!r} is named twice, or is the name of a model too")
        for i, dataset in enumerate(self.datasets):
            source = _known(f"datasets.{i}.source", dataset.source, sources)
            if dataset.max_length and dataset.max_length > source.max_length:
                raise ValueError(
                    f"datasets.{i}.max_length: {dataset.max_length} is more than the max_length "
                    f"{source.max_length} of source {source.name!r}"
                )
        for i, model in enumerate(self.models):
            dataset = _known(f"models.{i}.dataset", model.dataset, datasets)
            longest = dataset.max_length or sources[dataset.source].max_length
            # A token is one character or more; the end token comes on top.
            if model.training.decode_length < longest + 1:
                raise ValueError(
                    f"models.{i}.training.decode_length: {model.training.decode_length} is too short for "
                    f"SMILES of {longest} characters; give at least {longest + 1}"
                )
        for i, test_set in enumerate(self.test_sets):
            _known(f"test_sets.{i}.dataset", test_set.dataset, datasets)
        for i, ensemble in enumerate(self.ensembles):
            for j, member in enumerate(ensemble.models):
                _known(f"ensembles.{i}.models.{j}", member, models)
            if len(set(ensemble.models)) < len(ensemble.models):
                raise ValueError(f"ensembles.{i}.models: a model is named twice")
        measured: list[tuple[str, list[str], dict[str, Any]]] = [
            ("training", self.speed.training, models),
            ("ensembles", self.speed.ensembles or [], readers),
        ]
        for key, names, known in measured:
            for i, name in enumerate(names):
                _known(f"speed.{key}.{i}", name, known)
            if len(set(names)) < len(names):
                raise ValueError(f"speed.{key}: a name is given twice")
        return self


Named = TypeVar("Named", bound=Any)


def _unique(key: str, items: Iterable[Named]) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for i, item in enumerate(items):
        if item.name in found:
            raise ValueError(f"{key}.{i}.name: {item.name!r} is used twice")
        found[item.name] = item
    return found


def _known(path: str, name: str, known: dict[str, Named]) -> Named:
    if name not in known:
        raise ValueError(f"{path}: {name!r} is not one of {', '.join(known)}")
    return known[name]


def shards(config: Config, dataset: Dataset) -> int:
    """Jobs that a data set's drawing is divided into; one where nothing bounds its size."""
    if dataset.shards is not None:
        return dataset.shards
    longest = dataset.max_length or next(s.max_length for s in config.sources if s.name == dataset.source)
    most = dataset.per_length * longest if dataset.per_length else None
    bounds = [bound for bound in (dataset.size, most) if bound is not None]
    return math.ceil(min(bounds) / config.rendering.shard_size) if bounds else 1


def load(raw: Mapping[str, Any]) -> Config:
    """Validate a configuration.

    Raises
    ------
    UserError
        One line for each mistake: the key's path, what was expected, what was found.
    """
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        # A mistake in a shared section is found in every model that takes it: said once.
        lines = dict.fromkeys(_line(e, raw) for e in error.errors(include_url=False))
        raise UserError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None


def _line(error: Any, raw: Mapping[str, Any]) -> str:
    # Pydantic puts the tag of a discriminated union among the keys; the path users know has no such part.
    location = [str(part) for part in error["loc"]]
    if len(location) > 2 and location[0] == "sources":
        del location[2]
    if location[:1] == ["models"] and len(location) == 4:
        own = raw["models"][int(location[1])].get(location[2]) or {}
        if location[3] not in own and location[3] in (raw.get(location[2]) or {}):
            location = location[2:]
    if error["type"].startswith("union_tag"):
        location.append("kind")
    path = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    message = re.sub(r"^Value error, ", "", error["msg"])
    if error["type"].startswith("union_tag"):
        message = "one of 'pubchem', 'file', 'nci', 'pictures' is expected"
    found = error.get("input")
    shown = "" if isinstance(found, (dict, list)) or error["type"] == "missing" else f" (found {found!r})"
    return f"{path}: {message}{shown}" if path else message


def schema() -> str:
    """The JSON schema, as it is kept in ``workflow/schemas/config.schema.json``."""
    tree = Config.model_json_schema()
    # In the file, models may leave out what the top-level sections give; these take the same keys.
    for section, model in (("network", "Network"), ("training", "Training")):
        shared = {**tree["$defs"][model], "description": tree["properties"][section]["description"]}
        shared.pop("required", None)
        tree["properties"][section] = shared
        tree["$defs"][model].pop("required", None)
    model = tree["$defs"]["Model"]
    model["required"] = [key for key in model["required"] if key not in ("network", "training")]
    return json.dumps(tree, indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        print(schema(), end="")
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        import yaml

        try:
            load(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
        except (UserError, OSError, yaml.YAMLError) as mistake:
            sys.exit(f"ocsrflow.config: error: {mistake}")
        print(f"{sys.argv[1]}: valid")
    else:
        sys.exit("usage: python -m ocsrflow.config CONFIG.yaml | --schema")
