"""The report's gallery: what was read, right and wrong, with what differs marked."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdFMCS
from rdkit.Chem.Draw import rdMolDraw2D

from ..chem.molecules import canonical_text, parse
from ..chem.tokenizer import tokenize
from ..pictures.packed_file import Packed
from .html import data_uri, png_uri, small_png

SIZE = 240  # pixels of a drawing
SECONDS = 2  # that the search for the common part of two molecules may take; what it has found by then is used
MARK = (1.0, 0.62, 0.25)  # orange: seen beside red and green atoms, and by the colour-blind


class Piece(NamedTuple):
    """A part of a SMILES, and whether it is in the other one too."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Card:
    """One prediction of the gallery."""

    cid: int
    id: str
    verdict: str  # right, wrong or invalid
    confident: bool  # among the most confident mistakes
    picture: str  # data URI
    drawn: str  # data URI of the prediction drawn again; empty where RDKit cannot
    expected: str  # data URI of the reference drawn in the same way; empty where RDKit cannot
    reference: list[Piece]
    prediction: list[Piece]
    remark: str  # on what differs, where the drawings do not show it
    tanimoto: float
    confidence: float | None


def gallery(size: int, predictions: pd.DataFrame, scores: pd.DataFrame, packed: Packed) -> list[Card]:
    """Right, wrong and invalid predictions, and the most confident mistakes, a quarter each where there are enough.

    Parameters
    ----------
    size
        How many.
    predictions, scores
        Tables of the stages ``predict`` or ``vote``, and ``score``.
    packed
        The data set of their pictures.
    """
    rows = predictions[["cid", "prediction"]].merge(scores, on="cid")
    rows = rows.sort_values("tanimoto", ascending=False, kind="stable")
    shown = choose_rows(rows, size)
    position = {int(cid): at for at, cid in enumerate(packed.cid)}
    return [_card(row, packed, position) for row in shown.itertuples()]


