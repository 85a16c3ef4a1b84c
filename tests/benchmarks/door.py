"""How fast pictures come through the door, ``pictures/normalise``, against another version of it.

Run by hand: ``python tests/benchmarks/door.py [--old FILE.py:FUNCTION] [--pictures 60] [FOLDER of pictures ...]``

The old version is a function of a file, taking pixels and a depiction; both take turns at each picture, so that a busy
machine slows them alike. It prints a Markdown table of medians of the
processor's time: drawings by RDKit of several sizes, as drawn and as a
scan might be, and the pictures of the folders.
"""

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import Picture
from ocsrflow.pictures.normalise import normalise
from PIL import Image
from rdkit import Chem, RDConfig
from rdkit.Chem.Draw import rdMolDraw2D

SIZES = ((150, 150), (300, 300), (400, 300), (700, 500))
KINDS = ("black and white", "scanned", "colour")
Door = Callable[[Picture, Depiction], Picture]


def drawings(count: int, size: tuple[int, int], kind: str) -> Iterator[Picture]:
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii").splitlines()
    generator = np.random.default_rng(0)
    for line in lines[:: len(lines) // count][:count]:
        drawer = rdMolDraw2D.MolDraw2DCairo(*size)
        if kind != "colour":
            drawer.drawOptions().useBWAtomPalette()
        drawer.DrawMolecule(Chem.MolFromSmiles(line.split("\t")[0]))
        drawer.FinishDrawing()
        pixels = np.asarray(Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB"))
        if kind == "scanned":
            shade = np.linspace(0.8, 0.95, size[0])[None, :, None]
            pixels = (pixels * shade + generator.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
        yield pixels


def function(file: str) -> Door:
    path, _, name = file.partition(":")
    spec = importlib.util.spec_from_file_location("old_door", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Door = getattr(module, name)
    return found


def row(name: str, pictures: list[Picture], depiction: Depiction, doors: list[Door]) -> None:
    taken: list[list[float]] = [[] for _ in doors]
    for pixels in [pictures[0], *pictures]:
        for door, times in zip(doors, taken, strict=True):
            start = time.thread_time()
            door(pixels, depiction)
            times.append(time.thread_time() - start)
    medians = [1e3 * statistics.median(times[1:]) for times in taken]  # the first warms the caches
    print(f"| {name} | {depiction.size} | " + " | ".join(f"{value:.2f}" for value in medians) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=function, help="FILE.py:FUNCTION of the version to compare with")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("folders", nargs="*", type=Path)
    options = parser.parse_args()
    doors = [options.old, normalise] if options.old else [normalise]
    print(
        "| pictures | frame | "
        + ("old, ms | " if options.old else "")
        + "ms |\n|"
        + " :- | -: |"
        + " -: |" * len(doors)
    )
    for kind in KINDS:
        depiction = Depiction(size=300) if kind == "colour" else Depiction(size=128, palette="black_and_white")
        for size in SIZES:
            pictures = list(drawings(options.pictures, size, kind))
            row(f"{kind}, {size[0]} × {size[1]}", pictures, depiction, doors)
    for folder in options.folders:
        paths = sorted(path for path in folder.iterdir() if path.is_file())[: options.pictures]
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        row(folder.name, pictures, Depiction(size=128, palette="black_and_white"), doors)


if __name__ == "__main__":
    main()
