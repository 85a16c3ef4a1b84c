"""Supplied pictures: a folder, or a zip archive."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from .errors import UserError

# What Pillow and zipfile raise for damaged, encrypted or absurdly large files.
UNREADABLE = (
    OSError,
    KeyError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


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

    def open(self, name: str) -> BinaryIO:
        """The file called ``name``, opened; raises KeyError or OSError where it is not there."""
        return cast(BinaryIO, self.archive.open(name)) if self.archive else open(self.path / name, "rb")

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
        except UNREADABLE as error:
            raise ValueError(f"picture {name!r} cannot be read: {error}") from None
        return image
