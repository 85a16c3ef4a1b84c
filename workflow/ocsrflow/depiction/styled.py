"""Molecules as the world draws them: each picture in a style of its own, large, before it is brought to the frame."""

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pyspng
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point2D

from ..config.styles import Styles
from .indigo_toolkit import indigo_drawing
from .labels import abbreviated, number_atoms, with_hydrogens, write_carbons, write_methyls, write_salts
from .layout import BOND, lay_out
from .scan import scan
from .style import Style, choose_style
from .surroundings import surround

# RDKit's own values, which the settings are given in relation to.
LETTERS = 0.6  # height of letters in its coordinates
LINE_UNIT = 0.02  # width of a line of 1 in its coordinates, where lines grow with the drawing
SMALLEST = 0.35  # of a canvas's longer side: its shorter side, however flat the molecule is
THINNEST = 1.2  # width of a line in pixels: thinner ones are drawn pale, and a scan's threshold takes them for paper

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB; or (height, width), grey


def draw_styled(molecule: Chem.Mol, styles: Styles, seed: int) -> Pixels:
    """Draw a molecule in the style that a seed stands for.

    Parameters
    ----------
    molecule
        A sanitised molecule; it is left as it is.
    styles
        What styles there are.
    seed
        Of this picture: it decides everything that ``styles`` leaves open.

    Returns
    -------
    uint8 of any size: (height, width, 3) RGB, or (height, width) grey where nothing is coloured.

    Raises
    ------
    ValueError
        Where it cannot be drawn in this style.
    UserError
        Where a font or Indigo is asked for and is not there.
    """
    style = choose_style(styles, seed)
    rng = random.Random(style.seed)  # noqa: S311  (no secret)
    try:
        pixels = _drawn(molecule, style, rng)
    except RuntimeError as error:  # RDKit raises C++ exceptions of several kinds
        raise ValueError(f"RDKit cannot draw it: {error}") from None
    effects = np.random.default_rng(style.seed)
    if style.surroundings:
        pixels = surround(pixels, style, effects)
    if style.scan:
        pixels = scan(pixels, effects)
    return pixels


def _drawn(molecule: Chem.Mol, style: Style, rng: random.Random) -> Pixels:
    prepared = Chem.Mol(molecule)
    by_indigo = style.indigo and not style.abbreviations  # Indigo would need the groups written as its own
    if not by_indigo:
        if style.abbreviations:
            prepared = abbreviated(prepared, rng)
        if style.hydrogens:
            _perceive(prepared)
            prepared = with_hydrogens(prepared, rng)
        _perceive(prepared)
        write_salts(prepared, rng)
        if style.methyls:
            write_methyls(prepared, rng)
            if rng.random() < 0.15:
                write_carbons(prepared)
        if style.atom_numbers:
            number_atoms(prepared, rng)
    coordinates = lay_out(prepared, style)
    width, height = _canvas(coordinates, style)
    line_width = style.line_width
    if line_width is not None:
        line_width = max(line_width, THINNEST / _bond_length(coordinates, style, width, height))
    if by_indigo:
        Chem.WedgeMolBonds(prepared, prepared.GetConformer())
        return indigo_drawing(prepared, style, line_width, width, height)
    return _by_rdkit(prepared, style, line_width, width, height)


def _perceive(molecule: Chem.Mol) -> None:
    """Count hydrogens and find rings, as far as a molecule with labelled groups lets RDKit."""
    molecule.UpdatePropertyCache(False)
    Chem.FastFindRings(molecule)


def _canvas(coordinates: NDArray[np.float64], style: Style) -> tuple[int, int]:
    """Width and height in pixels: as long as the style says on the side on which the molecule is longer."""
    wide, high = _extent(coordinates)
    flat = max(SMALLEST, min(wide, high) / max(wide, high))
    shorter = round(style.size * max(style.height, flat)) if style.height < 1 else style.size
    return (style.size, shorter) if wide >= high else (shorter, style.size)


def _extent(coordinates: NDArray[np.float64]) -> tuple[float, float]:
    """Width and height of a molecule in its coordinates, with room for labels."""
    wide, high = np.ptp(coordinates, axis=0) + BOND
    return float(wide), float(high)


