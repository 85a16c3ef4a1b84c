"""How a network is trained."""

from typing import Literal

from pydantic import Field

from .base import Settings


class Training(Settings):
    """Everything that defines a training run besides its network and its data set."""

    batch: int = Field(384, ge=1, description="Pictures per optimiser step, over all GPUs together.")
    epochs: int = Field(20, ge=1, description="Passes over the training split.")
    encoder_lr: float = Field(1e-4, gt=0, description="Learning rate of the encoder (Adam).")
    decoder_lr: float = Field(4e-4, gt=0, description="Learning rate of attention and decoder (Adam).")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Course of both learning rates after the warm-up."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    gradient_clip: float = Field(5.0, gt=0, description="Every gradient component is clamped to [-clip, clip].")
    attention_penalty: float = Field(
        1.0,
        ge=0,
        description="Weight of the doubly stochastic attention term (Xu et al. 2015, eq. 14).",
    )
    decode_length: int = Field(140, ge=2, description="Longest SMILES a prediction can have, in tokens.")
    validation_size: int = Field(2000, ge=1, description="Pictures of the validation split decoded after an epoch.")
    validate_every: int = Field(1, ge=1, description="Epochs between two validations.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of initial weights, batch order and dropout.")
