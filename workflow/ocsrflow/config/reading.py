"""How a trained model writes what it sees in a picture."""

from pydantic import Field

from .base import Settings
from .precision import MEANING, Precision


class Reading(Settings):
    """Beam search over the decoder's texts."""

    beams: int = Field(5, ge=1, le=64, description="Texts that a model keeps in mind for a picture; 1: greedy.")
    grammar: bool = Field(
        True,
        description="Whether a text may only go on as SMILES grammar allows: brackets, ring digits and branches close.",
    )
    precision: Precision = Field("auto", description=f"What the networks compute in. {MEANING}")
