"""Stage ``benchmark_set``: pictures from elsewhere with their references, as a packed data set of test pictures."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..chem.molecules import canonical
from ..chem.tokenizer import VOCABULARY, encode
from ..config.depiction import Depiction
from ..corpus.picture_folder import UNREADABLE, PictureFolder
from ..runtime.csv_tables import write_rejects
from ..runtime.errors import UserError, visible
from ..runtime.files import whole
from ..runtime.progress import progress
from .normalise import normalise
from .originals import as_png, write_originals
from .packed_file import TEXTS
from .packed_writer import PackedWriter
from .picture_chunks import Compressor
from .picture_files import SUFFIXES, read_pixels

# What the reasons mean, for the line on standard error.
REASONS = {
    "no_reference": "pictures that no row names",
    "empty_reference": "rows without a SMILES",
    "no_picture": "rows whose picture is not there",
    "ambiguous_picture": "rows that several pictures fit: give the id with its suffix or folder",
    "duplicate_id": "rows whose picture an earlier row has: only the first with a SMILES counts",
    "unreadable": "pictures that cannot be read",
}


class Reference(NamedTuple):
    """A row of the references that has a picture."""

    number: int  # in the table, from 1
    id: str
    smiles: str
    picture: str  # name in the folder


def benchmark_set(
    images: Path,
    references: Path,
    *,
    out: Path,
    originals: Path,
    rejects: Path,
    name: str,
    depiction: Depiction = Depiction(),  # noqa: B008  (immutable)
    id_column: str = "id",
    smiles_column: str = "smiles",
) -> None:
    """Bring the pictures of a benchmark into the shape of the models' pictures, and pack them with their references.

    All are in the split ``test``; a picture's CID is the number of its row in the table, from 1. A reference that RDKit
    cannot parse stays as it is written; the scores drop and count it.

    Parameters
    ----------
    images
        Folder or zip archive of pictures: PNG, JPEG, TIFF, GIF, WebP or BMP, in subfolders too.
    references
        Table with a header: CSV, or separated by tabs where its name ends in .tsv.
    out
        HDF5 file, laid out as :mod:`ocsrflow.pictures.packed_file` says, with the column ``id``.
    originals
        Zip archive of the same pictures as they came, upright and on white: PNGs named by their CID; its comment says
        the depiction.
    rejects
        CSV of what was left out: reason, count, example.
    name
        Name of the benchmark.
    depiction
        How the models' pictures are drawn: pictures are fitted as :func:`ocsrflow.pictures.normalise.normalise` says.
    id_column
        Column with the picture's name: with or without its suffix, with or without its folders, of which the first may
        be ``images`` itself.
    smiles_column
        Column with the reference SMILES.

    Raises
    ------
    UserError
        Where a file or a column is missing, no picture with a reference can be read, or RDKit parses no reference.
    """
    folder = PictureFolder(images)
    refused: list[tuple[str, str]] = []
    rows = _references(references, id_column, smiles_column)
    home = images.resolve().name if images.is_dir() else images.stem
    matched = _match(rows, _calls(_pictures(folder), home), refused)
    attributes = {"vocabulary": json.dumps(VOCABULARY), "sample": json.dumps({"benchmark": name})}
    made = {"depiction": depiction.model_dump(mode="json")}
    with whole(out) as part, write_originals(originals, made) as archive, h5py.File(part, "w", libver="v110") as file:
        writer = PackedWriter(file, depiction, attributes, (*TEXTS, "id"))
        compressor = Compressor()
        parsed = 0
        for row in progress(matched, what=f"packing {name}", unit="pictures"):
            try:
                with folder.open(row.picture) as source:
                    pixels = read_pixels(source, row.picture)
                chunk = compressor.chunk(normalise(pixels, depiction))
            except UNREADABLE as error:
                refused.append(("unreadable", f"{row.picture}: {error}"))
                continue
            texts = {"smiles": row.smiles, "canonical": canonical(row.smiles) or "", "id": row.id}
            parsed += bool(texts["canonical"])
            writer.add(row.number, "test", chunk, _tokens(row.smiles), texts)
            archive.add(row.number, as_png(pixels))
        write_rejects(rejects, refused)
        _tell(name, refused)
        if not writer.pictures:
            raise UserError(f"{name}: no picture of {images} is left; the lines above say why")
        if not parsed:
            raise UserError(f"{references}: RDKit parses none of its SMILES; set smiles_column to the column with them")
        writer.close()
    print(f"{name}: {writer.pictures} pictures packed")


def _references(path: Path, id_column: str, smiles_column: str) -> list[tuple[str, str]]:
    """Id and SMILES of every row."""
    try:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV table in UTF-8 ({' '.join(str(error).split())})") from None
    for column, setting in ((id_column, "id_column"), (smiles_column, "smiles_column")):
        if column not in table:
            there = ", ".join(" ".join(str(name).split()) for name in table.columns)
            raise UserError(f"{path}: no column {column!r}; set {setting} to one of these: {there}")
    return list(zip(table[id_column].str.strip(), table[smiles_column].str.strip(), strict=True))


def _pictures(folder: PictureFolder) -> list[str]:
    """Names of the files that are pictures by their suffix, without hidden ones and what macOS puts into archives."""
    paths = map(PurePosixPath, folder.names())
    return sorted(
        str(path)
        for path in paths
        if path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
    )


def _match(
    rows: Iterable[tuple[str, str]], called: list[dict[str, list[str]]], refused: list[tuple[str, str]]
) -> list[Reference]:
    """The rows that have a picture of their own, in their order; the others go to ``refused``, and lone pictures."""
    matched: list[Reference] = []
    named: set[str] = set()
    taken: set[str] = set()
    for number, (id_, smiles) in enumerate(rows, 1):
        found = next((of_form[id_] for of_form in called if id_ in of_form), [])
        named.update(found)
        if len(found) != 1:
            refused.append(("ambiguous_picture" if found else "no_picture", id_ or f"row {number}: no id"))
        elif found[0] in taken:
            refused.append(("duplicate_id", id_))
        elif not smiles:
            refused.append(("empty_reference", id_))
        else:
            taken.add(found[0])
            matched.append(Reference(number, id_, smiles, found[0]))
    refused += [("no_reference", picture) for picture in called[0] if picture not in named]
    return matched


def _calls(pictures: list[str], home: str) -> list[dict[str, list[str]]]:
    """The pictures that a text can mean: by path, file name, and path from the folder ``home`` that they lie in.

    Each with its suffix and then without.
    """
    forms: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(6)]
    for picture in pictures:
        path = PurePosixPath(picture)
        texts = [
            text for each in (path, PurePosixPath(path.name), home / path) for text in (each, each.with_suffix(""))
        ]
        for of_form, text in zip(forms, map(str, texts), strict=True):
            of_form[text].append(picture)
    return [dict(of_form) for of_form in forms]


def _tokens(smiles: str) -> NDArray[np.uint16]:
    """Token numbers; none where a text has other characters than SMILES have."""
    try:
        return encode(smiles)
    except ValueError:
        return np.zeros(0, np.uint16)


def _tell(name: str, refused: list[tuple[str, str]]) -> None:
    """One line for each reason on standard error."""
    examples = dict(reversed(refused))
    for reason, count in Counter(reason for reason, _ in refused).items():
        print(visible(f"{name}: {count} {REASONS[reason]}, for example {examples[reason]}"), file=sys.stderr)
