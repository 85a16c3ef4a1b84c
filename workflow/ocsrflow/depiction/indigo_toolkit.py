"""EPAM's Indigo toolkit as a second layout and a second renderer (package ``epam.indigo``)."""

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rdkit import Chem

from ..runtime.errors import UserError
from .style import Style

LINE_WIDTH = 0.033  # in bond lengths, of a line of relative thickness 1 (measured)


@cache
def _toolkit() -> tuple[Any, Any]:
    """Indigo and its renderer, once a process."""
    try:
        from indigo import Indigo
        from indigo.renderer import IndigoRenderer
    except ImportError as error:
        raise UserError(
            f"styles with Indigo need the package epam.indigo ({error}): pip install epam.indigo, or set the shares "
            "of indigo to 0"
        ) from None
    toolkit = Indigo()
    toolkit.setOption("ignore-stereochemistry-errors", True)
    return toolkit, IndigoRenderer(toolkit)


def indigo_layout(molecule: Chem.Mol) -> NDArray[np.float64]:
    """Where Indigo puts the atoms of a molecule that has coordinates already: (atoms, 2), y upwards.

    Its double bonds are as the given coordinates have them.

    Raises
    ------
    ValueError
        Where Indigo cannot lay it out.
    """
    plain = Chem.RWMol(molecule)
    for atom in plain.GetAtoms():
        if atom.GetAtomicNum() == 0:  # a labelled group
            atom.SetAtomicNum(6)
            atom.SetNoImplicit(True)
    loaded = _load(plain.GetMol())
    try:
        loaded.layout()
    except Exception as error:  # noqa: BLE001  (Indigo raises exceptions of its own kind)
        raise ValueError(f"Indigo cannot lay it out: {' '.join(str(error).split())}") from None
    coordinates = np.array([atom.xyz()[:2] for atom in loaded.iterateAtoms()], dtype=np.float64)
    if coordinates.shape != (molecule.GetNumAtoms(), 2) or not np.isfinite(coordinates).all():
        raise ValueError("Indigo's layout has another number of atoms")
    return coordinates


def _load(molecule: Chem.Mol) -> Any:
    toolkit, _ = _toolkit()
    try:
        return toolkit.loadMolecule(Chem.MolToMolBlock(molecule, kekulize=not molecule.NeedsUpdatePropertyCache()))
    except Exception as error:  # noqa: BLE001  (Indigo raises exceptions of its own kind)
        raise ValueError(f"Indigo cannot load it: {' '.join(str(error).split())}") from None


def indigo_drawing(
    molecule: Chem.Mol, style: Style, line_width: float | None, width: int, height: int
) -> NDArray[np.uint8]:
    """A molecule with coordinates, drawn by Indigo: uint8, (height, width, 3) RGB or (height, width) grey.

    ``line_width`` is in bond lengths; ``None`` stands for Indigo's own.

    Raises
    ------
    ValueError
        Where Indigo cannot draw it.
    """
    toolkit, renderer = _toolkit()
    loaded = _load(molecule)
    options = {
        "render-output-format": "png",
        "render-background-color": "1, 1, 1",
        "render-image-width": width,
        "render-image-height": height,
        "render-margins": f"{round(style.padding * width)}, {round(style.padding * height)}",
        "render-coloring": style.colour,
        "render-label-mode": "hetero" if not style.methyls else "terminal-hetero",
        "render-relative-thickness": 1.0 if line_width is None else line_width / LINE_WIDTH,
        "render-stereo-style": "none",
    }
    for name, value in options.items():
        toolkit.setOption(name, value)
    try:
        data = renderer.renderToBuffer(loaded)
    except Exception as error:  # noqa: BLE001  (as above)
        raise ValueError(f"Indigo cannot draw it: {' '.join(str(error).split())}") from None
    with Image.open(io.BytesIO(bytes(data))) as image:
        return np.asarray(image.convert("RGB" if style.colour else "L"))
