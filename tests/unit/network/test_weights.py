"""The stage weights: without network it says what to put where."""

from pathlib import Path

import pytest
import torch
from ocsrflow.network import weights as stage
from ocsrflow.network.encoders import RECIPES, build_trunk
from ocsrflow.runtime.errors import UserError
from torchvision.models import WeightsEnum

# Parameters as the publisher states them, and names of the first and of late ones in the published file: torchvision's
# table of weights; of timm's two its card of nasnetalarge.tf_in1k says 88.8 million, and the card of a port of
# legacy_xception.tf_in1k (lucid-dl/xception) 22.9 million. The names of these two are those of the package itself.
PUBLISHED = {
    "efficientnet_b0": (5_288_548, "features.0.0.weight features.8.0.weight classifier.1.bias"),
    "inception_v3": (27_161_264, "Conv2d_1a_3x3.conv.weight Mixed_7c.branch_pool.bn.bias AuxLogits.fc.weight fc.bias"),
    "mobilenet_v3_small": (2_542_856, "features.0.0.weight features.12.0.weight classifier.3.bias"),
    "nasnet_a_large": (88_753_150, "conv0.conv.weight cell_17.comb_iter_4_left.bn_sep_2.bias last_linear.bias"),
    "resnet18": (11_689_512, "conv1.weight layer4.1.bn2.running_var fc.bias"),
    "resnet50": (25_557_032, "conv1.weight layer4.2.bn3.running_var fc.bias"),
    "resnet152": (60_192_808, "conv1.weight layer3.35.bn3.running_var fc.bias"),
    "resnext101_32x8d": (88_791_336, "conv1.weight layer3.22.bn3.running_var fc.bias"),
    "shufflenet_v2_x0_5": (1_366_792, "conv1.0.weight stage4.3.branch2.6.bias conv5.1.bias fc.bias"),
    "vgg16": (138_357_544, "features.0.weight features.28.bias classifier.6.bias"),
    "wide_resnet101_2": (126_886_696, "conv1.weight layer3.22.bn3.running_var fc.bias"),
    "xception": (22_855_952, "conv1.weight block12.skipbn.bias conv4.pointwise.weight fc.bias"),
}


@pytest.mark.parametrize("encoder", RECIPES)
def test_an_encoder_takes_the_file_that_is_published_for_it(encoder: str) -> None:
    url, name = stage.published(encoder)
    assert url.startswith("https://")
    assert url.endswith(name)
    parameters, names = PUBLISHED[encoder]
    with torch.device("meta"):
        net = RECIPES[encoder].build()
    assert sum(value.numel() for value in net.parameters()) == parameters
    assert set(names.split()) <= net.state_dict().keys()
    weights = RECIPES[encoder].weights
    assert not isinstance(weights, WeightsEnum) or weights.meta["num_params"] == parameters


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
