"""Minimum-risk training."""

from typing import Literal

from pydantic import Field

from .base import Settings

Reward = Literal["tanimoto", "exact"]


class Risk(Settings):
    """Minimum-risk training, the last phase of a training: the expected error over a model's own texts is minimised.

    It begins with the weights that were best in validations. Batch statistics and dropout are fixed. The learning
    rate falls linearly to 5 % of its first value, and the norm of the gradient is at most 1.
    """

    steps: int = Field(660, ge=1, description="Optimiser steps of this phase.")
    batch: int = Field(32, ge=1, description="Pictures per optimiser step, over all GPUs together.")
    candidates: int = Field(
        5, ge=2, le=64, description="Texts of the beam search for each picture; the right text is added."
    )
    reward: Reward = Field(
        "tanimoto",
        description="What a text is worth: tanimoto, its Tanimoto similarity to the right molecule; exact, 1 for the "
        "right molecule and 0 for another one. A text that RDKit cannot parse is worth 0.",
    )
    alpha: float = Field(
        1.0, gt=0, le=100, description="Sharpness: candidates count by their probability to the power of alpha."
    )
    cross_entropy_weight: float = Field(
        0.3, ge=0, le=1000, description="Weight of the cross-entropy a token of the right text beside the risk."
    )
    lr: float = Field(1e-4, gt=0, description="First learning rate of the whole network (Adam).")
    validate_every: int = Field(
        220, ge=1, description="Steps of this phase between two validations; there is one at its end too."
    )
