"""Stage ``draw_set``: the molecules of a test set in another style, as a packed data set of test pictures."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import h5py
import rdkit

from ..chem.molecules import fraction, parse
from ..config.depiction import Depiction
from ..config.styles import Styles
from ..depiction.styled import draw_styled
from ..runtime.csv_tables import write_rejects
from ..runtime.errors import UserError, visible
from ..runtime.files import whole
from ..runtime.isolated import Failed, guarded
from ..runtime.progress import progress
from .normalise import normalise
from .originals import as_png, write_originals
from .packed_file import TEXTS, Packed
from .packed_writer import PackedWriter
from .picture_chunks import Compressor

CHUNK = 4  # molecules handed to a process at a time: a drawing and its frame may take a tenth of a second


class Molecule(NamedTuple):
    """A molecule of the test set."""

    cid: int
    smiles: str


class Drawn(NamedTuple):
    """A picture before and after it was brought to the frame."""

    original: bytes  # PNG
    chunk: bytes  # as the packed file holds it


def draw_set(
    data: Path,
    *,
    out: Path,
    originals: Path,
    rejects: Path,
    name: str,
    style: Styles = Styles(),  # noqa: B008  (immutable)
    split: str = "test",
    size: int | None = None,
    time_limit: float = 10.0,
    processes: int = 1,
) -> None:
    """Draw the molecules of a test set in a style, and bring the drawings to the frame as pictures from elsewhere are.

    All are in the split ``test`` and keep their CIDs. A molecule that this style cannot draw is left out and counted.

    Parameters
    ----------
    data
        Packed data set of the test set. Its depiction is the frame.
    out
        HDF5 file, laid out as :mod:`ocsrflow.pictures.packed_file` says.
    originals
        Zip archive of the drawings as they were made: PNGs named by their CID; its comment says how.
    rejects
        CSV of what was left out: reason (``not_drawn``; ``no_picture``, where the frame would be blank; ``too_slow``;
        ``crashed``), count, example.
    name
        Name of the drawing. Values of ranges follow from it, the CID and the depiction's seed.
    style
        How to draw.
    split, size
        Molecules to draw, as in the stage ``predict``.
    time_limit
        Seconds after which the drawing of one molecule is given up. Some are drawn together first, with this limit for
        all of them; where it is passed, each one has it for itself.
    processes
        Processes that draw.

    Raises
    ------
    UserError
        Where the split is empty, a font or a renderer is not there, or no molecule can be drawn.
    """
    packed = Packed(data)
    members = packed.first(split, size)
    texts = {column: packed.text(column, members) for column in TEXTS}
    molecules = [Molecule(int(cid), text) for cid, text in zip(packed.cid[members], texts["smiles"], strict=True)]
    drawn = guarded(
        _draw_some,
        molecules,
        seconds=time_limit,
        prepare=_prepare,
        arguments=(style, packed.depiction, name),
        processes=processes,
        chunk=CHUNK,
    )
    made = {"style": style.model_dump(mode="json"), "split": split, "size": size}
    attributes = {
        "vocabulary": json.dumps(packed.vocabulary),
        "sample": json.dumps({"drawing": name, "of": data.parent.name}),
        "style": style.model_dump_json(),
        "rdkit": rdkit.__version__,
    }
    refused: list[tuple[str, str]] = []
    with (
        closing(drawn),
        whole(out) as part,
        write_originals(originals, made) as archive,
        h5py.File(part, "w", libver="v110") as file,
    ):
        writer = PackedWriter(file, packed.depiction, attributes)
        results = progress(drawn, total=len(molecules), what=f"drawing {name}", unit="pictures")
        for i, (molecule, result) in enumerate(zip(molecules, results, strict=True)):
            if isinstance(result, Drawn):
                archive.add(molecule.cid, result.original)
                own = {column: values[i] for column, values in texts.items()}
                writer.add(molecule.cid, "test", result.chunk, packed.tokens_of(members[i]), own)
            else:
                refused.append((result.reason, f"{molecule.smiles}: {result}"))
        write_rejects(rejects, refused)
        _report(name, refused)
        if not writer.pictures:
            raise UserError(f"{name}: no molecule of {data} can be drawn in this style; see {rejects}")
        writer.close()
    print(f"{name}: {writer.pictures} pictures drawn, {len(refused)} left out")


def _report(name: str, refused: list[tuple[str, str]]) -> None:
    """One line for each reason on standard error."""
    examples = dict(reversed(refused))
    for reason, count in Counter(reason for reason, _ in refused).items():
        print(visible(f"{name}: {count} left out ({reason}), for example {examples[reason]}"), file=sys.stderr)


class _Painter:
    """What a process needs for its pictures."""

    def __init__(self, style: Styles, depiction: Depiction, name: str) -> None:
        self.style, self.depiction, self.name = style, depiction, name
        self.compressor = Compressor()

    def draw(self, molecule: Molecule) -> Drawn | Failed:
        parsed = parse(molecule.smiles)
        if parsed is None:
            return Failed("not_drawn", "RDKit cannot parse it")
        seed = int(fraction(f"{molecule.cid} {self.name}", self.depiction.seed) * 2**53)
        try:
            pixels = draw_styled(parsed, self.style, seed)
        except UserError:
            raise  # a font or a renderer that is not there: no other molecule can be drawn either
        except Exception as error:  # noqa: BLE001  (RDKit raises C++ exceptions of several kinds)
            return Failed("not_drawn", str(error))
        try:
            return Drawn(as_png(pixels), self.compressor.chunk(normalise(pixels, self.depiction)))
        except ValueError as error:
            return Failed("no_picture", str(error))


_painter: _Painter


def _prepare(style: Styles, depiction: Depiction, name: str) -> None:
    global _painter
    _painter = _Painter(style, depiction, name)


def _draw_some(molecules: Sequence[Molecule]) -> list[Drawn | Failed]:
    return [_painter.draw(molecule) for molecule in molecules]