def _bond_length(coordinates: NDArray[np.float64], style: Style, width: int, height: int) -> float:
    """Length of a bond in pixels, on a canvas of this size."""
    wide, high = _extent(coordinates)
    return BOND * (1 - 2 * style.padding) * min(width / wide, height / high)


def _by_rdkit(molecule: Chem.Mol, style: Style, line_width: float | None, width: int, height: int) -> Pixels:
    prepared = rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=True, forceCoords=False)
    rings = _without_double_bonds(prepared, molecule) if style.circles else []
    drawer = rdMolDraw2D.MolDraw2DCairo(width, height)
    options: Any = drawer.drawOptions()
    options.prepareMolsBeforeDrawing = False
    options.includeMetadata = False
    options.padding = style.padding
    options.additionalAtomLabelPadding = style.label_gap
    options.multipleBondOffset = style.double_bond_gap
    options.addStereoAnnotation = style.stereo_labels
    options.singleColourWedgeBonds = True
    if style.letter_size != 1:
        options.baseFontSize = LETTERS * style.letter_size
        options.maxFontSize = -1
    if style.font:
        options.fontFile = style.font
    if line_width is not None:
        options.scaleBondWidth = True
        options.bondLineWidth = line_width * BOND / LINE_UNIT
    if not style.colour:
        options.useBWAtomPalette()
    drawer.DrawMolecule(prepared)
    for ring in rings:
        _draw_circle(drawer, ring)
    drawer.FinishDrawing()
    pixels: Pixels = pyspng.load(drawer.GetDrawingText())
    return pixels[:, :, :3] if style.colour else np.ascontiguousarray(pixels[:, :, 0])


def _without_double_bonds(prepared: Chem.Mol, molecule: Chem.Mol) -> list[NDArray[np.float64]]:
    """Make the bonds of a molecule's aromatic six-rings single, and return where their atoms lie, (6, 2) each.

    Rings with a double bond to an atom beside them, such as pyridone's, keep theirs: there a circle would say something
    else. Letters stay what they are: hydrogens are counted before.
    """
    rings = [
        ring
        for ring in molecule.GetRingInfo().AtomRings()
        if len(ring) == 6 and all(molecule.GetBondBetweenAtoms(*ends).GetIsAromatic() for ends in _around(ring))
    ]
    while True:
        # Double bonds of other rings that get a circle, as naphthalene's, do not count: they go with these.
        circled = {frozenset(ends) for ring in rings for ends in _around(ring)}
        double = [b for b in prepared.GetBonds() if b.GetBondType() == Chem.BondType.DOUBLE]
        left = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in double} - circled
        bound = frozenset().union(*left)
        kept = [ring for ring in rings if bound.isdisjoint(ring)]
        if len(kept) == len(rings):
            break
        rings = kept
    for atom in prepared.GetAtoms():
        hydrogens = atom.GetTotalNumHs()
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(hydrogens)
    for ring in rings:
        for ends in _around(ring):
            prepared.GetBondBetweenAtoms(*ends).SetBondType(Chem.BondType.SINGLE)
    positions = prepared.GetConformer().GetPositions()[:, :2]
    return [positions[list(ring)] for ring in rings]


def _around(ring: tuple[int, ...]) -> list[tuple[int, int]]:
    """The ends of a ring's bonds."""
    return list(zip(ring, [*ring[1:], ring[0]], strict=True))


def _draw_circle(drawer: rdMolDraw2D.MolDraw2DCairo, ring: NDArray[np.float64]) -> None:
    """The circle of an aromatic ring, as a polygon of many sides, since a displaced ring is none."""
    middle = ring.mean(axis=0)
    radius = 0.62 * float(np.linalg.norm(ring - middle, axis=1).mean())
    angles = [2 * math.pi * k / 36 for k in range(37)]
    points = [Point2D(middle[0] + radius * math.cos(a), middle[1] + radius * math.sin(a)) for a in angles]
    drawer.SetColour((0, 0, 0, 1))
    for one, other in pairwise(points):
        drawer.DrawLine(one, other)
