"""The convolutional encoders: torchvision's, and timm's where torchvision has none."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recipe:
    """How an encoder is built.

    ``build`` makes the whole classifier without weights, so that published weights fit it key by key; ``trunk``
    takes its feature layers, in order; ``weights`` names the published weights (a torchvision weights enum, or a
    timm model name). ``mean`` and ``std`` are what those weights expect of RGB in [0, 1].
    """

    build: Callable[[], nn.Module]
    trunk: Callable[[nn.Module], list[nn.Module]]
    weights: object
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _children(*but: str) -> Callable[[nn.Module], list[nn.Module]]:
    return lambda net: [child for name, child in net.named_children() if name not in but]


def _features(net: nn.Module) -> list[nn.Module]:
    return list(net.features)  # type: ignore[arg-type]


class _Collect(nn.Module):
    """timm's NASNet as one layer: its cells take two earlier outputs each, so they are no chain."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        net.last_linear = nn.Identity()  # a layer that gets no gradient stops DistributedDataParallel

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_features(x)  # type: ignore[operator]
        return features


_RESNET = _children("avgpool", "fc")

RECIPES: dict[str, Recipe] = {
    "efficientnet_b0": Recipe(tv.efficientnet_b0, _features, tv.EfficientNet_B0_Weights.IMAGENET1K_V1),
    "inception_v3": Recipe(
        lambda: tv.inception_v3(init_weights=False, transform_input=False),
        _children("AuxLogits", "avgpool", "dropout", "fc"),
        tv.Inception_V3_Weights.IMAGENET1K_V1,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
    "mobilenet_v3_small": Recipe(tv.mobilenet_v3_small, _features, tv.MobileNet_V3_Small_Weights.IMAGENET1K_V1),
    "nasnet_a_large": Recipe(
        lambda: timm.create_model("nasnetalarge", pretrained=False),
        lambda net: [_Collect(net)],
        "nasnetalarge",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
    "resnet18": Recipe(tv.resnet18, _RESNET, tv.ResNet18_Weights.IMAGENET1K_V1),
    "resnet50": Recipe(tv.resnet50, _RESNET, tv.ResNet50_Weights.IMAGENET1K_V1),
    "resnet152": Recipe(tv.resnet152, _RESNET, tv.ResNet152_Weights.IMAGENET1K_V1),
    "resnext101_32x8d": Recipe(tv.resnext101_32x8d, _RESNET, tv.ResNeXt101_32X8D_Weights.IMAGENET1K_V1),
    "shufflenet_v2_x0_5": Recipe(tv.shufflenet_v2_x0_5, _children("fc"), tv.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1),
    "vgg16": Recipe(tv.vgg16, _features, tv.VGG16_Weights.IMAGENET1K_V1),
    "wide_resnet101_2": Recipe(tv.wide_resnet101_2, _RESNET, tv.Wide_ResNet101_2_Weights.IMAGENET1K_V1),
    "xception": Recipe(
        lambda: timm.create_model("legacy_xception", pretrained=False),
        _children("global_pool", "fc"),
        "legacy_xception",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
}


def build_trunk(encoder: str, stride: int, state: dict[str, Tensor] | None = None) -> tuple[nn.Sequential, int]:
    """An encoder's feature layers.

    Parameters
    ----------
    encoder
        A key of :data:`RECIPES`.
    stride
        Pixels per cell of the feature map wanted; last layers are cut off while the map is coarser.
    state
        Published weights of the whole classifier; None for random ones.

    Returns
    -------
    The layers, and the channels of their feature map.

    Raises
    ------
    ValueError
        Where the weights do not fit, or no cut gives the stride.
    """
    recipe = RECIPES[encoder]
    net = recipe.build()
    layers = recipe.trunk(net)
    if state is not None:
        _load(encoder, net, layers, state)
    probe = torch.zeros(1, 3, 256, 256)
    reached, channels, keep = 1, 3, 0
    with torch.no_grad():
        for i, layer in enumerate(layers, 1):
            probe = layer.eval()(probe)
            # Unpadded layers lose some border: 256 pixels may end as 6 cells of stride 32, not 8.
            now = 2 ** round(math.log2(256 / probe.shape[-1]))
            if now > stride:
                break
            reached, channels, keep = now, probe.shape[1], i
    if keep == 0:
        raise ValueError(f"{encoder} cannot be cut at stride {stride}; its only stride is larger")
    if reached < stride:
        raise ValueError(f"{encoder} reaches stride {reached} only; set stride to {reached}")
    trunk = nn.Sequential(*layers[:keep])
    return trunk.train(), channels


def _load(encoder: str, net: nn.Module, layers: list[nn.Module], state: dict[str, Tensor]) -> None:
    """Load what the feature layers need; the classifier and auxiliary heads of the file are left aside."""
    own = {id(value) for layer in layers for value in layer.state_dict(keep_vars=True).values()}
    wanted = [key for key, value in net.state_dict(keep_vars=True).items() if id(value) in own]
    for key in wanted:
        # Files older than 2018 have no counters of batches.
        if key not in state and not key.endswith("num_batches_tracked"):
            raise ValueError(f"the weights do not fit {encoder}: {key} is missing")
    try:
        net.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit {encoder}: {str(error).splitlines()[-1].strip()}") from None
