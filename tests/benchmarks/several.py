"""How often pictures of several molecules are noticed, and how often pictures of one are taken for such.

Run by hand: ``python tests/benchmarks/several.py [--pictures 1000] [--corpus FILE]``

Drawn by RDKit from random molecules of the corpus: grids of 2 × 2 with and without legends, rows of two, reactions of
one molecule to another; and single pictures of molecules of one and of several components (salts, solvates), with and
without a legend. It prints a Markdown table of the shares with a note, and the milliseconds of a picture.
"""

import argparse
import gzip
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ocsrflow.chem.molecules import parse
from ocsrflow.depiction.plain import Picture
from ocsrflow.reader.several_molecules import note_on
from PIL import Image
from rdkit import Chem
from rdkit.Chem import Draw
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Chem.rdChemReactions import ReactionFromSmarts

PUBLIC = Path(__file__).parents[2] / "workflow/resources/public-molecules.tsv.gz"
SIZES = ((300, 300), (400, 300), (250, 200), (600, 500))  # of pictures of one molecule
SIDES = (150, 200, 300)  # of the molecules of a grid


def molecules(corpus: Path, seed: int = 0) -> tuple[list[str], list[str]]:
    """SMILES of molecules of one component and of several, in a random order."""
    with gzip.open(corpus, "rt", encoding="ascii") as file:
        texts = [line.rstrip("\n").split("\t")[1] for line in file]
    random.Random(seed).shuffle(texts)
    return [text for text in texts if "." not in text], [text for text in texts if "." in text]


def pixels_of(image: Image.Image) -> Picture:
    return np.asarray(image.convert("RGB"))


def single(parsed: Iterator[Chem.Mol], number: int, legend: str = "") -> Picture:
    drawer = rdMolDraw2D.MolDraw2DCairo(*SIZES[number % len(SIZES)])
    drawer.DrawMolecule(next(parsed), legend=legend)
    drawer.FinishDrawing()
    return pixels_of(Image.open(io.BytesIO(drawer.GetDrawingText())))


def captioned(parsed: Iterator[Chem.Mol], number: int) -> Picture:
    return single(parsed, number, f"Compound {number}")


def grid(parsed: Iterator[Chem.Mol], number: int, count: int = 4, legends: list[str] | None = None) -> Picture:
    side = SIDES[number % len(SIDES)]
    drawn = [next(parsed) for _ in range(count)]
    return pixels_of(Draw.MolsToGridImage(drawn, molsPerRow=2, subImgSize=(side, side), legends=legends))


def grid_with_legends(parsed: Iterator[Chem.Mol], number: int) -> Picture:
    return grid(parsed, number, legends=[f"compound {number + at}" for at in range(4)])


def row(parsed: Iterator[Chem.Mol], number: int) -> Picture:
    return grid(parsed, number, count=2)


def reaction(parsed: Iterator[Chem.Mol], number: int) -> Picture:
    sides = ">>".join(Chem.MolToSmiles(next(parsed)) for _ in range(2))
    side = SIDES[number % len(SIDES)]
    return pixels_of(Draw.ReactionToImage(ReactionFromSmarts(sides, useSmiles=True), subImgSize=(side, side)))


KINDS: dict[str, Callable[[Iterator[Chem.Mol], int], Picture]] = {
    "one component": single,
    "one component, with a legend": captioned,
    "several components": single,
    "grid of 2 × 2": grid,
    "grid of 2 × 2 with legends": grid_with_legends,
    "reaction": reaction,
    "two in a row": row,
}


def pictures(kind: str, count: int, one: list[str], several: list[str]) -> Iterator[Picture]:
    """So many pictures of a kind, each of other molecules than those of other kinds."""
    texts = several if kind == "several components" else one[list(KINDS).index(kind) * 4 * count :]
    parsed = (molecule for text in texts if (molecule := parse(text)) is not None)
    return (KINDS[kind](parsed, number) for number in range(count))


def share(kind: str, count: int, one: list[str], several: list[str]) -> tuple[float, float]:
    """Share of the pictures with a note, and the mean seconds of the processor for one."""
    noted, seconds = 0, 0.0
    for pixels in pictures(kind, count, one, several):
        began = time.process_time()
        noted += note_on(pixels) != ""
        seconds += time.process_time() - began
    return noted / count, seconds / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--corpus", type=Path, default=PUBLIC)
    options = parser.parse_args()
    one, several = molecules(options.corpus)
    print("| pictures | noted, % | ms |\n| :- | -: | -: |")
    for kind in KINDS:
        noted, seconds = share(kind, options.pictures, one, several)
        print(f"| {kind} | {100 * noted:.1f} | {1e3 * seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
