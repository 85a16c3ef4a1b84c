"""Stage ``browse``: one self-contained page of what the models are fed.

It needs no more memory for a data set of millions: texts are read a slice at a time, and molecules are compared by
64-bit hashes of their canonical SMILES.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cyclopts.types import PositiveInt
from numpy.typing import NDArray
from rdkit import Chem

from . import figures
from .chemistry import parse
from .cli import run
from .errors import UserError
from .files import write_text
from .packed import SPLITS, Packed
from .pages import data_uri, template
from .progress import progress

SLICE = 50_000  # texts in memory at a time
BANDS = 12  # rows of the contact sheet
SHEET_BYTES = 3_500_000  # of its pictures, so that the page stays below about 5 MB
NAMED = 5  # offending molecules that are named
MOST = 40  # bars in a figure
VERSIONS = ("rdkit", "h5py", "numpy", "pandas", "seaborn")


@dataclass(frozen=True)
class Shown:
    """One picture of the contact sheet."""

    cid: int
    smiles: str
    split: str
    picture: str  # data URI


@dataclass(frozen=True)
class Hashed:
    """The molecules of a data set as hashes of their canonical SMILES, in the file's order."""

    name: str
    path: Path
    cid: NDArray[np.int64]
    split: NDArray[np.uint8]
    hashes: NDArray[np.uint64]

    def at(self, positions: NDArray[np.int64]) -> list[tuple[int, str]]:
        """CID and canonical SMILES of some positions."""
        texts = Packed(self.path).text("canonical", positions)
        return [(int(self.cid[i]), text) for i, text in zip(positions, texts, strict=True)]