def choose_rows(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """The rows shown, with the columns ``verdict`` and ``confident`` added.

    Wrong ones are spread from near to far; what one kind lacks is filled with the next.

    Parameters
    ----------
    rows
        With the columns tanimoto, exact, valid and, where it is known, confidence; sorted by tanimoto, descending.
    size
        At most so many.
    """
    rows = rows.astype({"exact": bool, "valid": bool})  # also where there is none
    verdict = np.where(rows["exact"], "right", np.where(rows["valid"], "wrong", "invalid"))
    rows = rows.assign(verdict=verdict, confident=False).reset_index(drop=True)
    mistakes = rows[~rows["exact"]]
    surest: list[int] = []
    if "confidence" in rows:
        rated = mistakes.dropna(subset=["confidence"]).sort_values("confidence", ascending=False, kind="stable")
        surest = rated.index[: size // 4].tolist()
        rows.loc[surest, "confident"] = True
    rest = {kind: rows.index[(rows["verdict"] == kind) & ~rows["confident"]].tolist() for kind in set(verdict)}
    taken = dict(zip(rest, _shares([len(those) for those in rest.values()], size - len(surest)), strict=True))
    chosen = [*surest, *(at for kind, those in rest.items() for at in _spread(those, taken[kind]))]
    order = {"right": 0, "wrong": 1, "invalid": 2}
    return rows.loc[sorted(chosen, key=lambda at: (order[str(rows["verdict"][at])], at))]


def _shares(available: Sequence[int], size: int) -> list[int]:
    """How many of each kind: alike, and what one lacks goes to the others."""
    taken = [0] * len(available)
    while sum(taken) < min(size, sum(available)):
        open_ = [i for i, (have, got) in enumerate(zip(available, taken, strict=True)) if got < have]
        taken[min(open_, key=lambda i: taken[i])] += 1
    return taken


def _spread(items: list[int], count: int) -> list[int]:
    at = np.linspace(0, max(0, len(items) - 1), count).round().astype(int)
    return [items[i] for i in at]


def _card(row: Any, packed: Packed, position: dict[int, int]) -> Card:
    text, reference = str(row.prediction), str(row.reference)
    drawn, expected, remark = draw_difference(text, reference)
    read, wanted = pieces(text, reference)
    return Card(
        cid=int(row.cid),
        id=str(row.id),
        verdict=str(row.verdict),
        confident=bool(row.confident),
        picture=data_uri(_shown(packed, position[int(row.cid)])),
        drawn=drawn,
        expected=expected,
        reference=wanted,
        prediction=read,
        remark="" if row.verdict == "right" else remark,
        tanimoto=float(row.tanimoto),
        confidence=float(row.confidence) if hasattr(row, "confidence") and not np.isnan(row.confidence) else None,
    )


def _shown(packed: Packed, at: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture as people see it: red and blue in their places."""
    picture = packed.picture(at)
    return np.ascontiguousarray(picture[..., ::-1]) if packed.depiction.channel_order == "bgr" else picture


def pieces(prediction: str, reference: str) -> tuple[list[Piece], list[Piece]]:
    """Two SMILES in parts that are alike and parts that differ, token by token."""
    first, second = _tokens(prediction), _tokens(reference)
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for side, part in zip(sides, (first[a:b], second[c:d]), strict=True):
            if part:
                side.append(Piece("".join(part), kind != "equal"))
    return sides


def _tokens(text: str) -> list[str]:
    try:
        return list(tokenize(text))
    except ValueError:  # an answer of another program
        return list(text)


def draw_difference(prediction: str, reference: str) -> tuple[str, str, str]:
    """Both molecules as pictures' addresses, with what is not in their largest common part marked; and a remark.

    A molecule that RDKit cannot parse or draw is an empty address.

    Source: RDKit's maximum common substructure (rdFMCS), bonds by their order.
    """
    read, wanted = parse(prediction), parse(reference)
    if read is None or wanted is None:
        return _draw(read), _draw(wanted), ""
    if canonical_text(read) == canonical_text(wanted):
        return _draw(read), _draw(wanted), ""
    found = rdFMCS.FindMCS([read, wanted], timeout=SECONDS, ringMatchesRingOnly=True)
    common = Chem.MolFromSmarts(found.smartsString) if found.numAtoms else None
    if common is None:
        return _draw(read), _draw(wanted), "nothing in common"
    in_wanted = wanted.GetSubstructMatch(common)
    in_read = read.GetSubstructMatch(common)
    if not in_wanted or not in_read:
        return _draw(read), _draw(wanted), ""
    rdDepictor.Compute2DCoords(wanted)
    _place_alike(read, wanted, list(zip(in_wanted, in_read, strict=True)))
    changed = [(a, b) for a, b in zip(in_read, in_wanted, strict=True) if _state(read, a) != _state(wanted, b)]
    marks = [
        _outside(molecule, common, match, [pair[side] for pair in changed])
        for side, (molecule, match) in enumerate(((read, in_read), (wanted, in_wanted)))
    ]
    remark = "" if any(atoms or bonds for atoms, bonds in marks) else "only stereo differs"
    return _draw(read, *marks[0]), _draw(wanted, *marks[1]), remark


def _place_alike(molecule: Chem.Mol, like: Chem.Mol, pairs: list[tuple[int, int]]) -> None:
    """Lay a molecule out as the other one lies, so that eyes can go from one to the other; or on its own.

    ``pairs`` are atoms of ``like`` and of the molecule. On its own where the other's coordinates would show another
    molecule, as an E that lies as a Z does, or tear its bonds.
    """
    try:
        rdDepictor.GenerateDepictionMatching2DStructure(molecule, like, pairs)
        shown = Chem.MolFromMolBlock(Chem.MolToMolBlock(molecule))
    except (ValueError, RuntimeError):
        shown = None
    if shown is None or canonical_text(shown) != canonical_text(molecule) or _torn(molecule):
        rdDepictor.Compute2DCoords(molecule)


def _torn(molecule: Chem.Mol) -> bool:
    """Whether a bond of the layout is far from its usual length, 1.5."""
    positions = molecule.GetConformer().GetPositions()
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    lengths = [float(np.linalg.norm(positions[a] - positions[b])) for a, b in ends]
    return any(not 1.0 <= length <= 2.3 for length in lengths)


def _state(molecule: Chem.Mol, at: int) -> tuple[int, int, int]:
    """What of an atom may differ though element and bonds agree."""
    atom = molecule.GetAtomWithIdx(at)
    return atom.GetFormalCharge(), atom.GetIsotope(), atom.GetNumRadicalElectrons()


def _outside(
    molecule: Chem.Mol, common: Chem.Mol, match: Sequence[int], changed: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Atoms and bonds that are not in the common part, and those of its atoms that are changed."""
    bonds = set()
    for bond in common.GetBonds():
        ends = match[bond.GetBeginAtomIdx()], match[bond.GetEndAtomIdx()]
        bonds.add(molecule.GetBondBetweenAtoms(*ends).GetIdx())
    alike = set(match) - set(changed)
    atoms = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetIdx() not in alike]
    return atoms, [bond.GetIdx() for bond in molecule.GetBonds() if bond.GetIdx() not in bonds]


def _draw(molecule: Chem.Mol | None, atoms: Sequence[int] = (), bonds: Sequence[int] = ()) -> str:
    if molecule is None:
        return ""
    drawer = rdMolDraw2D.MolDraw2DCairo(SIZE, SIZE)
    drawer.drawOptions().setHighlightColour(MARK)
    try:
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule, highlightAtoms=list(atoms), highlightBonds=list(bonds))
    except (ValueError, RuntimeError):
        return ""
    drawer.FinishDrawing()
    with Image.open(BytesIO(drawer.GetDrawingText())) as image:
        return png_uri(small_png(image, 32))
