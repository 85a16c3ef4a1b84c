"""Stage ``browse``: one self-contained page of what the models are fed.

It needs no more memory for a data set of millions: texts are read a slice at a time, and molecules are compared by
64-bit hashes of their canonical SMILES.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cyclopts.types import PositiveInt
from numpy.typing import NDArray
from rdkit import Chem

from ..chem.molecules import parse
from ..pictures.packed_file import SPLITS, Packed
from ..runtime.errors import UserError
from ..runtime.files import write_text
from ..runtime.progress import progress
from . import figures
from .html import data_uri, template

SLICE = 50_000  # texts in memory at a time
NAMED = 5  # offending molecules that are named
MOST = 40  # bars in a figure
BROKEN = "not a whole packed data set ({}); remove it and run the workflow again"


@dataclass(frozen=True)
class Molecules:
    """The molecules of a data set as hashes of their canonical SMILES, in the file's order."""

    name: str
    path: Path
    cid: NDArray[np.int64]
    split: NDArray[np.uint8]
    hashes: NDArray[np.uint64]

    def named(self, positions: NDArray[np.int64]) -> list[str]:
        """CID and canonical SMILES of the first of some positions."""
        first = positions[:NAMED]
        texts = Packed(self.path).text("canonical", first)
        return [f"CID {self.cid[at]}: {text}" for at, text in zip(first, texts, strict=True)]


