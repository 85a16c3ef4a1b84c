"""What every settings model shares."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

LARGEST = 1 << 53  # up to it JSON, floats and HDF5 hold every whole number exactly


class Settings(BaseModel):
    """A section of the configuration: unknown keys forbidden, every field described, numbers finite, immutable."""

    # A number that is infinite or none would be null in the JSON by which a stage is given its settings.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _not_too_large(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"a whole number of at most {LARGEST} is expected")
        return value
