"""Pictures of molecules as arrays: drawn by RDKit, or fitted from any picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rdkit import Chem
from rdkit.Chem import Draw

from .settings.depiction import Depiction

Picture = NDArray[np.uint8]


def draw(molecule: Chem.Mol, depiction: Depiction) -> Picture:
    """Draw a molecule.

    Parameters
    ----------
    molecule
        A sanitised molecule.
    depiction
        How. With its defaults the pixels are those of ``Draw.MolToImage(molecule)``.

    Returns
    -------
    (size, size, channels) uint8: 3 channels, RGB, or 1 for black and white.

    Raises
    ------
    ValueError
        Where RDKit cannot draw it.
    """
    options = Draw.rdMolDraw2D.MolDrawOptions()
    options.bondLineWidth = depiction.line_width  # type: ignore[assignment]
    if depiction.palette == "black_and_white":
        options.useBWAtomPalette()
    try:
        image = Draw.MolToImage(
            molecule, size=(depiction.size, depiction.size), kekulize=depiction.kekulize, options=options
        )
    except Exception as error:  # noqa: BLE001  (RDKit raises C++ exceptions of several kinds)
        raise ValueError(f"RDKit cannot draw it: {error}") from None
    return to_array(image, depiction)


def to_array(image: Image.Image, depiction: Depiction) -> Picture:
    """A PIL image of the right size as an array, (size, size, channels) uint8."""
    array = np.asarray(image.convert("RGB" if depiction.channels == 3 else "L"))
    return array.reshape(depiction.size, depiction.size, depiction.channels)


def fit(image: Image.Image, depiction: Depiction) -> Picture:
    """Any picture on white, scaled to fit the frame and centred: (size, size, channels) uint8."""
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    size = (depiction.size, depiction.size)
    if white.size != size:
        white = ImageOps.pad(white, size, Image.Resampling.LANCZOS, color="white")
    return to_array(white, depiction)
