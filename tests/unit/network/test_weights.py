"""The stage weights: without network it says what to put where."""

from pathlib import Path

import pytest
import torch
from ocsrflow.network import weights as stage
from ocsrflow.network.encoders import RECIPES, build_trunk
from ocsrflow.runtime.errors import UserError


@pytest.mark.parametrize("encoder", RECIPES)
def test_every_encoder_has_published_weights(encoder: str) -> None:
    url, name = stage.published(encoder)
    assert url.startswith("https://")
    assert url.endswith(name)


def test_without_network_the_file_and_its_place_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "published", lambda encoder: ("http://127.0.0.1:9/net-0123abcd.pth", "net-0123abcd.pth"))
    with pytest.raises(UserError, match=r"put net-0123abcd\.pth .* into the folder .*/supplied/"):
        stage.weights("resnet18", out=tmp_path / "w.pth", folder=tmp_path / "supplied")
    assert not (tmp_path / "w.pth").exists()


def test_a_supplied_file_spares_the_network_and_a_damaged_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "published", lambda encoder: ("http://127.0.0.1:9/", "net-9834876d.pth"))
    (tmp_path / "net-9834876d.pth").write_bytes(b"a" * 5)
    with pytest.raises(UserError, match="should start with 9834876d; replace"):
        stage.weights("resnet18", out=tmp_path / "w.pth", folder=tmp_path)
    (tmp_path / "net-9834876d.pth").write_bytes(b"aaaa")
    monkeypatch.setattr(stage, "published", lambda encoder: ("http://127.0.0.1:9/", "net-61be55a8.pth"))
    (tmp_path / "net-61be55a8.pth").write_bytes(b"aaaa")
    stage.weights("resnet18", out=tmp_path / "w.pth", folder=tmp_path)
    assert (tmp_path / "w.pth").read_bytes() == b"aaaa"


def test_published_weights_fit_and_others_are_named() -> None:
    state = RECIPES["resnet18"].build().state_dict()
    trunk, channels = build_trunk("resnet18", 16, state)
    assert channels == 256
    assert torch.equal(trunk[0].weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="do not fit resnet50"):
        build_trunk("resnet50", 32, state)
