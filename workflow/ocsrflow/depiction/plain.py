"""Pictures of molecules as arrays, drawn by RDKit."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pyspng
from numpy.typing import NDArray
from PIL import Image
from rdkit import Chem
from rdkit.Chem import Draw
from rdkit.Chem.Draw import rdMolDraw2D

from ..chem.molecules import fraction
from ..config.depiction import Depiction

Picture = NDArray[np.uint8]


class Window(NamedTuple):
    """The part of a picture that is drawn, from its upper left corner on; so far inwards its own edges are white."""

    width: int
    height: int
    clear: int = 0


def draw(molecule: Chem.Mol, depiction: Depiction, key: int = 0) -> Picture:
    """Draw a molecule.

    Most of the time of a drawing goes into the PNG by which RDKit hands out its pixels, and grows with the area. So
    only the part of the picture that the molecule takes is drawn; the rest is white.

    Parameters
    ----------
    molecule
        A sanitised molecule; it is left as it is.
    depiction
        How. With its defaults the pixels are those of ``Draw.MolToImage(molecule)``.
    key
        The molecule's number, its CID, which decides its values of the options that are ranges.

    Returns
    -------
    (size, size, channels) uint8: 3 channels, in the depiction's order, or 1 for black and white.

    Raises
    ------
    ValueError
        Where RDKit cannot draw it.
    """
    size = depiction.size
    try:
        options = _options(
            **{name: _value(depiction, name, key) for name in ("line_width", "font_size", "rotation", "padding")},
            stereo_labels=depiction.stereo_labels,
            black_and_white=depiction.palette == "black_and_white",
        )
        prepared = _prepare(molecule, depiction.kekulize)
        window = _window(prepared, options, size)
        picture = _whole(_pixels(prepared, options, size, window), depiction)
        if _near_an_inner_edge(picture, window):
            picture = _whole(_pixels(prepared, options, size, Window(size, size)), depiction)
    except Exception as error:  # noqa: BLE001  (RDKit raises C++ exceptions of several kinds)
        raise ValueError(f"RDKit cannot draw it: {error}") from None
    return picture


def _value(depiction: Depiction, name: str, key: int) -> Any:
    """A molecule's value of an option that may be a range."""
    setting = getattr(depiction, name)
    if not isinstance(setting, tuple):
        return setting
    low, high = setting
    at = fraction(f"{key} {name}", depiction.seed)
    # Whole numbers: each as likely as any other, both ends among them.
    return low + (int(at * (high - low + 1)) if isinstance(low, int) else at * (high - low))


@functools.lru_cache(maxsize=16)
def _options(
    *,
    line_width: float,
    font_size: int | None,
    rotation: float,
    padding: float,
    stereo_labels: bool,
    black_and_white: bool,
) -> rdMolDraw2D.MolDrawOptions:
    """RDKit's options, shared: not to be changed."""
    options: Any = rdMolDraw2D.MolDrawOptions()  # RDKit's type stubs take the options for read-only
    options.bondLineWidth = line_width
    options.fixedFontSize = -1 if font_size is None else font_size
    options.rotate = rotation
    options.padding = padding
    options.addStereoAnnotation = stereo_labels
    options.prepareMolsBeforeDrawing = False  # _prepare does
    options.includeMetadata = False  # else the PNG holds the SMILES, and is slower to write
    if black_and_white:
        options.useBWAtomPalette()
    made: rdMolDraw2D.MolDrawOptions = options
    return made


def _prepare(molecule: Chem.Mol, kekulize: bool) -> Chem.Mol:
    """A copy with coordinates and wedges, made as ``Draw.MolToImage`` makes it."""
    if molecule.NeedsUpdatePropertyCache():
        molecule = Chem.Mol(molecule)
        molecule.UpdatePropertyCache(False)
    # Looking at every bond takes its time, and SMILES hardly ever have query bonds.
    kekulize = kekulize and (not molecule.HasQuery() or Draw.shouldKekulize(molecule, True))
    try:
        return rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=kekulize)
    except ValueError:  # what cannot be kekulized is drawn as it is
        return rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=False)


