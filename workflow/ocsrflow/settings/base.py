"""What every settings model shares."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the configuration: unknown keys forbidden, every field described, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
