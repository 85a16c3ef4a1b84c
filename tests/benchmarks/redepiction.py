"""How well distances between drawings tell a molecule from its near misses, and how long they take.

Each molecule's picture is moved by a pixel, as pictures from elsewhere never lie where RDKit would put them. It is
compared with drawings of the molecule and of near misses: another atom, another bond, an atom less. Run by hand::

    python tests/benchmarks/redepiction.py
    python tests/benchmarks/redepiction.py --corpus workflow/resources/public-molecules.tsv.gz --size 300
"""

import argparse
import gzip
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ocsrflow.chem.molecules import canonical, parse
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import Picture, draw
from ocsrflow.pictures.redraw_distance import Redrawer, distance, ink
from ocsrflow.runtime.progress import progress
from rdkit import Chem, RDConfig, RDLogger
from scipy.ndimage import distance_transform_edt, gaussian_filter

NCI = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def near_misses(smiles: str, chance: random.Random) -> list[str]:
    """Molecules that differ by one atom or one bond."""
    found = set()
    molecule = parse(smiles)
    assert molecule is not None
    for change in (another_atom, another_bond, an_atom_less):
        edited = Chem.RWMol(molecule)
        Chem.Kekulize(edited, clearAromaticFlags=True)
        change(edited, chance)
        text = canonical(Chem.MolToSmiles(edited))  # of the Kekulé form, whose aromatic bonds are found again
        if text and "." not in text:
            found.add(text)
    return sorted(found - {canonical(smiles)})


def another_atom(molecule: Chem.RWMol, chance: random.Random) -> None:
    """C, N, O or S in the place of another."""
    atom = chance.choice(list(molecule.GetAtoms()))
    atom.SetAtomicNum(chance.choice([6, 7, 8, 16]))


def another_bond(molecule: Chem.RWMol, chance: random.Random) -> None:
    """A double bond in the place of a single one, or the other way round."""
    if molecule.GetNumBonds():
        bond = chance.choice(list(molecule.GetBonds()))
        single = bond.GetBondType() == Chem.BondType.SINGLE
        bond.SetBondType(Chem.BondType.DOUBLE if single else Chem.BondType.SINGLE)


def an_atom_less(molecule: Chem.RWMol, chance: random.Random) -> None:
    """An atom at the end of a chain goes."""
    ends = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetDegree() == 1]
    if ends:
        molecule.RemoveAtom(chance.choice(ends))


def chamfer(first: Picture, second: Picture) -> float:
    """Mean way from a stroke to the nearest stroke of the other drawing, in pixels of its frame."""
    a, b = (drawn.strokes > 0.5 for drawn in map(ink, (first, second)) if drawn is not None)
    return float(distance_transform_edt(~b)[a].mean() + distance_transform_edt(~a)[b].mean())


def blurred(first: Picture, second: Picture) -> float:
    """Squared difference of the blurred drawings over their squares."""
    a, b = (gaussian_filter(drawn.strokes, 1.5) for drawn in map(ink, (first, second)) if drawn is not None)
    return float(((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum()))


def plain(first: Picture, second: Picture) -> float:
    """Mean absolute difference of the pixels."""
    return float(np.abs(first.astype(float) - second).mean())


DISTANCES: dict[str, Callable[[Picture, Picture], float]] = {
    "misfit (ours)": distance,
    "chamfer": chamfer,
    "blurred": blurred,
    "pixels": plain,
}


def main() -> None:
    """Print, for each distance, how many near misses lie farther away than the molecule itself."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--corpus", type=Path, help="lines CID<TAB>SMILES, gzipped; by default RDKit's NCI molecules")
    options.add_argument("--molecules", type=int, default=300)
    options.add_argument("--size", type=int, default=96, help="pixels")
    asked = options.parse_args()
    size = asked.size
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    chance = random.Random(0)
    with gzip.open(asked.corpus, "rt") if asked.corpus else open(NCI) as file:
        texts = [line.split()[1 if asked.corpus else 0] for line in file]
    depiction = Depiction(size=size, palette="black_and_white")
    right: dict[str, list[bool]] = {name: [] for name in DISTANCES}
    seconds: dict[str, list[float]] = {name: [] for name in DISTANCES}
    redrawn: list[float] = []
    redrawer = Redrawer(depiction)
    for smiles in progress(chance.sample(texts, asked.molecules), what="comparing", unit="molecules"):
        molecule = parse(smiles)
        if molecule is None or molecule.GetNumAtoms() < 4 or "." in smiles:
            continue
        misses = near_misses(smiles, chance)
        drawn = draw(molecule, depiction)
        moved = np.roll(drawn, (1, -1), (0, 1))
        others = [draw(parse(miss), depiction) for miss in misses]  # type: ignore[arg-type]
        for name, measure in DISTANCES.items():
            began = time.perf_counter()
            own, *far = [measure(moved, other) for other in (drawn, *others)]
            seconds[name].append((time.perf_counter() - began) / (1 + len(far)))
            right[name] += [own < other for other in far]
        began = time.perf_counter()
        redrawer.distances(moved, [smiles, *misses])
        redrawn.append((time.perf_counter() - began) / (1 + len(misses)))
    print(f"{len(next(iter(right.values())))} near misses of molecules drawn at {size} pixels, moved by a pixel")
    for name in DISTANCES:
        took = statistics.median(seconds[name])
        print(f"{name:14} {statistics.mean(right[name]):7.1%} told apart, {1000 * took:5.2f} ms a comparison")
    print(f"a candidate drawn in every way and compared: {1000 * statistics.median(redrawn):.1f} ms")


if __name__ == "__main__":
    main()
