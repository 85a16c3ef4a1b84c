"""The configuration: the shipped ones are valid, wrong ones are told in one line each."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema  # comes with Snakemake
import pytest
import yaml
from ocsrflow.config import experiment
from ocsrflow.config.base import Settings
from ocsrflow.config.given_files import missing_files, parents_elsewhere
from ocsrflow.config.planning import Plan, shards
from ocsrflow.config.styles import VARIED, Styles
from ocsrflow.runtime.errors import UserError
from pydantic import BaseModel
from snakemake.utils import update_config
from support.checkout import REPOSITORY


def shipped() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


def test_the_experiment_is_that_of_the_talk() -> None:
    cfg = experiment.load(shipped())
    assert [(d.name, d.max_length, d.per_length, d.size) for d in cfg.datasets] == [
        ("contest", 70, None, 700_000),
        ("ours1", 100, 35_000, 1_290_000),
        ("ours2", 100, 35_000, 1_548_000),
    ]
    assert len({d.seed for d in cfg.datasets}) == 3
    assert [(m.network.encoder, m.network.dim, m.dataset) for m in cfg.models] == [
        ("wide_resnet101_2", 512, "ours2"),
        ("wide_resnet101_2", 512, "ours1"),
        ("resnet152", 512, "contest"),
        ("resnet152", 256, "contest"),
        ("resnext101_32x8d", 256, "ours1"),
        ("efficientnet_b0", 512, "ours1"),
    ]
    for model in cfg.models:
        assert model.network.pretrained == "imagenet"
        assert (model.network.image_size, model.network.grid, model.network.frozen_children) == (256, 14, 5)
        assert (model.training.encoder_lr, model.training.decoder_lr) == (1e-4, 4e-4)
        assert (model.training.batch, model.training.gradient_clip, model.training.decode_length) == (384, 5, 140)
        assert (model.network.dropout, model.gpus) == (0.5, 1)
    assert cfg.ensembles[0].models == [m.name for m in cfg.models[:5]]


def in_profile(name: str) -> experiment.Config:
    """The configuration of a profile, over that of the talk."""
    raw = shipped()
    update_config(raw, yaml.safe_load((REPOSITORY / f"workflow/profiles/{name}/experiment.yaml").read_text()))
    return experiment.load(raw)


def test_the_reference_models_learn_from_varied_drawings() -> None:
    cfg = in_profile("reference")
    assert cfg.depiction.styles == Styles.model_validate(VARIED)
    assert len({(m.network.encoder, m.network.dim, m.network.image_size) for m in cfg.models}) == 3
    assert cfg.ensembles[0].models == [m.name for m in cfg.models]
    assert all(m.training.risk is not None for m in cfg.models)
    # The style that no training picture has.
    unseen = next(drawing for drawing in cfg.drawings if drawing.name == "handwriting")
    assert not unseen.style.fonts.keys() & VARIED["fonts"].keys()


def test_the_demonstration_is_valid_over_the_experiment() -> None:
    cfg = in_profile("demo")
    assert {m.gpus for m in cfg.models} == {0}
    assert [m.network.pretrained for m in cfg.models] == [*["reference"] * 4, "none"]


def test_the_h200_profile_is_valid_and_its_toy_has_the_same_models() -> None:
    raw = shipped()
    update_config(raw, yaml.safe_load((REPOSITORY / "workflow/profiles/h200/experiment.yaml").read_text()))
    full = experiment.load(raw)
    update_config(raw, yaml.safe_load((REPOSITORY / "tests/workflow/h200-toy.yaml").read_text()))
    toy = experiment.load(raw)
    assert [m.name for m in toy.models] == [m.name for m in full.models]
    assert {m.gpus for m in full.models} == {1}  # the machine has one


def test_the_schema_in_the_repository_is_the_generated_one() -> None:
    kept = (REPOSITORY / "workflow/schemas/config.schema.json").read_text()
    assert kept == experiment.schema(), "run: ocsrflow config --json-schema > workflow/schemas/config.schema.json"


def test_the_schema_accepts_what_is_shipped() -> None:
    schema = json.loads(experiment.schema())
    jsonschema.validate(shipped(), schema)
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(shipped() | {"colour": 1}, schema)


def all_settings(model: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    below = [found for child in model.__subclasses__() for found in all_settings(child)]
    return [*model.__subclasses__(), *below]


def test_every_field_is_described_and_unknown_keys_are_forbidden() -> None:
    assert len(all_settings()) > 12
    for model in all_settings():
        assert model.model_config["extra"] == "forbid"
        for name, field in model.model_fields.items():
            inner = field.description or next((getattr(m, "description", None) for m in field.metadata), None)
            if name not in ("kind", "name", "network", "training"):
                assert inner, f"{model.__name__}.{name} has no description"


def spoil(path: str, value: object) -> dict[str, Any]:
    raw = copy.deepcopy(shipped())
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "colour: unknown key"),
        ("models.0.network.encodr", "x", "models.0.network.encodr: unknown key"),
        ("models.2.dataset", "nope", "models.2.dataset: 'nope' is not one of contest, ours1, ours2"),
        ("models.2.name", "a/../b", "models.2.name: String should match pattern"),
        ("models.1.name", "wide_resnet101_2-512-ours2", "models.1.name: 'wide_resnet101_2-512-ours2' is used twice"),
        ("training.batch", 0, "training.batch: Input should be greater than or equal to 1 (found 0)"),
        ("training.decode_length", 20, "decode_length: 20 is too short for SMILES of 100 characters"),
        ("network.pretrained", "none", "frozen_children must be 0 where pretrained is none"),
        ("models.0.name", "constant", "models: the name 'constant' is that of a baseline; give another one"),
        ("training.risk", {"steps": 0}, "\n  training.risk.steps: Input should be greater than or equal to 1"),
        ("depiction.styles", "Varied", "depiction.styles: varied, null or a mapping of what differs from varied"),
        ("depiction", {"styles": "varied", "rotation": [0, 90]}, "depiction: rotation has no effect where there are"),
        ("weights_folder", "my <weights>", "weights_folder: Snakemake replaces <weights>"),
        ("network.pretrained", "my {model}", "network.pretrained: Snakemake replaces {model}"),
        ("network.pretrained", "-x", "network.pretrained: a path that begins with '-' would be taken for an option"),
        ("network.stride", 7, "network.stride: 8, 16 or 32 is expected"),
        ("sources.0.url", "ftp://x/y", "sources.0.url: an https:// address"),
        ("sources.0.url", "https://me:secret@x/y", "sources.0.url: an address without a password"),
        ("tracking.uri", "https://me:secret@x", "tracking.uri: an address without a password"),
        ("sources.0.kind", "disk", "sources.0.kind: one of 'pubchem', 'file', 'nci', 'public', 'pictures' is expected"),
        ("datasets.0.max_length", 300, "datasets.0.max_length: 300 is more than the max_length 100"),
        ("split.test", 0.995, "split: validation and test must leave a share for training"),
        ("models.0.name", "osra", "models: the name 'osra' is that of a baseline"),
        ("ensembles.0.name", "resnet152-512-contest", "ensembles: 'resnet152-512-contest' is the name of a model too"),
        ("baselines", ["osra", "osra"], "baselines: one is named twice"),
        ("test_sets.1.split", "validation", "test_sets.1.split: members and confidences are chosen on validation"),
        ("test_sets.0.dataset", "x", "test_sets.0.dataset: 'x' is not one of"),
        ("ensembles.0.models", ["resnet152-512-contest", "constant"], "ensembles.0.models.1: 'constant' is not"),
        ("ensembles.0.name", "constant", "ensembles: the name 'constant' is that of a baseline; give another one"),
    ],
)
def test_a_mistake_is_reported_with_its_place(path: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        experiment.load(spoil(path, value))
    assert message in str(caught.value)


def test_what_is_named_and_not_there_is_reported(tmp_path: Path) -> None:
    raw = shipped()
    here, gone = str(tmp_path), str(tmp_path / "gone")
    raw["benchmarks"] = [{"name": "b", "images": here, "references": gone}]
    raw["sources"] += [
        {"name": "f", "kind": "file", "path": gone},
        {"name": "p", "kind": "pictures", "csv": here, "pictures": gone},
    ]
    assert missing_files(experiment.load(raw)) == [
        f"{key}: no such file or folder: {gone}"
        for key in ("sources.1.path", "sources.2.pictures", "benchmarks.0.references")
    ]
    assert missing_files(experiment.load(shipped())) == []


@pytest.mark.parametrize(
    ("drawings", "message"),
    [
        ([{"name": "bold"}, {"name": "bold"}], "drawings.1.name: 'bold' is used twice"),
        ([{"name": "ours1"}], "drawings.0.name: 'ours1' is the name of a data set or a test set too"),
        ([{"name": "uniform"}], "drawings.0.name: 'uniform' is the name of a data set or a test set too"),
        ([{"name": "uspto"}], "drawings.0.name: 'uspto' is the name of a benchmark too"),
        ([{"name": "selection"}], "drawings: the name 'selection' is taken by the selection's pictures"),
        ([{"name": "a b"}], "drawings.0.name: String should match pattern"),
        ([{"name": "bold", "style": {"line_widht": 0.1}}], "drawings.0.style.line_widht: unknown key"),
    ],
)
def test_drawings_that_do_not_fit_are_refused(drawings: list[dict[str, Any]], message: str) -> None:
    raw = shipped() | {"drawings": drawings, "benchmarks": [{"name": "uspto", "images": "a", "references": "b"}]}
    with pytest.raises(UserError) as caught:
        experiment.load(raw)
    assert message in str(caught.value)


def test_a_font_of_a_drawing_must_be_there() -> None:
    raw = shipped() | {"drawings": [{"name": "letters", "style": {"fonts": {"stix": 0.5, "gone.ttf": 0.5}}}]}
    cfg = experiment.load(raw)
    assert missing_files(cfg) == ["drawings.0.style.fonts: no such file or folder: gone.ttf"]
    drawn = Plan(cfg).picture_sets["letters"]
    assert (drawn.dataset, drawn.split) == ("letters", "test")


def test_a_mistake_in_a_shared_section_is_reported_once() -> None:
    with pytest.raises(UserError) as caught:
        experiment.load(spoil("training.batch", 0))
    assert len(str(caught.value).splitlines()) == 2


def test_shards_follow_from_the_size() -> None:
    cfg = experiment.load(shipped())
    assert [shards(cfg, d) for d in cfg.datasets] == [7, 13, 16]


def parents(**pretrained: str) -> dict[str, Any]:
    """The shipped configuration, with some models that start from trained ones."""
    raw = shipped()
    raw["models"] = [
        {
            "name": name,
            "dataset": "contest",
            "network": {"encoder": "resnet18", "dim": 32, "pretrained": folder, "frozen_children": 0},
        }
        for name, folder in pretrained.items()
    ]
    raw["ensembles"], raw["speed"] = [], {}
    return raw


def test_models_may_start_from_one_another(tmp_path: Path) -> None:
    raw = parents(c="results/models/b", b=f"{Path.cwd()}/./results/models/a", a="none", d=str(tmp_path), e="reference")
    cfg = experiment.load(raw)
    own = [experiment.parent_in(cfg, model) for model in cfg.models]
    assert [found and found.name for found in own] == ["b", "a", None, None, None]
    assert list(parents_elsewhere(cfg)) == ["models.3.network.pretrained", "models.4.network.pretrained"]
    first, second = missing_files(cfg)
    assert first.startswith(f"models.3.network.pretrained: no trained model in {tmp_path} (model.json and weights.saf")
    assert second.startswith("models.4.network.pretrained: no trained reference model of resnet18 with dim 32 in ")
    assert "results/reference/models/resnet18-32 (" in second
    (tmp_path / "model.json").touch()
    assert len(missing_files(cfg)) == 2
    (tmp_path / "weights.safetensors").touch()
    assert missing_files(cfg) == [second]


def test_a_misspelt_word_is_a_folder_that_is_not_there() -> None:
    (message,) = missing_files(experiment.load(parents(a="imagnet")))
    assert message.startswith("models.0.network.pretrained: no trained model in imagnet (")
    assert message.endswith("give imagenet, none, reference or the folder of a trained model")


def test_a_model_does_not_start_from_itself_nor_from_another_shape() -> None:
    for wrong in ({"a": "results/models/a"}, {"a": "results/models/b", "b": "results/models/a"}):
        with pytest.raises(UserError, match=r"models.0.network.pretrained: 'a' would start from itself"):
            experiment.load(parents(**wrong))
    raw = parents(a="none", b="results/models/a")
    raw["models"][1]["network"]["dim"] = 64
    with pytest.raises(UserError, match=r"models.1.network.pretrained: 'a' has .*'dim': 32.*'b' .*'dim': 64"):
        experiment.load(raw)


@pytest.mark.parametrize("settings", [{}, {"risk": {}}])
def test_no_epoch_is_for_a_parents_weights(settings: dict[str, object]) -> None:
    raw = shipped()
    raw["models"][0]["training"] = {"epochs": 0, **settings}
    with pytest.raises(UserError, match=r"models\.0: training\.epochs: 0 is for"):
        experiment.load(raw)
