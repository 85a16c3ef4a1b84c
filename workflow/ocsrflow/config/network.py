"""Shape of a network: encoder, attention, decoder."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Settings
from .paths import GivenPath

REFERENCE_MODELS = Path(__file__).parents[3] / "results/reference/models"

Encoder = Literal[
    "efficientnet_b0",
    "inception_v3",
    "mobilenet_v3_small",
    "nasnet_a_large",
    "resnet18",
    "resnet50",
    "resnet152",
    "resnext101_32x8d",
    "shufflenet_v2_x0_5",
    "vgg16",
    "wide_resnet101_2",
    "xception",
]


class Network(Settings):
    """A convolutional encoder, soft attention over its feature grid and an LSTM decoder."""

    encoder: Encoder = Field(description="Convolutional encoder, by its torchvision (or timm) name.")
    pretrained: GivenPath = Field(
        "imagenet",
        description="What the training starts from. imagenet: published weights of the encoder; none: random weights; "
        "reference: the trained model that this repository ships for the encoder and the dim; or the folder of a "
        "trained model (results/models/NAME), of this run or another one, of the same encoder, stride and dim.",
    )
    image_size: int = Field(
        256, ge=32, le=1024, description="Width and height that pictures are resized to, in pixels."
    )
    stride: int = Field(
        32,
        json_schema_extra={"enum": [8, 16, 32]},
        description="Pixels of the resized picture per cell of the encoder's last feature map; "
        "below 32 the encoder's last stages are cut off.",
    )
    grid: int = Field(14, ge=1, le=64, description="Rows and columns of the feature grid that the attention sees.")
    dim: int = Field(512, ge=8, le=4096, description="Width of the attention, the token embedding and the LSTM state.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout before the vocabulary projection.")
    frozen_children: int = Field(
        5,
        ge=0,
        description="So many first children of the encoder keep the weights that they start from "
        "(ResNet: conv1, bn1, relu, maxpool, layer1).",
    )

    @property
    def parent(self) -> str | None:
        """Folder of the trained model to start from; None for ImageNet's or random weights."""
        if self.pretrained in ("imagenet", "none"):
            return None
        if self.pretrained == "reference":
            return os.path.relpath(REFERENCE_MODELS / f"{self.encoder}-{self.dim}")
        return os.path.normpath(self.pretrained)

    @property
    def shape(self) -> dict[str, Any]:
        """The settings that decide the shapes of the weights."""
        return {"encoder": self.encoder, "stride": self.stride, "dim": self.dim}

    @field_validator("stride")
    @classmethod
    def _stride_is_reached(cls, value: int) -> int:
        if value not in (8, 16, 32):
            raise ValueError("8, 16 or 32 is expected")
        return value

    @model_validator(mode="after")
    def _pictures_are_large_enough(self) -> "Network":
        if self.image_size < 96 and self.encoder in ("inception_v3", "nasnet_a_large", "xception"):
            raise ValueError(f"image_size must be 96 or more for {self.encoder}")
        return self

    @model_validator(mode="after")
    def _frozen_needs_pretrained(self) -> "Network":
        if self.frozen_children and self.pretrained == "none":
            raise ValueError("frozen_children must be 0 where pretrained is none: random layers must be trained")
        return self
