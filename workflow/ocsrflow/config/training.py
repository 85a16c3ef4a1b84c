"""How a network is trained."""

from typing import Literal

from pydantic import Field

from .augmentation import Augmentation
from .base import Settings
from .precision import MEANING, Precision
from .risk import Risk


class Training(Settings):
    """Everything that defines a training run besides its network and its data set."""

    batch: int = Field(384, ge=1, description="Pictures per optimiser step, over all GPUs together.")
    epochs: int = Field(
        20,
        ge=0,
        description="Passes over the training split; 0 for a parent's weights, as they are or with minimum-risk "
        "training only.",
    )
    encoder_lr: float = Field(1e-4, gt=0, description="Learning rate of the encoder (Adam).")
    decoder_lr: float = Field(4e-4, gt=0, description="Learning rate of attention and decoder (Adam).")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Course of both learning rates after the warm-up."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    gradient_clip: float = Field(5.0, gt=0, description="Every gradient component is clamped to [-clip, clip].")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay a step of the moving average of the weights; the averaged weights are validated and kept. "
        "0 keeps the weights themselves.",
    )
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="Random changes of the training pictures."
    )
    compile: bool = Field(
        False,
        description="Compile the encoder with torch.compile, which takes a minute or more at the first step.",
    )
    precision: Precision = Field("auto", description=f"What the network computes in. {MEANING}")
    attention_penalty: float = Field(
        1.0,
        ge=0,
        description="Weight of the doubly stochastic attention term (Xu et al. 2015, eq. 14).",
    )
    decode_length: int = Field(140, ge=2, description="Longest SMILES a prediction can have, in tokens.")
    validation_size: int = Field(2000, ge=1, description="Pictures of the validation split that a validation reads.")
    validate_every: int = Field(1, ge=1, description="Epochs between two validations.")
    patience: int | None = Field(
        None,
        ge=1,
        description="The training ends after so many validations without a better Tanimoto similarity; null never.",
    )
    risk: Risk | None = Field(
        None,
        description="Minimum-risk training as the last phase; null: none. {} takes it with its defaults.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of initial weights, batch order and dropout.")
