"""How differently molecules are drawn, from picture to picture."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from .base import Settings
from .ranges import OneOrRange

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0.2, le=1)]
Side = Annotated[int, Field(ge=64, le=2048)]
Width = Annotated[float, Field(ge=0.005, le=0.5)]
Size = Annotated[float, Field(ge=0.3, le=3)]
Gap = Annotated[float, Field(ge=0, le=0.4)]
Padding = Annotated[float, Field(ge=0, le=0.4)]
Distance = Annotated[float, Field(ge=0, le=0.3)]

RDKIT_FONT = "rdkit"
LAYOUTS = ("rdkit", "coordgen", "indigo")
# Fonts that come with installed packages, by the names that the configuration gives them. Any other name is a file.
FONTS = (
    RDKIT_FONT, "roboto", "dejavu-sans", "dejavu-sans-bold", "dejavu-serif", "stix", "stix-bold", "computer-modern",
    "comic-neue",
)  # fmt: skip


class Styles(Settings):
    """What drawings look like before they are brought to the frame.

    The defaults are one style, RDKit's own at 300 × 300. A number may be a range, [low, high]: each picture then has
    its own value. A share is the probability that a picture has the trait at all. All values follow from the
    depiction's ``seed``, the molecule's CID and the number of the drawing.
    """

    size: OneOrRange[Side] = Field(300, description="Longer side of the drawing, in pixels: a number or [low, high].")
    height: OneOrRange[Ratio] = Field(
        1.0, description="Shorter side as a share of the longer one: a number or [low, high]."
    )
    padding: OneOrRange[Padding] = Field(
        0.05, description="White space on each side, as a share of the size: a number or [low, high]."
    )
    line_width: OneOrRange[Width] | None = Field(
        None,
        description="Width of lines in bond lengths: a number or [low, high], at least 1.2 pixels; null for RDKit's "
        "two pixels at any size.",
    )
    fonts: dict[str, Share] = Field(
        default_factory=dict,
        description="Shares of fonts: roboto (like Arial), dejavu-sans, dejavu-sans-bold, dejavu-serif, stix (like "
        "Times), stix-bold, computer-modern, comic-neue, or the path of a TrueType file; what is left of 1 has RDKit's "
        "own font.",
    )
    letter_size: OneOrRange[Size] = Field(
        1.0, description="Size of atom labels in relation to RDKit's default: a number or [low, high]."
    )
    label_gap: OneOrRange[Gap] = Field(
        0.0, description="Additional room around atom labels, in letter heights: a number or [low, high]."
    )
    double_bond_gap: OneOrRange[Gap] = Field(
        0.15, description="Distance of the two lines of a double bond, in bond lengths: a number or [low, high]."
    )
    turned: Share = Field(
        0.0, description="Share of molecules turned by any angle, half of these by a multiple of 30 degrees."
    )
    mirrored: Share = Field(
        0.0, description="Share of layouts that are mirrored; wedges are set anew, so that stereo stays what it is."
    )
    layouts: dict[str, Share] = Field(
        default_factory=dict,
        description="Shares of the layouts by coordgen and indigo; what is left of 1 is laid out by RDKit.",
    )
    displacement: OneOrRange[Distance] = Field(
        0.0,
        description="Standard deviation by which atoms are moved from their places, in bond lengths: a number or "
        "[low, high].",
    )
    methyls: Share = Field(0.0, description="Share of drawings whose methyl groups are written, as CH3 or Me.")
    hydrogens: Share = Field(0.0, description="Share of drawings with some hydrogens drawn as atoms of their own.")
    abbreviations: Share = Field(
        0.0, description="Share of drawings with groups written as abbreviations (Ph, OMe, CO2Et, Boc, (CH2)4, …)."
    )
    circles: Share = Field(0.0, description="Share of drawings with circles in aromatic rings.")
    stereo_labels: Share = Field(0.0, description="Share of drawings with (R), (S), (E), (Z) written to them.")
    atom_numbers: Share = Field(0.0, description="Share of drawings with a small number at each atom.")
    colour: Share = Field(0.0, description="Share of drawings with coloured atoms; the others are black.")
    indigo: Share = Field(0.0, description="Share of pictures drawn by Indigo (package epam.indigo), else by RDKit.")
    surroundings: Share = Field(
        0.0,
        description="Share of pictures with something beside the molecule: a caption, a compound number, an arrow, a "
        "remnant of a neighbour.",
    )
    scan: Share = Field(
        0.0,
        description="Share of pictures that look printed and scanned: blur, noise, JPEG, thresholds, broken, thickened "
        "or joined strokes, specks, a slight turn, shadows at edges.",
    )

    @field_validator("fonts", "layouts")
    @classmethod
    def _at_most_all(cls, value: dict[str, float]) -> dict[str, float]:
        if sum(value.values()) > 1 + 1e-9:
            raise ValueError(f"shares of at most 1 in all are expected, not {sum(value.values()):g}")
        return value

    @field_validator("layouts")
    @classmethod
    def _known_layouts(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := value.keys() - set(LAYOUTS):
            raise ValueError(f"{min(unknown)!r} is not one of {', '.join(LAYOUTS)}")
        return value


# What ``depiction.styles: varied`` stands for. Decided by results/reference/drawings.md.
VARIED: dict[str, Any] = {
    "size": (150, 700),
    "height": (0.3, 0.9),
    "padding": (0.01, 0.12),
    "line_width": (0.02, 0.14),
    "fonts": {"roboto": 0.35, "dejavu-sans-bold": 0.1, "stix": 0.3, "stix-bold": 0.05, "computer-modern": 0.05},
    "letter_size": (0.9, 1.9),
    "label_gap": (0.0, 0.15),
    "double_bond_gap": (0.1, 0.24),
    "turned": 0.15,
    "mirrored": 0.5,
    "layouts": {"coordgen": 0.45, "indigo": 0.2},
    "displacement": (0.0, 0.04),
    "methyls": 0.25,
    "hydrogens": 0.05,
    "abbreviations": 0.4,
    "circles": 0.15,
    "stereo_labels": 0.02,
    "atom_numbers": 0.03,
    "colour": 0.1,
    "indigo": 0.15,
    "surroundings": 0.12,
    "scan": 0.35,
}


def with_defaults(value: Any) -> Any:
    """``varied``, and a mapping of what differs from it, as all settings of :class:`Styles`; else what was given."""
    if value == "varied":
        return VARIED
    if value is not None and not isinstance(value, dict | Styles):
        raise ValueError("varied, null or a mapping of what differs from varied is expected")
    return {**VARIED, **value} if isinstance(value, dict) else value
