"""The style of one picture: every value that :class:`Styles` leaves open, decided."""

import random
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont

from ..config.styles import LAYOUTS, RDKIT_FONT, Styles
from ..runtime.errors import UserError

_OF_RDKIT = {RDKIT_FONT: "", "roboto": "BuiltinRobotoRegular"}  # what RDKit knows by a name
# Fonts of installed packages: the package, and the file in it.
_PACKAGED = {
    "dejavu-sans": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"),
    "dejavu-sans-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf"),
    "dejavu-serif": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif.ttf"),
    "stix": ("matplotlib", "mpl-data/fonts/ttf/STIXGeneral.ttf"),
    "stix-bold": ("matplotlib", "mpl-data/fonts/ttf/STIXGeneralBol.ttf"),
    "computer-modern": ("matplotlib", "mpl-data/fonts/ttf/cmr10.ttf"),
    "comic-neue": ("rdkit", "Data/Fonts/ComicNeue-Regular.ttf"),
}


@dataclass(frozen=True)
class Style:
    """How one picture is drawn; lengths are those of :class:`Styles`."""

    seed: int  # of what is decided while it is drawn: which groups are abbreviated, where noise falls
    size: int
    height: float
    padding: float
    line_width: float | None
    font: str  # a TrueType file, or RDKit's name of a font that it brings along
    letter_size: float
    label_gap: float
    double_bond_gap: float
    degrees: float
    mirrored: bool
    layout: str
    displacement: float
    methyls: bool
    hydrogens: bool
    abbreviations: bool
    circles: bool
    stereo_labels: bool
    atom_numbers: bool
    colour: bool
    indigo: bool
    surroundings: bool
    scan: bool


def choose_style(styles: Styles, seed: int) -> Style:
    """The style that a seed stands for: every range a value uniform in it, every share a yes or a no.

    Raises
    ------
    UserError
        Where a font is asked for that is not there.
    """
    draw = random.Random(seed)  # noqa: S311  (no secret)

    def number(setting: Any) -> Any:
        if not isinstance(setting, tuple):
            return setting
        low, high = setting
        return draw.randint(low, high) if isinstance(low, int) else draw.uniform(low, high)

    def happens(share: float) -> bool:
        return draw.random() < share

    def one_of(shares: dict[str, float], rest: str) -> str:
        at = draw.random()
        for name, share in shares.items():
            if at < share:
                return name
            at -= share
        return rest

    degrees = 0.0
    if happens(styles.turned):
        degrees = 30.0 * draw.randrange(12) if draw.random() < 0.5 else draw.uniform(0, 360)
    return Style(
        seed=draw.getrandbits(32),
        size=number(styles.size),
        height=number(styles.height),
        padding=number(styles.padding),
        line_width=number(styles.line_width),
        font=font_file(one_of(styles.fonts, RDKIT_FONT)),
        letter_size=number(styles.letter_size),
        label_gap=number(styles.label_gap),
        double_bond_gap=number(styles.double_bond_gap),
        degrees=degrees,
        mirrored=happens(styles.mirrored),
        layout=one_of(styles.layouts, LAYOUTS[0]),
        displacement=number(styles.displacement),
        methyls=happens(styles.methyls),
        hydrogens=happens(styles.hydrogens),
        abbreviations=happens(styles.abbreviations),
        circles=happens(styles.circles),
        stereo_labels=happens(styles.stereo_labels),
        atom_numbers=happens(styles.atom_numbers),
        colour=happens(styles.colour),
        indigo=happens(styles.indigo),
        surroundings=happens(styles.surroundings),
        scan=happens(styles.scan),
    )


@cache
def font_file(name: str) -> str:
    """What RDKit calls a font, one of the names in :class:`Styles` or a path: a TrueType file, mostly.

    Raises
    ------
    UserError
        Where there is no such file, or it is no font.
    """
    if name in _OF_RDKIT:
        return _OF_RDKIT[name]
    path = Path(name)
    if name in _PACKAGED:
        package, inside = _PACKAGED[name]
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"fonts: {name} comes with {package}, which is not installed: pip install {package}")
        path = Path(spec.origin).parent / inside
    try:
        ImageFont.truetype(str(path), 10)
    except OSError as error:
        raise UserError(f"fonts: {name} is no TrueType font ({error}); give one of the names or a .ttf file") from None
    return str(path)
