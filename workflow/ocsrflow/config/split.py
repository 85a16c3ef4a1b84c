"""The split of the molecules into those to train on, to validate on and to test on."""

from pydantic import Field, model_validator

from .base import Settings


class Split(Settings):
    """Shares of the splits, decided by a hash of the canonical SMILES: the same in every data set."""

    validation: float = Field(0.01, gt=0, lt=1, description="Share of the molecules for validation.")
    test: float = Field(0.01, gt=0, lt=1, description="Share of the molecules for testing.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the hash.")

    @model_validator(mode="after")
    def _some_left(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test must leave a share for training: their sum is 1 or more")
        return self

    @property
    def held_out(self) -> float:
        """Share of the molecules that nothing is trained on, computed as the stage ``sample`` does."""
        return self.test + self.validation
