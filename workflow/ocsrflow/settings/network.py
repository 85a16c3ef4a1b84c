"""Shape of a network: encoder, attention, decoder."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .base import Settings

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
    pretrained: Literal["imagenet", "none"] = Field("imagenet", description="Weights that the encoder starts from.")
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
        description="So many first children of the encoder keep their ImageNet weights "
        "(ResNet: conv1, bn1, relu, maxpool, layer1).",
    )

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