@dataclass(frozen=True)
class Group:
    """One split of one data set."""

    data: Hashed
    split: str
    distinct: NDArray[np.uint64]  # sorted

    @property
    def label(self) -> str:
        """What stands at the table's edges."""
        return f"{self.data.name} {self.split}"

    def having(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Positions of this split's molecules that are among ``hashes``."""
        return np.flatnonzero(np.isin(self.data.hashes, hashes) & (self.data.split == SPLITS.index(self.split)))


@dataclass(frozen=True)
class Chemistry:
    """What RDKit says about some of the molecules."""

    rows: pd.DataFrame  # one row a molecule, columns as _describe has them
    elements: Counter[str]  # molecules with each
    ring_sizes: Counter[int]  # rings of each size
    refused: int  # molecules that RDKit cannot parse

    def share(self, molecules: float) -> float:
        """Per cent of the molecules."""
        return 100 * molecules / max(1, len(self.rows))


def browse(
    packed: Path,
    *,
    others: tuple[Path, ...] = (),
    out: Path,
    lengths: Path | None = None,
    rejects: tuple[Path, ...] = (),
    per_length: PositiveInt = 4,
    molecules: PositiveInt = 20000,
) -> None:
    """Write a page that shows a packed data set.

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
    per_length
        Pictures shown of each length, or of each of twelve bands of lengths where there are more.
    molecules
        Molecules at most that RDKit counts rings, elements and so on of; they are spread evenly over the file.

    Raises
    ------
    UserError
        When a file is missing or damaged.
    """
    # What can be wrong with the input comes first.
    sampled = _sampled(lengths)
    rejected = [row for path in rejects for row in _rejects(path)] if rejects else None
    data = _open(packed)
    paths = [path for path in dict.fromkeys(others) if path.resolve() != packed.resolve()]
    names = _names([packed, *paths])
    name = names[packed]
    groups = _groups([packed, *paths], names)
    picked = np.unique(np.linspace(0, len(data) - 1, min(molecules, len(data))).round().astype(np.int64))
    characters, texts = _read_smiles(data, picked, name)
    chemistry = _chemistry(texts, name)
    tokens = _count_tokens(data)
    sheet, left_out = _contact_sheet(data, characters, per_length)
    html = template("browse.html").render(
        name=name,
        facts=_facts(data, characters),
        depiction=_depiction(data),
        overlaps=_overlaps(groups),
        duplicates=_duplicates(groups),
        sheet=sheet,
        left_out=left_out,
        figures=_length_figures(data, characters) + _token_figures(data, tokens) + _chemistry_figures(chemistry),
        chemistry=chemistry,
        elements=chemistry.elements.most_common(),
        tokens=_token_rows(data, tokens),
        unseen=_unseen(data, tokens),
        absent=[t for t, n in zip(data.vocabulary[3:], tokens.sum(axis=0)[3:], strict=True) if not n],
        sampled=sampled,
        rejects=rejected,
        versions={package: version(package) for package in VERSIONS},
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
        raise UserError(f"{path}: not a whole packed data set ({wrong}); remove it and run the workflow again")
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


# The summary.


def _facts(data: Packed, characters: NDArray[np.int64]) -> dict[str, Any]:
    """What the page's head says, and the table of splits."""
    size = data.path.stat().st_size
    height, width, channels = data.picture(0).shape
    splits = []
    for number, split in enumerate(SPLITS):
        own = characters[data.split == number]
        words = (own.min(), round(float(own.mean()), 1), own.max()) if len(own) else ("–",) * 3
        splits.append((split, len(own), 100 * len(own) / len(data), *words))
    return {
        "pictures": len(data),
        "splits": splits,
        "shortest": int(characters.min()),
        "longest": int(characters.max()),
        "height": height,
        "width": width,
        "channels": channels,
        "bytes": size,
        "bytes_per_picture": size / len(data),
        "raw_bytes": height * width * channels,
        "tokens": len(data.tokens),
        "digest": data.digest,
        "file": str(data.path),
    }


def _depiction(data: Packed) -> list[tuple[str, str, str]]:
    """Every option of the drawing: its name, its value as in the configuration, and what it means."""
    fields = type(data.depiction).model_fields
    return [
        (key, json.dumps(value), fields[key].description or "") for key, value in data.depiction.model_dump().items()
    ]


# Molecules in two splits, or twice in one.


def _groups(paths: list[Path], names: dict[Path, str]) -> list[Group]:
    """Every split of every data set; one data set's texts are never in memory as a whole."""
    groups = []
    for path in paths:
        packed = _open(path)
        hashes = np.zeros(len(packed), np.uint64)
        for start, part in _slices(packed, "canonical", f"comparing molecules of {names[path]}"):
            hashes[start : start + len(part)] = pd.util.hash_array(part, categorize=False)
        data = Hashed(names[path], path, packed.cid, packed.split, hashes)
        groups += [Group(data, split, np.unique(hashes[packed.members(split)])) for split in SPLITS]
    return groups


def _overlaps(groups: list[Group]) -> dict[str, Any]:
    """The table of every split against every other one, and the molecules that are in two different splits."""
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    leaks = []
    for (i, one), (j, two) in combinations(enumerate(groups), 2):
        common = np.intersect1d(one.distinct, two.distinct, assume_unique=True)
        state = "same" if one.split == two.split else "leak" if len(common) else "none"
        cells[i, j] = cells[j, i] = (len(common), state)
        if state == "leak":
            first = one.data.at(one.having(common)[:NAMED])
            leaks.append({"one": one.label, "two": two.label, "count": len(common), "first": first})
    for i, group in enumerate(groups):
        cells[i, i] = (len(group.distinct), "itself")
    return {
        "labels": [group.label for group in groups],
        "rows": [[cells[i, j] for j in range(len(groups))] for i in range(len(groups))],
        "sets": len(groups) // len(SPLITS),
        "leaks": leaks,
    }


def _duplicates(groups: list[Group]) -> list[dict[str, Any]]:
    """For every data set: pictures, molecules, and pictures of a molecule that came before, with the first ones."""
    rows = []
    for own in (group.data for group in groups[:: len(SPLITS)]):
        distinct, first = np.unique(own.hashes, return_index=True)
        again = np.setdiff1d(np.arange(len(own.hashes)), first, assume_unique=True)
        rows.append(
            {
                "name": own.name,
                "pictures": len(own.hashes),
                "molecules": len(distinct),
                "again": len(again),
                "first": own.at(again[:NAMED]),
            }
        )
    return rows


# The contact sheet.


def _bands(characters: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Shortest and longest length of every band: single lengths, or about twelve bands of equal width."""
    present = np.unique(characters)
    if len(present) <= BANDS:
        return [(int(length), int(length)) for length in present]
    low, high = int(present[0]), int(present[-1])
    width = -(-(high - low + 1) // BANDS)
    bands = [(start, min(high, start + width - 1)) for start in range(low, high + 1, width)]
    return [(a, b) for a, b in bands if ((present >= a) & (present <= b)).any()]


def _contact_sheet(
    data: Packed, characters: NDArray[np.int64], per_length: int
) -> tuple[list[tuple[str, int, list[Shown]]], int]:
    """For every band: its lengths in words, its molecules, its pictures; and how many there was no room for."""
    bands = _bands(characters)
    order = np.argsort(characters, kind="stable")
    ends = [(np.searchsorted(characters[order], [a, b + 1])) for a, b in bands]
    # Evenly spread over the band, from its shortest to its longest.
    chosen = [
        order[np.unique(np.linspace(low, high - 1, min(per_length, high - low)).round().astype(np.int64))]
        for low, high in ends
    ]
    shown: list[list[Shown]] = [[] for _ in bands]
    room, left_out = SHEET_BYTES, 0
    smiles = [dict(zip(positions.tolist(), data.text("smiles", positions), strict=True)) for positions in chosen]
    # Round by round, so that no band is without a picture where the room ends.
    for rank in range(max(map(len, chosen))):
        for row, texts, positions in zip(shown, smiles, chosen, strict=True):
            if rank >= len(positions):
                continue
            at = int(positions[rank])
            uri = data_uri(data.picture(at)) if room > 0 else ""
            room -= len(uri)
            if room < 0:
                left_out += 1
            else:
                row.append(Shown(int(data.cid[at]), texts[at], SPLITS[data.split[at]], uri))
    words = [f"{a} characters" if a == b else f"{a} to {b} characters" for a, b in bands]
    sizes = [int(high - low) for low, high in ends]
    return list(zip(words, sizes, shown, strict=True)), left_out


# Lengths and tokens.


def _length_figures(data: Packed, characters: NDArray[np.int64]) -> list[figures.Drawing]:
    counts = {split: np.bincount(characters[data.split == number]) for number, split in enumerate(SPLITS)}
    tables = {
        split: pd.DataFrame({"length": np.flatnonzero(count), "count": count[count > 0]})
        for split, count in counts.items()
    }
    by_length = pd.Series(np.diff(data.offsets)).groupby(characters).agg(["mean", "min", "max"]).reset_index()
    rows = by_length.set_axis(["x", "mean", "low", "high"], axis=1)
    tokens = np.diff(data.offsets)
    return [
        figures.lengths(
            tables,
            "Lengths by split",
            f"Molecules of each length in each split, on a logarithmic axis; the median is {np.median(characters):.0f} "
            "characters. Splits drawn alike run in parallel.",
            log=True,
        ),
        figures.band(
            rows,
            ("length of the SMILES [characters]", "tokens"),
            "Tokens by length",
            f"Tokens that the decoder must write, without start and end: {tokens.mean():.1f} a molecule, "
            f"{tokens.max()} at most.",
        ),
    ]


def _count_tokens(data: Packed) -> NDArray[np.int64]:
    """How often each split has each token, (splits, vocabulary)."""
    counts = np.zeros((len(SPLITS), len(data.vocabulary)), np.int64)
    # In slices: the split of every token takes more memory than the tokens.
    for start in range(0, len(data), SLICE):
        offsets = data.offsets[start : start + SLICE + 1]
        tokens = data.tokens[offsets[0] : offsets[-1]]
        split = np.repeat(data.split[start : start + SLICE], np.diff(offsets))
        for number, row in enumerate(counts):
            row += np.bincount(tokens[split == number], minlength=len(row))
    return counts


def _token_figures(data: Packed, tokens: NDArray[np.int64]) -> list[figures.Drawing]:
    total = tokens.sum(axis=0)
    order = np.argsort(-total, kind="stable")[: np.count_nonzero(total)]
    first = order[:MOST]
    rest = int(total[order[MOST:]].sum())
    others = f"the other {len(order) - MOST} tokens occur {rest:,} times together" if len(order) > MOST else "no others"
    return [
        figures.bars(
            [data.vocabulary[i] for i in first],
            [float(total[i]) for i in first],
            ("token", "occurrences"),
            f"The {len(first)} most frequent tokens" if len(order) > MOST else "Token frequencies",
            f"How often each token occurs in all splits, on a logarithmic axis; {others}.",
            log=True,
        )
    ]


def _token_rows(data: Packed, tokens: NDArray[np.int64]) -> list[tuple[str, list[int], float]]:
    """Every token that occurs, the most frequent first: itself, occurrences in each split, per cent of all."""
    total = tokens.sum(axis=0)
    order = np.argsort(-total, kind="stable")[: np.count_nonzero(total)]
    return [(data.vocabulary[i], tokens[:, i].tolist(), 100 * float(total[i]) / float(total.sum())) for i in order]


def _unseen(data: Packed, tokens: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Tokens that validation or test have and training has not: itself, occurrences in both."""
    train, validation, test = tokens
    found = np.flatnonzero((train == 0) & (validation + test > 0))
    return [(data.vocabulary[i], int(validation[i]), int(test[i])) for i in found]


# Chemistry.


def _chemistry(texts: list[str], name: str) -> Chemistry:
    elements: Counter[str] = Counter()
    ring_sizes: Counter[int] = Counter()
    rows: list[dict[str, float]] = []
    for text in progress(texts, what=f"chemistry of {name}", unit="molecules"):
        molecule = parse(text)
        if molecule is None:
            continue
        rows.append(_describe(molecule))
        elements.update({atom.GetSymbol() for atom in molecule.GetAtoms()})
        ring_sizes.update(len(ring) for ring in molecule.GetRingInfo().AtomRings())
    if not rows:
        raise UserError(f"{name}: RDKit can parse none of the {len(texts)} SMILES looked at; make the data set again")
    return Chemistry(pd.DataFrame(rows), elements, ring_sizes, len(texts) - len(rows))


TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)


def _describe(molecule: Chem.Mol) -> dict[str, float]:
    atoms = list(molecule.GetAtoms())
    heavy = [atom for atom in atoms if atom.GetAtomicNum() != 1]
    aromatic = sum(atom.GetIsAromatic() for atom in heavy)
    return {
        "heavy": len(heavy),
        "rings": molecule.GetRingInfo().NumRings(),
        "aromatic": aromatic / max(1, len(heavy)),
        "charge": Chem.GetFormalCharge(molecule),
        "charged": any(atom.GetFormalCharge() for atom in atoms),
        "fragments": len(Chem.GetMolFrags(molecule)),
        "centres": sum(atom.GetChiralTag() in TETRAHEDRAL for atom in atoms),
        "double": any(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in molecule.GetBonds()),
        "isotope": any(atom.GetIsotope() for atom in atoms),
        "radical": any(atom.GetNumRadicalElectrons() for atom in atoms),
    }


def _chemistry_figures(chemistry: Chemistry) -> list[figures.Drawing]:
    rows = chemistry.rows
    elements = chemistry.elements.most_common(MOST)
    more = len(chemistry.elements) - len(elements)
    rings = sum(chemistry.ring_sizes.values())
    sizes = pd.DataFrame({"value": list(chemistry.ring_sizes), "share": list(chemistry.ring_sizes.values())})
    drawn = [
        _features(rows),
        figures.bars(
            [element for element, _ in elements],
            [chemistry.share(count) for _, count in elements],
            ("element", "share of molecules [%]"),
            "Elements",
            "Share of molecules that contain each element as a written atom, on a logarithmic axis"
            + (f"; {more} rarer elements are in the table only." if more else "."),
            log=True,
        ),
        _counted(rows["heavy"], "heavy atoms", "Heavy atoms"),
        _counted(rows["rings"], "rings", "Rings"),
        _counted(rows["aromatic"], "share of heavy atoms that are aromatic", "Aromatic atoms", step=0.05),
        _counted(rows["centres"], "tetrahedral stereo centres written", "Stereo centres", log=True),
        _counted(rows["charge"], "formal charge of the molecule [e]", "Formal charges", log=True),
        _counted(rows["fragments"], "fragments", "Fragments, as of salts", log=True),
    ]
    if rings:
        drawn.insert(4, _ring_sizes(sizes, rings))
    return drawn


def _features(rows: pd.DataFrame) -> figures.Drawing:
    """Share of molecules with each of what is hard to read from a picture."""
    shares = {
        "a ring": rows["rings"] > 0,
        "an aromatic atom": rows["aromatic"] > 0,
        "a tetrahedral stereo centre": rows["centres"] > 0,
        "a double bond with stereo": rows["double"],
        "a charged atom": rows["charged"],
        "a charge as a whole": rows["charge"] != 0,
        "more than one fragment": rows["fragments"] > 1,
        "an isotope": rows["isotope"],
        "a radical": rows["radical"],
    }
    values = [100 * float(share.mean()) for share in shares.values()]
    words = "; ".join(f"{name} {value:.2g} %" for name, value in zip(shares, values, strict=True))
    return figures.bars(
        list(shares), values, ("", "share of molecules [%]"), "What molecules have", f"Share with {words}.", lying=True
    )


def _counted(values: pd.Series, label: str, title: str, *, step: float = 1, log: bool = False) -> figures.Drawing:
    table = values.value_counts(normalize=True).mul(100).rename_axis("value").reset_index(name="share")
    low, middle, high = (f"{value:.3g}" for value in (values.min(), values.mean(), values.max()))
    words = f"From {low} to {high}, on average {middle}" if low != high else f"{low} in every molecule"
    caption = words + (", on a logarithmic axis." if log else ".")
    return figures.histogram(table, label, title, caption, step=step, log=log)


def _ring_sizes(sizes: pd.DataFrame, rings: int) -> figures.Drawing:
    ordered = sizes.sort_values("value")
    return figures.bars(
        [str(value) for value in ordered["value"]],
        [100 * float(count) / rings for count in ordered["share"]],
        ("atoms in the ring", "share of rings [%]"),
        "Ring sizes",
        f"Atoms in each of the {rings:,} rings (RDKit's smallest set), on a logarithmic axis.",
        log=True,
    )


# What the sampling left.


def _csv(path: Path, columns: set[str]) -> pd.DataFrame:
    """A CSV that must have some columns, all as text."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such table")
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    except ValueError as error:
        raise UserError(f"{path}: not a table ({error}); remove it and run the workflow again") from None
    if not columns <= set(table):
        raise UserError(f"{path}: no column {min(columns - set(table))!r}; remove it and run the workflow again")
    return table


def _sampled(path: Path | None) -> dict[str, Any] | None:
    """The figure and the table of molecules available, wanted and got, with why fewer were got."""
    if path is None:
        return None
    columns = ["available", "wanted", "got"]
    table = _csv(path, {"length", *columns})
    if table.empty:
        return None
    numbers = table[["length", *columns]].apply(pd.to_numeric, errors="coerce")
    table = table.assign(why=table.get("why", ""))
    lines = {
        column: numbers[["length", column]].set_axis(["length", "count"], axis=1).query("count > 0")
        for column in columns
        if numbers[column].gt(0).any()
    }
    drawing = figures.lengths(
        lines,
        "Available, wanted and got",
        "Molecules of each length that the source has, that were asked for, and that the data set got, "
        "on a logarithmic axis.",
        log=True,
    )
    rows = table[["length", *columns, "why"]].to_dict("records")
    return {
        "drawing": drawing,
        "rows": rows,
        "short": [row for row in rows if row["why"]],
        "total": {column: int(numbers[column].sum()) for column in columns},
    }


def _rejects(path: Path) -> list[dict[str, str]]:
    """Rows: where, reason, count, example, dropped."""
    table = _csv(path, {"reason", "example"})
    if "count" not in table:  # one row a molecule, as the stage render writes them
        counted = table.groupby("reason")["example"].agg(["size", "first"]).reset_index()
        table = counted.set_axis(["reason", "count", "example"], axis=1).astype(str)
    inside = path.parent.name == "rejects"
    where = f"{path.parent.parent.name}, {path.stem}" if inside else f"{path.parent.name}, {path.stem}"
    kept = table["dropped"].eq("False") if "dropped" in table else pd.Series(False, index=table.index)
    table = table.assign(where=where, dropped=np.where(kept, "no, mended", "yes"))
    return [{str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")]


if __name__ == "__main__":
    run(browse)
