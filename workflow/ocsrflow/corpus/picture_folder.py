"""Supplied pictures: a folder, or a zip archive."""

import errno
import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from ..runtime.errors import UserError, of_the_system, system_error

# Others are opened by programs of their own, or hold no pictures of molecules.
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP")
MOST_BYTES = 1 << 28  # of a picture's file; an archive may say any size in a few bytes
MOST_PIXELS = 80_000_000  # of a picture that is opened at all: an A4 page at 900 dots per inch
LONGEST_SIDE = 65_535  # pixels, JPEG's own limit; every row of a picture takes memory of its own

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
    lzma.LZMAError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
# Errors of the system that concern one picture and stay: there is no such file, or it may not be read.
OF_ONE_PICTURE = (
    None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip


def too_large(image: Image.Image) -> bool:
    """Whether an opened picture, which is not decoded yet, would take more memory than any picture of a molecule."""
    return image.width * image.height > MOST_PIXELS or max(image.size) > LONGEST_SIDE


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
            try:
                self.archive = zipfile.ZipFile(path)
            except FileNotFoundError:
                raise
            except UNREADABLE as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{path}: neither a folder nor a zip archive of pictures ({reason})") from None

    def names(self) -> set[str]:
        """Names of all files in it, with '/' between folders."""
        if self.archive is not None:
            return set(self.archive.namelist())
        return {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()}

    def open(self, name: str) -> BinaryIO:
        """The file called ``name``, opened; raises one of :data:`UNREADABLE` where it is not there, or too large."""
        path = self.path / name
        if not self.archive and (name.startswith("/") or ".." in name.split("/")):
            raise ValueError("its name leads out of the folder")
        size = self.archive.getinfo(name).file_size if self.archive else path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"a file of {size >> 20} MB; no picture of a molecule has more than {MOST_BYTES >> 20}")
        return cast(BinaryIO, self.archive.open(name)) if self.archive else open(path, "rb")

    def read(self, name: str) -> Image.Image:
        """The picture called ``name``.

        Raises
        ------
        ValueError
            Where it is not there, or is not a picture that can be read.
        UserError
            Where the system cannot read it, as it may well another time: the picture is not to be left out for that.
        """
        try:
            with self.open(name) as file:
                image = Image.open(io.BytesIO(file.read()), formats=FORMATS)
            if too_large(image):
                raise ValueError(f"more than {MOST_PIXELS // 1_000_000} million pixels, or {LONGEST_SIDE} in a row")
            image.load()
        except UNREADABLE as error:
            if isinstance(error, OSError) and system_error(error) not in OF_ONE_PICTURE:
                raise of_the_system(error, self.path / name) from None  # type: ignore[misc]
            raise ValueError(f"picture {name!r} cannot be read: {' '.join(str(error).split())}") from None
        return image
