"""Pictures to read: made to fit the models, with a note where they show several molecules."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..config.depiction import Depiction
from ..depiction.plain import Picture
from ..pictures.normalise import normalise
from ..pictures.picture_files import Found, read_pixels
from ..runtime.errors import visible
from .several_molecules import note_on


class Loaded(NamedTuple):
    """A picture made to fit, or the reason why it cannot be read, in one line."""

    id: str
    picture: Picture | str
    note: str = ""  # where it shows several molecules


def load_all(found: Found, depiction: Depiction) -> Iterator[Loaded]:
    """All pictures, those that cannot be read with the reason.

    What was passed over, which files have more than one picture, and which pictures show several molecules is reported
    on standard error.
    """
    for note in found.notes:
        print(note, file=sys.stderr)
    yield from (Loaded(name, why) for name, why in found.refused.items())
    for name, path in found.files.items():
        try:
            loaded = Loaded(name, *load_with_note(path, depiction))
        except ValueError as error:
            loaded = Loaded(name, visible(str(error)))
        if loaded.note:
            print(f"{name}: {loaded.note}", file=sys.stderr)
        yield loaded


def load_with_note(source: Path | BinaryIO, depiction: Depiction, name: str | None = None) -> tuple[Picture, str]:
    """A picture as :func:`ocsrflow.pictures.picture_files.load` makes it, and the note on it ("" for one molecule).

    Raises
    ------
    ValueError
        Where it cannot be read, with the reason.
    """
    pixels = read_pixels(source, name)
    return normalise(pixels, depiction), note_on(pixels)
