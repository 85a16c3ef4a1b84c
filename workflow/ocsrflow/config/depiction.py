"""How a molecule is drawn."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .base import Settings
from .ranges import OneOrRange
from .styles import Styles, with_defaults

LineWidth = Annotated[float, Field(ge=0.1, le=20)]
FontSize = Annotated[int, Field(ge=4, le=100)]
Degrees = Annotated[float, Field(ge=-360, le=360)]
Padding = Annotated[float, Field(ge=0, le=0.4)]


class Depiction(Settings):
    """Options of the drawing; the defaults are those of RDKit's ``Draw.MolToImage`` at 300 × 300 pixels.

    Where an option is a range, [low, high], each molecule has its own value, uniform in the range: it follows from
    ``seed``, the molecule's CID and the option's name, so that a molecule has the same picture on every machine.
    """

    size: int = Field(300, ge=32, le=2048, description="Width and height of a picture, in pixels.")
    palette: Literal["colour", "black_and_white"] = Field(
        "colour",
        description="RDKit's default atom colours (three channels), or black on white (one channel).",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb",
        description="Order of the three channels of drawn colour pictures: bgr swaps red and blue, as in the "
        "pictures of the contest. Supplied pictures stay as they are.",
    )
    line_width: OneOrRange[LineWidth] = Field(2.0, description="Bond line width, in pixels: a number or [low, high].")
    font_size: OneOrRange[FontSize] | None = Field(
        None,
        description="Size of the atom labels, in whole pixels: a number or [low, high]; null: RDKit chooses it by the "
        "scale of the drawing.",
    )
    rotation: OneOrRange[Degrees] = Field(
        0.0, description="Degrees by which the molecule is turned clockwise: a number or [low, high]."
    )
    kekulize: bool = Field(True, description="Draw aromatic rings with alternating double bonds.")
    stereo_labels: bool = Field(False, description="Write (R), (S), (E), (Z) at stereocentres and double bonds.")
    padding: OneOrRange[Padding] = Field(
        0.05,
        description="White space on each side, as a fraction of the picture's size: a number or [low, high].",
    )
    styles: Styles | None = Field(
        None,
        description="null: one style, as said above. varied, or a mapping of what differs from it: each drawing has a "
        "style of its own, in which it is drawn large and then brought to the size, palette and padding of the frame, "
        "as pictures from elsewhere are.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the values taken from ranges.")

    _styles = field_validator("styles", mode="before")(with_defaults)

    @model_validator(mode="after")
    def _styles_draw_alone(self) -> "Depiction":
        for key in ("line_width", "font_size", "rotation", "kekulize", "stereo_labels"):
            if self.styles is not None and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect where there are styles; leave it out and see the keys of styles")
        return self

    @property
    def channels(self) -> int:
        """3 for colour pictures, 1 for black and white."""
        return 3 if self.palette == "colour" else 1
