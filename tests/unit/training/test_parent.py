"""Trainings that start from a trained model, and those that may not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ocsrflow.chem import molecules
from ocsrflow.config.network import REFERENCE_MODELS, Network
from ocsrflow.config.split import Split
from ocsrflow.network.batches import Batch, Share
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import sha256
from ocsrflow.training.engine import Engine
from ocsrflow.training.parent import Parent, refused
from safetensors.torch import load_file, save_file
from support.data import make_dataset
from support.training import NETWORK, TRAINING, lines, run_train

SPLIT = {"validation": 0.15, "test": 0.15, "seed": 0}  # of the data set of the tests


@pytest.fixture(scope="module")
def parent(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt for some epochs."""
    folder = tmp_path_factory.mktemp("parent")
    run_train(dataset, folder, training=TRAINING.model_copy(update={"epochs": 20, "validate_every": 20}))
    return folder


def copied(parent: Path, folder: Path, **changed: Any) -> Path:
    """A copy of a model with other facts; None takes one away."""
    shutil.copytree(parent, folder, ignore=shutil.ignore_patterns("checkpoints"))
    facts = json.loads((folder / "model.json").read_text()) | changed
    (folder / "model.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return folder


def from_parent(folder: Path, **changed: Any) -> Network:
    return NETWORK.model_copy(update={"pretrained": str(folder), **changed})


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return facts


def test_a_child_begins_with_its_parents_weights_at_another_picture_size(
    dataset: Path, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, began = Engine.step, []

    def step(self: Engine, batch: Batch, share: Share, number: int) -> torch.Tensor:
        if number == 0:
            began.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return real(self, batch, share, number)

    monkeypatch.setattr(Engine, "step", step)
    network = from_parent(parent, image_size=96, grid=3, dropout=0.1)
    run_train(dataset, tmp_path, network=network)
    expected = load_file(parent / "weights.safetensors")
    assert began[0].keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in began[0].items())
    first = {folder: next(line["loss"] for line in lines(folder) if "loss" in line) for folder in (parent, tmp_path)}
    assert first[tmp_path] < first[parent] - 0.5
    theirs, ours = facts_of(parent), facts_of(tmp_path)
    assert ours["split"] == theirs["split"] == SPLIT
    assert theirs["parent"] is None
    assert ours["parent"] == {
        "name": "tiny",
        "key": theirs["key"],
        "folder": str(parent),
        "weights": sha256(parent / "weights.safetensors"),
    }


def test_the_key_has_the_parents_weights_and_not_its_place(dataset: Path, parent: Path, tmp_path: Path) -> None:
    moved, other = copied(parent, tmp_path / "moved"), copied(parent, tmp_path / "other")
    state = load_file(other / "weights.safetensors")
    save_file({name: value + 1 if name == "decoder.output.bias" else value for name, value in state.items()},
              other / "weights.safetensors")  # fmt: skip
    for number, folder in enumerate((parent, moved, other)):
        run_train(dataset, tmp_path, network=from_parent(folder), training=TRAINING.model_copy(update={"epochs": 1}))
        assert len(list((tmp_path / "checkpoints").iterdir())) == (1, 1, 2)[number]


def test_frozen_children_stay_those_of_the_parent(dataset: Path, parent: Path, tmp_path: Path) -> None:
    run_train(dataset, tmp_path, network=from_parent(parent, frozen_children=1))
    before, after = load_file(parent / "weights.safetensors"), load_file(tmp_path / "weights.safetensors")
    frozen = [name for name in before if name.startswith("encoder.trunk.0.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["encoder.trunk.2.0.branch1.0.weight"], after["encoder.trunk.2.0.branch1.0.weight"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"split": None}, r"does not say how its molecules were split \(no 'split' in its model.json\)"),
        ({"split": SPLIT | {"seed": 1}}, r"has split.seed 1, here it is 0: .*set split.seed to 1, or give another"),
        ({"split": SPLIT | {"validation": 0.1}}, r"held out 0.25 of the molecules .*, here it is 0.3: .*0.25 or less"),
        ({"split": {"seed": 0}}, "a 'split' in its model.json that is none"),
        ({"split": "yes"}, "a 'split' in its model.json that is none"),
        ({"vocabulary": ["<pad>", "<start>", "<end>", "C"]}, "has another vocabulary than the data set"),
        (
            {"network": NETWORK.model_dump() | {"dim": 64}},
            r"has dim 64, this one 32; .*image_size, grid and dropout may",
        ),
        ({"network": NETWORK.model_dump() | {"encoder": "resnet18"}}, "has encoder resnet18, this one shufflenet"),
        ({"network": None}, "is not the description of a trained model"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(
    dataset: Path, parent: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    folder = copied(parent, tmp_path / "copy", **changed)
    with pytest.raises(UserError, match=said) as caught:
        run_train(dataset, tmp_path / "child", network=from_parent(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "child").exists()


def test_a_parent_whose_held_out_molecules_are_more_is_taken(parent: Path, tmp_path: Path) -> None:
    folder = copied(parent, tmp_path / "copy", split=SPLIT | {"validation": 0.05, "test": 0.3})
    Parent.read(folder).check(NETWORK, Split(**SPLIT))  # raises nothing
    with pytest.raises(UserError, match="held out"):
        Parent.read(folder).check(NETWORK, Split(validation=0.2, test=0.2, seed=0))


def damage(folder: Path, how: str) -> None:
    weights = folder / "weights.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "not finite":
        state = load_file(weights)
        state["decoder.output.bias"][3] = float("nan")
        save_file(state, weights)
    elif how == "of another network":
        state = load_file(weights)
        del state["decoder.output.bias"]
        save_file(state, weights)


@pytest.mark.parametrize("how", ["cut", "not finite", "of another network"])
def test_damaged_weights_are_refused(dataset: Path, parent: Path, tmp_path: Path, how: str) -> None:
    folder = copied(parent, tmp_path / "copy")
    damage(folder, how)
    with pytest.raises(UserError, match=r"copy/weights.safetensors: damaged"):
        run_train(dataset, tmp_path / "child", network=from_parent(folder))


def test_folders_without_a_model_are_refused(dataset: Path, parent: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network.pretrained: .*empty has no model.json; give imagenet, none, ref"):
        run_train(dataset, tmp_path / "child", network=from_parent(tmp_path / "empty"))
    folder = copied(parent, tmp_path / "copy")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"copy has no weights.safetensors"):
        run_train(dataset, tmp_path / "child", network=from_parent(folder))
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model.json: damaged, no JSON"):
        run_train(dataset, tmp_path / "child", network=from_parent(folder))


def test_a_data_set_that_does_not_say_its_split_has_no_parent(parent: Path) -> None:
    with pytest.raises(UserError, match="the data set does not say how its molecules were split"):
        Parent.read(parent).check(NETWORK, None)


@pytest.mark.usefixtures("drawn_here")
def test_what_a_child_holds_out_no_ancestor_has_learnt_from(kept: Path, parent: Path, tmp_path: Path) -> None:
    """The condition, looked at with the splits that the stage sample makes of other draws and other shares."""
    packed = Packed(make_dataset(kept, tmp_path / "other", size=120, max_length=20) / "images.h5")
    assert packed.split_into == Split(**SPLIT)
    share = np.array([molecules.fraction(text, 0) for text in packed.text("canonical", range(len(packed)))])
    trained_on = share >= Split(**SPLIT).held_out
    assert packed.members("train").tolist() == np.flatnonzero(trained_on).tolist()
    own = Split(validation=0.2, test=0.05, seed=0)
    Parent.read(parent).check(NETWORK, own)
    assert not (trained_on & (share < own.held_out)).any()
    wider = Split(validation=0.2, test=0.2, seed=0)
    with pytest.raises(UserError, match=r"held out 0\.3"):
        Parent.read(parent).check(NETWORK, wider)
    assert (trained_on & (share < wider.held_out)).any()  # what is refused is a real leak


def test_reference_is_a_folder_of_this_repository(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORK.model_copy(update={"pretrained": "reference"})
    assert Path(str(network.parent)).resolve() == REFERENCE_MODELS / "shufflenet_v2_x0_5-32"
    with pytest.raises(UserError, match=r"reference/models/shufflenet_v2_x0_5-32 has no model.json"):
        Parent.read(Path(str(network.parent)))
    monkeypatch.setattr("ocsrflow.config.network.REFERENCE_MODELS", tmp_path)
    copied(parent, tmp_path / "shufflenet_v2_x0_5-32")
    Parent.read(Path(str(network.parent))).check(network, Split(**SPLIT))


def test_a_configuration_has_a_line_for_each_model_that_may_not(parent: Path, tmp_path: Path) -> None:
    foreign = copied(parent, tmp_path / "foreign", split=None)
    parents = {
        "models.0.network.pretrained": (str(parent), NETWORK),
        "models.1.network.pretrained": (str(foreign), NETWORK),
        "models.2.network.pretrained": (str(parent), NETWORK.model_copy(update={"stride": 32})),
    }
    first, second = refused(parents, Split(**SPLIT))
    assert first.startswith(f"models.1.network.pretrained: the model in {foreign} does not say")
    assert second.startswith(f"models.2.network.pretrained: the model in {parent} has stride 16, this one 32")
