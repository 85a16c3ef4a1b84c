"""How pictures are changed while a network is trained."""

from pydantic import Field

from .base import Settings


class Augmentation(Settings):
    """Random changes of every picture that a network is trained with; without any option, none.

    Each picture has its own values, every time it is seen. A strength is the largest change: values are uniform
    between it and no change, in both directions where ± is said. Where a picture is turned, scaled or moved, its
    drawing stays inside the frame. No option mirrors a picture, since that would turn its stereochemistry round.
    """

    share: float = Field(1.0, ge=0, le=1, description="Probability that a picture is changed at all.")
    rotation: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Largest turn, ± degrees. What would leave the frame is scaled down.",
    )
    scale: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest change of size: 0.1 for factors of 0.9 to 1.1, these as far as the frame allows.",
    )
    shift: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest move, ± share of the picture's width (and of its height), as far as the frame allows.",
    )
    blur: float = Field(0.0, ge=0, le=10, description="Largest standard deviation of a Gaussian blur, in pixels.")
    noise: float = Field(
        0.0,
        ge=0,
        le=128,
        description="Largest standard deviation of Gaussian noise, in grey levels of 0 to 255; "
        "the same in all channels of a pixel.",
    )
    thickness: float = Field(
        0.0,
        ge=0,
        le=8,
        description="Largest change of the lines' thickness, ± pixels. Thinner lines keep half their ink or more: "
        "they do not vanish.",
    )
    grey: float = Field(
        0.0,
        ge=0,
        le=0.4,
        description="Largest loss of contrast and colour, each of three with its own value: share of the way from "
        "black to white by which black is lightened, from white to black by which white is darkened, and from a "
        "colour to the mean of its channels.",
    )

    @property
    def on(self) -> bool:
        """Whether anything is ever changed."""
        strengths = (self.rotation, self.scale, self.shift, self.blur, self.noise, self.thickness, self.grey)
        return self.share > 0 and any(strengths)
