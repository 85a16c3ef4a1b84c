"""Where atoms lie on the paper: layouts by RDKit, CoordGen and Indigo, turned, mirrored, displaced."""

import math

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdCoordGen, rdDepictor
from rdkit.Geometry import Point3D

from .indigo_toolkit import indigo_layout
from .style import Style

BOND = 1.5  # mean length of a bond in RDKit's layouts, in its coordinates

Coordinates = NDArray[np.float64]  # (atoms, 2)


def lay_out(molecule: Chem.Mol, style: Style) -> Coordinates:
    """Give a molecule the coordinates of a style, and return them.

    A layout that shows a double bond the wrong way round, which CoordGen and Indigo hardly ever make, is replaced by
    RDKit's.

    Parameters
    ----------
    molecule
        It gets the coordinates as its only conformer; it need not be sanitised.
    style
        Its layout, angle, mirroring and displacement are used.

    Returns
    -------
    (atoms, 2), y upwards, the mean bond 1.5 long.

    Raises
    ------
    ValueError
        Where not even RDKit finds a layout.
    """
    rdDepictor.Compute2DCoords(molecule)
    coordinates = _coordinates(molecule)
    if style.layout == "coordgen":
        rdCoordGen.AddCoords(molecule)
        coordinates = _right_way_round(molecule, _coordinates(molecule), coordinates)
    elif style.layout == "indigo":
        coordinates = _right_way_round(molecule, indigo_layout(molecule), coordinates)
    random = np.random.default_rng(style.seed)
    coordinates = _unit_bonds(molecule, coordinates)
    if style.displacement:
        # Some stretch in one direction, as when a drawing was squeezed into a column, and each atom for itself.
        stretch = 1 + random.normal(0, style.displacement, 2).clip(-0.15, 0.15)
        coordinates = coordinates * stretch + random.normal(0, style.displacement * BOND / 2, coordinates.shape)
    if style.mirrored:
        coordinates = coordinates * (-1, 1)
    cos, sin = math.cos(math.radians(style.degrees)), math.sin(math.radians(style.degrees))
    turned: Coordinates = coordinates @ np.array([[cos, sin], [-sin, cos]])
    conformer = Chem.Conformer(molecule.GetNumAtoms())
    conformer.Set3D(False)
    for i, (x, y) in enumerate(turned):
        conformer.SetAtomPosition(i, Point3D(float(x), float(y), 0.0))
    molecule.RemoveAllConformers()
    molecule.AddConformer(conformer, assignId=True)
    return turned


def _coordinates(molecule: Chem.Mol) -> Coordinates:
    return np.asarray(molecule.GetConformer().GetPositions(), dtype=np.float64)[:, :2]


def _unit_bonds(molecule: Chem.Mol, coordinates: Coordinates) -> Coordinates:
    """Scaled so that the median bond has RDKit's usual length."""
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()], dtype=np.int64)
    if not len(ends):
        return coordinates
    length = float(np.median(np.linalg.norm(coordinates[ends[:, 0]] - coordinates[ends[:, 1]], axis=1)))
    return coordinates * np.float64(BOND / length) if length > 1e-6 else coordinates


def _right_way_round(molecule: Chem.Mol, coordinates: Coordinates, reference: Coordinates) -> Coordinates:
    """The places, if every stereo double bond has its sides as in a layout that is known to be right; else that one."""
    for bond in molecule.GetBonds():
        if bond.GetStereo() in (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY):
            continue
        four = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), *bond.GetStereoAtoms()]
        if len(four) < 4 or _cis(coordinates[four]) != _cis(reference[four]):
            return reference
    return coordinates


def _cis(four: Coordinates) -> bool:
    """Whether the last two points lie on the same side of the line through the first two."""
    begin, end, one, other = four
    along = end - begin
    across = np.array([-along[1], along[0]])
    return bool((across @ (one - begin)) * (across @ (other - begin)) > 0)
