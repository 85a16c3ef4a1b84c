"""Searches in the configuration: what may be varied, and that no trial is a model that cannot be trained."""

from typing import Any

import pytest
import yaml
from ocsrflow.config.experiment import load
from ocsrflow.config.planning import Plan
from ocsrflow.config.searches import space_from_json, space_to_json, whole_length, with_values
from ocsrflow.runtime.errors import UserError
from support.checkout import CONFIG, REPOSITORY

SEARCH: dict[str, Any] = {"name": "rates", "model": "shuffle", "space": {"training.encoder_lr": {"log": [1e-4, 3e-3]}}}


def raw(**changed: Any) -> dict[str, Any]:
    """The toy's configuration with a search."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / CONFIG).read_text())
    return config | {"searches": [SEARCH | changed]}


def test_no_search_is_configured_unless_one_is_asked_for() -> None:
    for path in [REPOSITORY / "config.yaml", *(REPOSITORY / "workflow/profiles").glob("*/experiment.yaml")]:
        assert not yaml.safe_load(path.read_text()).get("searches")


@pytest.mark.parametrize(
    ("trials", "keep", "places"), [(9, 1 / 3, [9, 3, 1]), (27, 1 / 3, [27, 9, 3]), (2, 0.1, [2, 1, 1])]
)
def test_each_rung_has_a_share_of_the_one_before(trials: int, keep: float, places: list[int]) -> None:
    (search,) = load(raw(trials=trials, keep=keep)).searches
    assert search.places == places


MISTAKES = {
    "searches.0.space.training.encoder_lrr: model 'shuffle' has no such setting; did you mean training.encoder_lr?": {
        "space": {"training.encoder_lrr": [1]}
    },
    "searches.0.space.network.dim: whole numbers are expected: give integers or a list": {
        "space": {"network.dim": {"log": [8, 64]}}
    },
    "searches.0.space.network.stride: 8, 16 or 32 is expected (tried network.stride 11)": {
        "space": {"network.stride": {"integers": [8, 16]}}
    },
    "searches.0.space.network.dim: Input should be greater than or equal to 8 (tried network.dim 4)": {
        "space": {"network.dim": [4, 8]}
    },
    "searches.0.space.network.dim: the lower end of the range comes first": {
        "space": {"network.dim": {"uniform": [8, 4]}}
    },
    "searches.0.space.network.dim: a logarithmic range begins above 0": {"space": {"network.dim": {"log": [0, 4]}}},
    "searches.0.space.network.dim.logg: unknown key": {"space": {"network.dim": {"logg": [4, 8]}}},
    "searches.0.space.network.dim: a list of choices is expected, or log, uniform or integers": {
        "space": {"network.dim": 3}
    },
    "searches.0.space.training.epochs: it cannot be varied: the rungs say how long": {
        "space": {"training.epochs": [4, 8]}
    },
    "searches.0.space.network.frozen_children: frozen_children must be 0 where pretrained is none": {
        "space": {"network.frozen_children": [0, 2], "training.seed": [1, 2]}
    },
    # Neither is wrong alone.
    "searches.0.space.network.encoder: image_size must be 96 or more for xception": {
        "space": {"network.image_size": [64, 128], "network.encoder": ["resnet18", "xception"]}
    },
    "searches.0.model: 'other' is not one of shuffle, mobile": {"model": "other"},
    "searches.0.rungs: ascending numbers are expected, each once": {"rungs": [3, 1]},
    "searches.0.keep: Input should be less than 1": {"keep": 1},
    "searches.0.metric: Input should be 'validation_tanimoto' or 'validation_loss'": {"metric": "tanimoto"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_reported_with_its_path(message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(raw(**MISTAKES[message]))
    assert message in str(caught.value)


def test_rungs_end_with_a_validation() -> None:
    config = raw(rungs=[1, 4, 9])
    config["models"][0]["training"] = {"validate_every": 2}
    with pytest.raises(UserError, match=r"searches\.0\.rungs\.0: 1 is no multiple of training\.validate_every \(2\)"):
        load(config)
    config["searches"][0]["rungs"] = [2, 4, 9]
    assert load(config).searches[0].rungs == [2, 4, 9]


@pytest.mark.parametrize("key", ["network.dim", "network.stride", "network.encoder"])
def test_the_shape_of_a_child_is_that_of_its_parent(key: str) -> None:
    config = raw(space={key: [16, 8]})
    config["models"][0]["network"]["pretrained"] = "./results/models/other"
    with pytest.raises(UserError, match=rf"searches\.0\.space\.{key}: it cannot be varied where the model starts"):
        load(config)
    config["searches"][0]["space"] = {"network.dropout": {"uniform": [0, 0.5]}}
    assert load(config)


def test_names_are_used_once() -> None:
    config = raw()
    config["searches"] *= 2
    with pytest.raises(UserError, match=r"searches\.1\.name: 'rates' is used twice"):
        load(config)


def test_a_space_is_the_same_on_a_command_line_whatever_the_order_of_its_keys() -> None:
    space = {"training.encoder_lr": {"log": [1e-4, 3e-3]}, "network.dim": [16, 24], "training.compile": [True, False]}
    (one,) = load(raw(space=space)).searches
    (other,) = load(raw(space=dict(reversed(space.items())))).searches
    assert space_to_json(one.space) == space_to_json(other.space)
    assert space_from_json(space_to_json(one.space)) == one.space


def test_values_take_their_places() -> None:
    settings = {"network": {"dim": 16}, "training": {}}
    changed = with_values(settings, {"network.dim": 32, "training.augmentation.blur": 0.5})
    assert changed == {"network": {"dim": 32}, "training": {"augmentation": {"blur": 0.5}}}
    assert settings == {"network": {"dim": 16}, "training": {}}


def test_all_trials_have_the_length_of_the_last_rung() -> None:
    config = load(raw())
    assert whole_length(config.searches[0], config.models[0]).training.epochs == 9


class Wildcards(dict[str, str]):
    """As Snakemake gives them: by attributes too."""

    __getattr__ = dict.__getitem__


def test_weights_of_all_encoders_that_are_tried_are_there() -> None:
    config = raw(space={"network.encoder": ["resnet18", "resnet50"]})
    config["models"][0]["network"] |= {"pretrained": "imagenet"}
    plan = Plan(load(config))
    assert {"resnet18", "resnet50"} <= plan.encoders
    of_search = Wildcards(search="rates", rung="0", place="1")
    assert plan.imagenet_weights(of_search) == ["<results>/weights/resnet18.pth", "<results>/weights/resnet50.pth"]
    of_model = Wildcards(model="shuffle")
    assert plan.imagenet_weights(of_model) == ["<results>/weights/shufflenet_v2_x0_5.pth"]