def browse(
    packed: Path,
    *,
    others: tuple[Path, ...] = (),
    out: Path,
    lengths: Path | None = None,
    rejects: tuple[Path, ...] = (),
    shown: PositiveInt = 48,
    molecules: PositiveInt = 20000,
) -> None:
    """Write a page that shows a packed data set.

    Example: ``ocsrflow browse results/demo/datasets/nci/images.h5 --out page.html``

    Parameters
    ----------
    packed
        HDF5 file of the stage ``pack``; the name of its folder is that of the data set.
    others
        Packed data sets that must have no molecule in another split than this one; this one among them is skipped.
    out
        HTML file; it needs no other file and no network.
    lengths
        CSV of the stage ``sample``: length, available, wanted, got, why.
    rejects
        CSVs of rejects of the stages ``filter``, ``sample`` and ``pack``: reason, count, example.
    shown
        Pictures on the contact sheet, at most.
    molecules
        Molecules at most that RDKit counts rings, elements and so on of; they are spread evenly over the file.

    Raises
    ------
    UserError
        When a file is missing or damaged.
    """
    # What can be wrong with the input comes first.
    sampled = _csv(lengths, ("length", "available", "wanted", "got")) if lengths else None
    rejected = pd.concat([_rejects(path) for path in rejects]) if rejects else None
    data = _open(packed)
    paths = [packed, *(path for path in dict.fromkeys(others) if path.resolve() != packed.resolve())]
    names = _names(paths)
    name = names[packed]
    sets = [_hashed(path, names[path]) for path in paths]
    picked = np.unique(np.linspace(0, len(data) - 1, min(molecules, len(data))).round().astype(np.int64))
    characters, texts = _read_smiles(data, picked, name)
    rows = pd.DataFrame({"split": pd.Categorical(np.array(SPLITS)[data.split], list(SPLITS)), "length": characters})
    overlaps, leaks = _overlaps(sets)
    tokens = _count_tokens(data)
    drawn, refused = _chemistry(texts, name)
    height, width, channels = data.picture(0).shape
    html = template("browse.html").render(
        name=name,
        pictures=len(data),
        size={"height": height, "width": width, "channels": channels, "bytes": packed.stat().st_size},
        characters=(characters.min(), characters.max()),
        splits=_splits(rows),
        depiction=json.dumps(data.depiction.model_dump()),
        file=f"{data.path}, digest {data.digest}",
        sets=len(sets),
        overlaps=overlaps,
        leaks=leaks,
        duplicates=_duplicates(sets),
        tokens=tokens,
        unseen=tokens[(tokens["train"] == 0)][["token", "validation", "test"]],
        sheet=_contact_sheet(data, characters, shown),
        figures=[_lengths(rows), _token_figure(tokens), *drawn],
        described=len(texts),
        refused=refused,
        sampled=sampled,
        rejects=rejected,
    )
    write_text(out, html)
    print(f"{name}: the page is {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _open(path: Path) -> Packed:
    """The packed data set, with its columns held against each other."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such packed data set; make it with the stage pack")
    packed = Packed(path)
    pictures = len(packed)
    wrong = (
        "it has no picture"
        if not pictures
        else "its columns differ in length"
        if (len(packed.split), len(packed.offsets)) != (pictures, pictures + 1)
        else "its tokens do not end where they should"
        if packed.offsets[0] != 0 or packed.offsets[-1] != len(packed.tokens) or (np.diff(packed.offsets) < 0).any()
        else "it has tokens that are not in its vocabulary"
        if packed.tokens.max(initial=0) >= len(packed.vocabulary)
        else "it has a split without name"
        if packed.split.max() >= len(SPLITS)
        else ""
    )
    if wrong:
        raise UserError(f"{path}: {BROKEN.format(wrong)}")
    return packed


def _names(paths: list[Path]) -> dict[Path, str]:
    """The names of the data sets' folders; whole paths where two of them have the same."""
    short = {path: path.resolve().parent.name for path in paths}
    often = Counter(short.values())
    return {path: name if often[name] == 1 else str(path) for path, name in short.items()}


def _slices(data: Packed, column: str, what: str) -> Iterator[tuple[int, NDArray[np.object_]]]:
    """A column of texts in slices, each with the position of its first text."""
    with progress(total=len(data), what=what, unit="molecules") as bar:
        for start, part in data.texts(column):
            yield start, part
            bar.update(len(part))


def _read_smiles(data: Packed, picked: NDArray[np.int64], name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Characters of every SMILES, and the texts of those at ``picked`` (ascending)."""
    characters = np.zeros(len(data), np.int64)
    texts: list[str] = []
    for start, part in _slices(data, "smiles", f"reading the SMILES of {name}"):
        end = start + len(part)
        characters[start:end] = np.fromiter(map(len, part), np.int64, len(part))
        low, high = np.searchsorted(picked, [start, end])
        texts += [str(text) for text in part[picked[low:high] - start]]
    return characters, texts


def _splits(rows: pd.DataFrame) -> pd.DataFrame:
    """Pictures, their share and lengths of SMILES in each split."""
    table = rows.groupby("split", observed=False)["length"].agg(["size", "min", "mean", "max"]).reset_index()
    table.insert(2, "share", [f"{100 * count / len(rows):.2f} %" for count in table["size"]])
    words = ["Split", "Pictures", "Share", "Shortest SMILES", "Mean length", "Longest SMILES"]
    return table.round(1).set_axis(words, axis=1).astype(object).where(table.notna().to_numpy(), "–")


def _hashed(path: Path, name: str) -> Molecules:
    packed = _open(path)
    hashes = np.zeros(len(packed), np.uint64)
    for start, part in _slices(packed, "canonical", f"comparing molecules of {name}"):
        hashes[start : start + len(part)] = pd.util.hash_array(part, categorize=False)
    return Molecules(name, path, packed.cid, packed.split, hashes)


def _overlaps(sets: list[Molecules]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The table of every split against every other one; and the molecules that are in two different splits."""
    groups = [
        (own, number, np.unique(own.hashes[own.split == number])) for own in sets for number in range(len(SPLITS))
    ]
    labels = [f"{own.name} {SPLITS[number]}" for own, number, _ in groups]
    cells = pd.DataFrame("", index=labels, columns=labels)
    for at, (_, _, distinct) in enumerate(groups):
        cells.iloc[at, at] = f"{len(distinct):,} in all"
    leaks = []
    for (i, (own, number, one)), (j, (_, other, two)) in combinations(enumerate(groups), 2):
        common = np.intersect1d(one, two, assume_unique=True)
        note = "same split" if number == other else "must be none"
        cells.iloc[i, j] = cells.iloc[j, i] = f"{len(common):,} {note}" if number == other or len(common) else "none"
        if number != other and len(common):
            first = own.named(np.flatnonzero(np.isin(own.hashes, common) & (own.split == number)))
            leaks.append({"one": labels[i], "two": labels[j], "count": len(common), "first": first})
    return cells.rename_axis("Molecules in common").reset_index(), leaks


def _duplicates(sets: list[Molecules]) -> pd.DataFrame:
    """Of every data set: pictures, molecules, and pictures of a molecule that came before, with the first ones."""
    rows = []
    for own in sets:
        _, first = np.unique(own.hashes, return_index=True)
        again = np.setdiff1d(np.arange(len(own.hashes)), first, assume_unique=True)
        note = f"{len(again):,}: right for supplied pictures only; {', '.join(own.named(again))}"
        rows.append((own.name, len(own.hashes), len(first), note if len(again) else "none"))
    return pd.DataFrame(rows, columns=["Data set", "Pictures", "Molecules", "Pictures of a molecule that came before"])


def _contact_sheet(data: Packed, characters: NDArray[np.int64], pictures: int) -> list[dict[str, Any]]:
    """Some pictures as they are in the file, spread evenly over it by length."""
    order = np.argsort(characters, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(pictures, len(order))).round().astype(np.int64)]
    smiles = data.text("smiles", chosen)
    cards = (
        (data.cid[at], text, SPLITS[data.split[at]], data_uri(data.picture(at)))
        for at, text in zip(chosen, smiles, strict=True)
    )
    return [dict(zip(("cid", "smiles", "split", "picture"), card, strict=True)) for card in cards]


def _lengths(rows: pd.DataFrame) -> figures.Drawing:
    counts = rows.groupby(["split", "length"], observed=True).size().reset_index(name="count")
    tables = {str(split): own[["length", "count"]] for split, own in counts.groupby("split", observed=True)}
    caption = (
        f"Molecules of each length in each split, on a logarithmic axis; the median is {rows['length'].median():.0f} "
        "characters. Splits drawn alike run in parallel."
    )
    return figures.lengths(tables, "Lengths by split", caption, log=True)


def _count_tokens(data: Packed) -> pd.DataFrame:
    """Every token that occurs, the most frequent first: how often in each split, and its share of all."""
    counts = np.zeros((len(SPLITS), len(data.vocabulary)), np.int64)
    # In slices: the split of every token takes more memory than the tokens.
    for start in range(0, len(data), SLICE):
        offsets = data.offsets[start : start + SLICE + 1]
        tokens = data.tokens[offsets[0] : offsets[-1]]
        split = np.repeat(data.split[start : start + SLICE], np.diff(offsets))
        for number, row in enumerate(counts):
            row += np.bincount(tokens[split == number], minlength=len(row))
    table = pd.DataFrame(counts.T, columns=list(SPLITS))
    table.insert(0, "token", data.vocabulary)
    total = table[list(SPLITS)].sum(axis=1)
    table["share"] = [f"{100 * count / total.sum():.3g} %" for count in total]
    return table.assign(total=total).query("total > 0").sort_values("total", ascending=False, kind="stable")


def _token_figure(tokens: pd.DataFrame) -> figures.Drawing:
    names, values = tokens["token"][:MOST].tolist(), tokens["total"][:MOST].astype(float).tolist()
    caption = f"How often they occur in all splits, on a logarithmic axis; {len(tokens)} tokens in all."
    return figures.bars(names, values, ("token", "occurrences"), "The most frequent tokens", caption, log=True)


def _chemistry(texts: list[str], name: str) -> tuple[list[figures.Drawing], int]:
    """Figures of what some molecules have; and how many of them RDKit cannot parse."""
    elements: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for text in progress(texts, what=f"chemistry of {name}", unit="molecules"):
        if (molecule := parse(text)) is not None:
            rows.append(_describe(molecule))
            elements.update({atom.GetSymbol() for atom in molecule.GetAtoms()})
    if not rows:
        raise UserError(f"{name}: RDKit can parse none of the {len(texts)} SMILES looked at; make the data set again")
    table = pd.DataFrame(rows)
    shares = table.drop(columns="heavy").mean().mul(100)
    words = "; ".join(f"{what} {share:.2g} %" for what, share in shares.items())
    counted = table["heavy"].value_counts(normalize=True).mul(100).rename_axis("value").reset_index(name="share")
    common = elements.most_common(MOST)
    percent = ("", "share of molecules [%]")
    return [
        figures.bars(list(shares.index), shares.tolist(), percent, "What molecules have", f"{words}.", lying=True),
        figures.bars(
            [element for element, _ in common],
            [100 * count / len(rows) for _, count in common],
            percent,
            "Elements",
            f"Share of molecules with each element, on a logarithmic axis; {len(elements)} elements in all.",
            log=True,
        ),
        figures.histogram(counted, "heavy atoms", "Heavy atoms", f"On average {table['heavy'].mean():.3g}."),
    ], len(texts) - len(rows)


def _describe(molecule: Chem.Mol) -> dict[str, Any]:
    """What a molecule has that is hard to read from a picture."""
    atoms = list(molecule.GetAtoms())
    tetrahedral = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
    return {
        "heavy": molecule.GetNumHeavyAtoms(),
        "a ring": molecule.GetRingInfo().NumRings() > 0,
        "an aromatic atom": any(atom.GetIsAromatic() for atom in atoms),
        "a tetrahedral stereo centre": any(atom.GetChiralTag() in tetrahedral for atom in atoms),
        "a double bond with stereo": any(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in molecule.GetBonds()),
        "a charged atom": any(atom.GetFormalCharge() for atom in atoms),
        "more than one fragment": len(Chem.GetMolFrags(molecule)) > 1,
        "an isotope": any(atom.GetIsotope() for atom in atoms),
    }


def _csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV that must have some columns, all as text."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such table")
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    except ValueError as error:
        raise UserError(f"{path}: not a table ({error}); remove it and run the workflow again") from None
    if lacking := [column for column in columns if column not in table]:
        raise UserError(f"{path}: no column {lacking[0]!r}; remove it and run the workflow again")
    return table


def _rejects(path: Path) -> pd.DataFrame:
    """Rows: where, reason, count, first example."""
    table = _csv(path, ("reason", "example"))
    if "count" not in table:  # one row a molecule, as the stage render writes them
        counted = table.groupby("reason")["example"].agg(["size", "first"]).reset_index()
        table = counted.set_axis(["reason", "count", "example"], axis=1).astype(str)
    folder = path.parent.parent if path.parent.name == "rejects" else path.parent
    kept = table["dropped"].eq("False") if "dropped" in table else False
    table = table.assign(where=f"{folder.name}, {path.stem}", dropped=np.where(kept, "no, mended", "yes"))
    return table[["where", "reason", "count", "dropped", "example"]]
