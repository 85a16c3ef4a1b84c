"""A picture that a network learns from, in a style of its own: drawn large, then brought to the frame."""

import hashlib

from rdkit import Chem

from ..config.depiction import Depiction
from ..config.styles import Styles
from ..depiction.plain import Picture
from ..depiction.styled import draw_styled
from .normalise import normalise

PLAIN = Styles()


def draw_varied(molecule: Chem.Mol, depiction: Depiction, cid: int, drawing: int = 0) -> tuple[Picture, bool]:
    """Draw a molecule in a style that its CID and the number of the drawing decide.

    Where the style leaves nothing that can be read (the frame refuses a blank picture), or cannot draw this molecule,
    it is drawn in RDKit's own style.

    Parameters
    ----------
    molecule
        A sanitised molecule; it is left as it is.
    depiction
        The frame, and the ``styles`` to choose from.
    cid, drawing
        Which picture it is.

    Returns
    -------
    (size, size, channels) uint8, and whether it had to be drawn in RDKit's own style.

    Raises
    ------
    ValueError
        Where it cannot be drawn in that one either.
    """
    seed = picture_seed(cid, drawing, depiction.seed)
    try:
        return normalise(draw_styled(molecule, depiction.styles or PLAIN, seed), depiction), False
    except ValueError:
        return normalise(draw_styled(molecule, PLAIN, seed), depiction), True


def picture_seed(cid: int, drawing: int, seed: int) -> int:
    """A 64-bit seed for one picture of one molecule."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {cid} {drawing}".encode(), digest_size=8).digest(), "big")