def _window(prepared: Chem.Mol, options: rdMolDraw2D.MolDrawOptions, size: int) -> Window:
    """The part of the picture that the drawing will take, and what is to the left of it and above.

    RDKit centres the drawing, so its extent says where it is. The white to the left and above is drawn with it because
    lines are rounded differently in another place: a few pixels in a thousand drawings would change by one level.
    """
    # Of very small molecules RDKit limits the bond length, but only where the size is left to it.
    if prepared.GetNumAtoms() < 8:
        return Window(size, size)
    width, height, letters = _extent(prepared, options, size, -1)
    if height > size:
        width, height, letters = _extent(prepared, options, -1, size)
    # Letters that do not grow with the drawing, for their size is fixed or at RDKit's limits, and stereo labels can
    # reach out of the extent. One that reached out of the window too would show at its edge: no gap in a label is
    # half its height.
    growing = options.minFontSize + 1 < letters < options.maxFontSize - 2 and options.fixedFontSize < 0
    loose = 0 if growing and not options.addStereoAnnotation else math.ceil(letters)
    # The extent is a whole number of pixels, has the padding, and has but the middle of the lines.
    inner, margin = 1 - 2 * options.padding, math.ceil(3 + options.bondLineWidth / 2) + loose
    width, height = (min(size, math.ceil((size + side * inner) / 2) + margin) for side in (width, height))
    return Window(width, height, 1 + loose // 2)


def _extent(prepared: Chem.Mol, options: rdMolDraw2D.MolDrawOptions, width: int, height: int) -> tuple[int, int, float]:
    """Width and height of a drawing where one is given and the other, -1, is left to RDKit; the size of its letters."""
    drawer = _measuring_drawer(width, height)
    drawer.SetDrawOptions(options)
    width, height = drawer.GetMolSize(prepared)
    return width, height, drawer.FontSize()


@functools.cache
def _measuring_drawer(width: int, height: int) -> rdMolDraw2D.MolDraw2DCairo:
    return rdMolDraw2D.MolDraw2DCairo(width, height)


def _pixels(prepared: Chem.Mol, options: rdMolDraw2D.MolDrawOptions, size: int, window: Window) -> NDArray[np.uint8]:
    """The window's part of the picture, (height, width, 3)."""
    # The panel, here the whole picture, decides scale and place of the drawing; the canvas cuts it off.
    drawer = rdMolDraw2D.MolDraw2DCairo(window.width, window.height, size, size)
    drawer.SetDrawOptions(options)
    drawer.DrawMolecule(prepared)
    drawer.FinishDrawing()
    pixels: NDArray[np.uint8] = pyspng.load(drawer.GetDrawingText())  # twice as fast as Pillow
    return pixels[:, :, :3]


def _whole(pixels: NDArray[np.uint8], depiction: Depiction) -> Picture:
    """The whole picture of which some pixels are the upper left part, all else being white."""
    height, width, _ = pixels.shape
    # In memory channel after channel, as the pictures are stored.
    whole = np.full((depiction.channels, depiction.size, depiction.size), 255, np.uint8)
    if depiction.channels == 1:
        whole[0, :height, :width] = np.asarray(Image.fromarray(pixels).convert("L"))
    else:
        whole[:, :height, :width] = pixels.transpose(2, 0, 1)[:: -1 if depiction.channel_order == "bgr" else 1]
    return whole.transpose(1, 2, 0)


def _near_an_inner_edge(picture: Picture, window: Window) -> bool:
    """Whether anything is drawn close to an edge of the window that is not one of the whole picture as well."""
    (size, _, _), (width, height, clear) = picture.shape, window
    edges = [picture[:height, width - clear : width]] * (width < size)
    edges += [picture[height - clear : height, :width]] * (height < size)
    return any(edge.tobytes().strip(b"\xff") for edge in edges)  # much faster than the minimum of a narrow strip
