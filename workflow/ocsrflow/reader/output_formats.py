"""Answers to pictures from elsewhere, as files that other programs read: CSV, JSON, SDF."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDepictor

from ..chem.molecules import parse
from ..runtime.csv_tables import write_csv
from ..runtime.errors import UserError
from ..runtime.files import whole, write_json
from .ensemble_reader import Answer

FORMS = (".csv", ".json", ".sdf")
COLUMNS = (
    "id",
    "smiles",
    "confidence",
    "log_probability",
    "agreement",
    "distance",
    "valid",
    "complete",
    "note",
    "error",
)


@dataclass(frozen=True)
class PictureAnswer:
    """One picture's: what was read, or why nothing could be."""

    id: str
    answer: Answer | None
    note: str = ""  # where the picture shows several molecules
    error: str = ""


def form_of(path: Path) -> str:
    """The form that a file's name asks for.

    Raises
    ------
    UserError
        Where there is none of that name.
    """
    if path.suffix.lower() not in FORMS:
        raise UserError(f"{path}: the form of the output follows from its name, which must end in {', '.join(FORMS)}")
    return path.suffix.lower()


def try_output(path: Path) -> None:
    """Find out whether answers can be written, before anything is read.

    Raises
    ------
    UserError
        Where the form is unknown, or a folder lies there.
    OSError
        Where nothing can be written there.
    """
    form_of(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch()
    part.unlink()


def write_answers(path: Path, answers: Sequence[PictureAnswer]) -> None:
    """Write the answers in the form that the name of ``path`` asks for, whole or not at all.

    CSV has the columns of :data:`COLUMNS`; JSON besides each model's own answer and the candidates. SDF has a molecule
    with coordinates for every answer that is one.
    """
    rows = [_row(of_picture) for of_picture in answers]
    form = form_of(path)
    if form == ".csv":
        write_csv(path, COLUMNS, ([_cell(row[column]) for column in COLUMNS] for row in rows))
    elif form == ".json":
        write_json(path, [{**row, **_more(of_picture)} for row, of_picture in zip(rows, answers, strict=True)])
    else:
        _write_sdf(path, rows)


def _row(of_picture: PictureAnswer) -> dict[str, Any]:
    answer = of_picture.answer
    if answer is None:
        refused = {"id": of_picture.id, "smiles": "", "confidence": 0.0, "note": "", "error": of_picture.error}
        return {**dict.fromkeys(COLUMNS), **refused}
    decision = answer.decision
    return {
        "id": of_picture.id,
        "smiles": decision.text,
        "confidence": _rounded(answer.confidence),
        "log_probability": _rounded(decision.log_probability),
        "agreement": _rounded(decision.agreement) if len(answer.members) > 1 else None,
        "distance": _rounded(decision.distance),
        "valid": answer.valid,
        "complete": answer.complete,
        "note": of_picture.note,
        "error": "",
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _cell(value: object) -> object:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def _more(of_picture: PictureAnswer) -> dict[str, Any]:
    answer = of_picture.answer
    if answer is None:
        return {"members": {}, "candidates": []}
    candidates = [{"smiles": text, "log_probability": round(value, 4)} for text, value in answer.candidates]
    return {"members": answer.members, "candidates": candidates}


def _write_sdf(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with whole(path) as part:
        writer = Chem.SDWriter(str(part))
        for row in rows:
            molecule = parse(row["smiles"]) if row["valid"] else None  # not again where RDKit was given up
            if molecule is None:
                continue
            rdDepictor.Compute2DCoords(molecule)
            molecule.SetProp("_Name", row["id"])
            for column in COLUMNS[1:-1]:
                if row[column] not in (None, ""):
                    molecule.SetProp(column, str(_cell(row[column])))
            writer.write(molecule)
        writer.close()
