"""The one description of the configuration.

``config.yaml`` is validated against :class:`Config` before any job is planned. The JSON schema in
``workflow/schemas/`` is generated from it: ``ocsrflow config --json-schema``; so is the table of
settings in the documentation: ``ocsrflow config --settings``.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from ..runtime.errors import UserError
from .base import Settings
from .depiction import Depiction
from .methods import MethodName
from .paths import GivenPath, MadePath
from .searches import Search, check
from .sections import (
    Benchmark,
    Checkpoints,
    Dataset,
    Ensemble,
    Model,
    NamedDrawing,
    Prediction,
    Rendering,
    Report,
    Selection,
    Source,
    Speed,
    TestSet,
    Tracking,
)
from .split import Split

Baseline = Literal["constant", "osra"]
OSRA: Baseline = "osra"  # which reads pictures, and may be a member of an ensemble
FORMS = ("number", "range", "choices")  # of a value that may have several
SHOWN = 200  # characters of a wrong value that are shown
SELECTION = "selection"  # the name of the selection's pictures, among those of the test sets


class Config(Settings):
    """The whole experiment."""

    results: MadePath = Field("results", description="Folder for everything that a run makes.")
    weights_folder: GivenPath = Field(
        "weights",
        description="Folder searched for ImageNet weights before they are fetched: "
        "put files there on machines without network.",
    )
    sources: list[Source] = Field(min_length=1, description="Where molecules come from.")
    split: Split = Field(default_factory=Split, description="Training, validation and test shares.")
    datasets: list[Dataset] = Field(min_length=1, description="What is sampled from the sources.")
    depiction: Depiction = Field(default_factory=Depiction, description="How molecules are drawn.")
    rendering: Rendering = Field(default_factory=Rendering, description="How the drawing is divided.")
    network: dict[str, Any] = Field(
        default_factory=dict, description="Network settings of every model that does not set its own."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Training settings of every model that does not set its own."
    )
    models: list[Model] = Field(min_length=1, description="What is trained.")
    searches: list[Search] = Field(
        default_factory=list, description="Settings of models that are searched for, by successive halving."
    )
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="How trainings are saved.")
    prediction: Prediction = Field(default_factory=Prediction, description="How trained models read pictures.")
    test_sets: list[TestSet] = Field(min_length=1, description="What every model is tested on.")
    benchmarks: list[Benchmark] = Field(
        default_factory=list, description="Pictures from elsewhere, which become test sets after the others."
    )
    drawings: list[NamedDrawing] = Field(
        default_factory=list,
        description="Styles in which the molecules of the first test set are drawn again, for the report's table of "
        "robustness.",
    )
    drawings_size: int | None = Field(
        500, ge=1, description="At most so many molecules of the first test set in each drawing; null for all."
    )
    selection: Selection = Field(
        default_factory=Selection, description="What members and confidences are chosen on: validation pictures."
    )
    ensembles: list[Ensemble] = Field(default_factory=list, description="Which models answer together.")
    methods: list[MethodName] = Field(
        default=list(get_args(MethodName)),
        description="Ways in which every ensemble finds its answer. pairs: the slides' rule, always there; medoid: "
        "largest sum of similarities; votes: equal answers add up, weighted by their probability; rescored: all "
        "candidates, by their mean log-probability under all members; redrawn: the candidate whose drawing fits the "
        "picture best.",
    )
    baselines: list[Baseline] = Field(
        default=["constant"],
        description="Answers to compare with. constant: the training molecule with the highest mean "
        "Tanimoto similarity to the test set, for every picture. osra: the rule-based program of that name, where it "
        "is installed.",
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
        sources = _by_name("sources", self.sources)
        datasets = _by_name("datasets", self.datasets)
        models = _by_name("models", self.models)
        test_sets = _by_name("test_sets", self.test_sets)
        self._names_of_pictures_fit(datasets, test_sets)
        ensembles = _by_name("ensembles", self.ensembles)
        for name in ensembles:
            if name in models:
                raise ValueError(f"ensembles: {name!r} is the name of a model too")
        for key, given in (("models", set(models)), ("ensembles", set(ensembles))):
            if taken := given & set(get_args(Baseline)):
                raise ValueError(f"{key}: the name {min(taken)!r} is that of a baseline; give another one")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("baselines: one is named twice")
        self._datasets_fit(sources, datasets)
        self._parents_fit()
        for i, test_set in enumerate(self.test_sets):
            _lookup(f"test_sets.{i}.dataset", test_set.dataset, datasets)
        self._ensembles_fit(models)
        self._selection_fits(datasets)
        self._searches_fit(models)
        if "pairs" not in self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError("methods: 'pairs' must be among them, and each once")
        self._speed_fits(models, ensembles)
        return self

    def _datasets_fit(self, sources: Mapping[str, Source], datasets: Mapping[str, Dataset]) -> None:
        """Data sets can be sampled from their sources, and models can read the longest texts of their data sets."""
        for i, dataset in enumerate(self.datasets):
            source = _lookup(f"datasets.{i}.source", dataset.source, sources)
            if dataset.drawings > 1 and (self.depiction.styles is None or source.kind == "pictures"):
                raise ValueError(
                    f"datasets.{i}.drawings: several drawings of a molecule would all be the same; set "
                    "depiction.styles to varied, or drawings to 1"
                )
            if dataset.max_length and dataset.max_length > source.max_length:
                raise ValueError(
                    f"datasets.{i}.max_length: {dataset.max_length} is more than the max_length "
                    f"{source.max_length} of source {source.name!r}"
                )
        for i, model in enumerate(self.models):
            dataset = _lookup(f"models.{i}.dataset", model.dataset, datasets)
            longest = longest_text(self, dataset)
            # A token is one character or more; the end token comes on top.
            if model.training.decode_length < longest + 1:
                raise ValueError(
                    f"models.{i}.training.decode_length: {model.training.decode_length} is too short for "
                    f"SMILES of {longest} characters; give at least {longest + 1}"
                )

    def _ensembles_fit(self, models: Mapping[str, Model]) -> None:
        readers: dict[str, object] = {**models, **dict.fromkeys({OSRA} & set(self.baselines))}
        for i, ensemble in enumerate(self.ensembles):
            for j, member in enumerate(ensemble.models):
                _lookup(f"ensembles.{i}.models.{j}", member, readers)
            if not models.keys() & set(ensemble.models):
                raise ValueError(f"ensembles.{i}.models: one at least must be a trained model")
            if len(set(ensemble.models)) < len(ensemble.models):
                raise ValueError(f"ensembles.{i}.models: a model is named twice")
            if ensemble.largest is not None and ensemble.selection == "listed":
                raise ValueError(f"ensembles.{i}.largest: it goes with selection: best")

    def _selection_fits(self, datasets: Mapping[str, Dataset]) -> None:
        """Nothing is tested on pictures that members and confidences are chosen on."""
        selected = _lookup("selection.dataset", self.selection.dataset or self.test_sets[0].dataset, datasets)
        for i, test_set in enumerate(self.test_sets):
            # Splits are the same in all data sets of a source.
            if test_set.split == "validation" and datasets[test_set.dataset].source == selected.source:
                raise ValueError(
                    f"test_sets.{i}.split: members and confidences are chosen on validation pictures of this source, "
                    "which then test nothing; read the split test"
                )

    def _speed_fits(self, models: Mapping[str, Model], ensembles: Mapping[str, Ensemble]) -> None:
        measured: list[tuple[str, list[str], Mapping[str, Any]]] = [
            ("training", self.speed.training, models),
            ("ensembles", self.speed.ensembles or [], ensembles),
        ]
        for key, names, items in measured:
            for i, name in enumerate(names):
                _lookup(f"speed.{key}.{i}", name, items)
            if len(set(names)) < len(names):
                raise ValueError(f"speed.{key}: a name is given twice")

    def _searches_fit(self, models: Mapping[str, Model]) -> None:
        """Searches vary models that are there, and each of their trials can be trained."""
        _by_name("searches", self.searches)
        for i, search in enumerate(self.searches):
            check(f"searches.{i}", search, _lookup(f"searches.{i}.model", search.model, models))

    def _parents_fit(self) -> None:
        """Models that start from others of this configuration have their shape, and none starts from itself."""
        for i, model in enumerate(self.models):
            chain, ancestor = [model.name], parent_in(self, model)
            if ancestor and ancestor.network.shape != model.network.shape:
                raise ValueError(
                    f"models.{i}.network.pretrained: {ancestor.name!r} has {ancestor.network.shape}, "
                    f"{model.name!r} {model.network.shape}; give both the same"
                )
            while ancestor:
                if ancestor.name in chain:
                    raise ValueError(f"models.{i}.network.pretrained: {ancestor.name!r} would start from itself")
                chain.append(ancestor.name)
                ancestor = parent_in(self, ancestor)

    def _names_of_pictures_fit(self, datasets: Mapping[str, Dataset], test_sets: Mapping[str, TestSet]) -> None:
        """Benchmarks and drawings become data sets and test sets of their names."""
        benchmarks = _by_name("benchmarks", self.benchmarks)
        drawings = _by_name("drawings", self.drawings)
        for key, names in (("benchmarks", benchmarks), ("drawings", drawings)):
            for i, name in enumerate(names):
                if name in datasets or name in test_sets:
                    raise ValueError(f"{key}.{i}.name: {name!r} is the name of a data set or a test set too")
        for i, name in enumerate(drawings):
            if name in benchmarks:
                raise ValueError(f"drawings.{i}.name: {name!r} is the name of a benchmark too")
        for key, taken in (("test_sets", test_sets), ("benchmarks", benchmarks), ("drawings", drawings)):
            if SELECTION in taken:
                raise ValueError(f"{key}: the name {SELECTION!r} is taken by the selection's pictures")


Named = TypeVar("Named", bound=Any)


def _by_name(key: str, items: Iterable[Named]) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for i, item in enumerate(items):
        if item.name in found:
            raise ValueError(f"{key}.{i}.name: {item.name!r} is used twice")
        found[item.name] = item
    return found


def _lookup(path: str, name: str, items: Mapping[str, Named]) -> Named:
    if name not in items:
        raise ValueError(f"{path}: {name!r} is not one of {', '.join(items)}")
    return items[name]


def longest_text(config: Config, dataset: Dataset) -> int:
    """Characters of the longest SMILES that a data set may have."""
    return dataset.max_length or next(s.max_length for s in config.sources if s.name == dataset.source)


def model_folder(config: Config, model: Model) -> str:
    """Where the stage ``train`` leaves a model."""
    return f"{config.results}/models/{model.name}"


def parent_in(config: Config, model: Model) -> Model | None:
    """The model of this configuration that a model starts from; None where it starts from none of them."""
    if model.network.parent is None:
        return None
    folders = {os.path.abspath(model_folder(config, other)): other for other in config.models}
    return folders.get(os.path.abspath(model.network.parent))


def read(path: Path) -> Config:
    """Read a configuration from a YAML file, and validate it.

    Raises
    ------
    UserError
        Where it is no YAML file, and as :func:`load`.
    """
    try:
        return load(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{where}: no YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8; no date, no number; nested too deeply
        raise UserError(f"{path}: no YAML ({' '.join(str(error).split())})") from None


def load(raw: Any) -> Config:
    """Validate a configuration.

    Raises
    ------
    UserError
        One line for each mistake: the key's path, what was expected, what was found.
    """
    if not isinstance(raw, Mapping):
        raise UserError("the configuration is not valid: a mapping of keys to values is expected")
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        # A mistake in a shared section is found in every model that takes it: said once.
        lines = dict.fromkeys(_line(e, raw) for e in error.errors(include_url=False))
        raise UserError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None


def _line(error: Any, raw: Mapping[str, Any]) -> str:
    # Pydantic puts the tag of a discriminated union among the keys; the path users know has no such part.
    location = [str(part) for part in error["loc"] if part not in FORMS]
    if len(location) > 2 and location[0] == "sources":
        del location[2]
    if location[:1] == ["models"] and len(location) >= 4:
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
        message = "one of 'pubchem', 'file', 'nci', 'public', 'pictures' is expected"
    found = error.get("input")
    hidden = isinstance(found, (dict, list)) or error["type"] == "missing" or "without a password" in message
    shown = "" if hidden else f" (found {_shown(found)})"
    return f"{path}: {message}{shown}" if path else message


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


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
