"""Pictures of molecules as arrays: drawn by RDKit, or read from supplied files."""

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rdkit import Chem
from rdkit.Chem import Draw

from .errors import UserError
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


class PictureFolder:
    """Supplied pictures, in a folder or in a zip archive, by name."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises
        ------
        UserError
            Where it is neither a folder nor a zip archive.
        """
        self.path = path
        self.archive: zipfile.ZipFile | None = None
        if not path.is_dir():
            if not zipfile.is_zipfile(path):
                raise UserError(f"{path}: neither a folder nor a zip archive of pictures")
            self.archive = zipfile.ZipFile(path)

    def names(self) -> set[str]:
        """Names of all files in it, with '/' between folders."""
        if self.archive is not None:
            return set(self.archive.namelist())
        return {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()}

    def read(self, name: str) -> Image.Image:
        """The picture called ``name``.

        Raises
        ------
        ValueError
            Where it is not there, or is not a picture that can be read.
        """
        try:
            data = self.archive.read(name) if self.archive else (self.path / name).read_bytes()
            image = Image.open(io.BytesIO(data))
            image.load()
        except (OSError, KeyError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            raise ValueError(f"picture {name!r} cannot be read: {error}") from None
        return image
