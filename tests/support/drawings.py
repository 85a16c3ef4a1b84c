"""Drawings as others make them."""

import io

from PIL import Image, ImageOps
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

EXAMPLE = "Nc1ccc(Cl)c(S(=O)(=O)CC)c1"


def sheet(size: int = 420, margin: int = 60, line: float = 2.0, smiles: str = EXAMPLE) -> Image.Image:
    """A black drawing that is wider than high, with much white around it."""
    drawer = rdMolDraw2D.MolDraw2DCairo(size, size * 2 // 3)
    drawer.drawOptions().useBWAtomPalette()
    drawer.drawOptions().bondLineWidth = line
    drawer.DrawMolecule(Chem.MolFromSmiles(smiles))
    drawer.FinishDrawing()
    image = Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB")
    return ImageOps.expand(image, (margin, 2 * margin, 3 * margin, margin), "white")
