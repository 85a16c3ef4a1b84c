"""Test pictures as they were before they were brought to the frame: a zip archive of PNGs named by their CID.

Rule-based programs read these, as a person would give them. The archive's comment is JSON: the settings that the test
set was made with.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..corpus.picture_folder import PictureFolder
from ..runtime.files import whole


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 pixels, (height, width, 3) RGB or (height, width) grey; of one channel where all are grey."""
    if pixels.ndim == 3 and (pixels[..., :1] == pixels[..., 1:]).all():
        pixels = pixels[..., 0]
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


class OriginalsWriter:
    """Adds pictures to an archive that is open for writing."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, cid: int, png: bytes) -> None:
        """Add a picture as a PNG. The archive has no dates: the same pictures give the same bytes."""
        self._archive.writestr(zipfile.ZipInfo(f"{cid}.png"), png)


@contextmanager
def write_originals(path: Path, made: Mapping[str, Any]) -> Iterator[OriginalsWriter]:
    """An archive that appears when the block ends well; ``made`` are the settings for its comment."""
    with whole(path) as part, zipfile.ZipFile(part, "w") as archive:
        archive.comment = json.dumps(made).encode()
        yield OriginalsWriter(archive)


class Originals:
    """An archive opened for reading."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises
        ------
        UserError
            Where it is no zip archive.
        """
        self.path = path
        self._folder = PictureFolder(path)

    def picture(self, cid: int) -> Image.Image:
        """The picture of a CID, in RGB or grey.

        Raises
        ------
        ValueError
            Where it is not there, or damaged.
        """
        return self._folder.read(f"{cid}.png")
