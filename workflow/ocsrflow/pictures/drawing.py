"""A stand-in until main has the module of this name: RDKit at ``styles.size``, nothing else."""

import numpy as np
import pyspng
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from ..settings.styles import Styles


def draw_styled(molecule: Chem.Mol, styles: Styles, seed: int) -> NDArray[np.uint8]:
    """Draw a molecule: (height, width, 3) uint8 RGB.

    Raises
    ------
    ValueError
        Where RDKit cannot draw it.
    """
    size = styles.size[seed % 2] if isinstance(styles.size, tuple) else styles.size
    try:
        drawer = rdMolDraw2D.MolDraw2DCairo(size, size)
        drawer.DrawMolecule(molecule)
        drawer.FinishDrawing()
        pixels: NDArray[np.uint8] = pyspng.load(drawer.GetDrawingText())[:, :, :3]
    except RuntimeError as error:
        raise ValueError(f"RDKit cannot draw it: {error}") from None
    return pixels
