"""How a molecule is drawn."""

from typing import Literal

from pydantic import Field

from .base import Settings


class Depiction(Settings):
    """Options of the drawing; the defaults are those of RDKit's ``Draw.MolToImage`` at 300 × 300 pixels."""

    size: int = Field(300, ge=32, le=2048, description="Width and height of a picture, in pixels.")
    palette: Literal["colour", "black_and_white"] = Field(
        "colour",
        description="RDKit's default atom colours (three channels, RGB), or black on white (one channel).",
    )
    line_width: float = Field(2.0, gt=0, description="Bond line width, in pixels.")
    kekulize: bool = Field(True, description="Draw aromatic rings with alternating double bonds.")

    @property
    def channels(self) -> int:
        """3 for colour pictures, 1 for black and white."""
        return 3 if self.palette == "colour" else 1
