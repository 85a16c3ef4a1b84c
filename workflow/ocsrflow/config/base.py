"""What every settings model shares."""

from collections.abc import Sequence
from typing import Any, TypeVar

from cyclopts import Parameter, Token
from pydantic import BaseModel, ConfigDict, field_validator

LARGEST = 1 << 53  # up to it JSON, floats and HDF5 hold every whole number exactly

Section = TypeVar("Section", bound="Settings")


def _from_json(section: type[Section], tokens: Sequence[Token]) -> Section:
    return section.model_validate_json(tokens[0].value)


# A stage is given a section as JSON. It is read by the model itself: cyclopts' own reading would take the first end of
# a range for the whole of it, without a word.
@Parameter(converter=_from_json, accepts_keys=False, n_tokens=1)
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
