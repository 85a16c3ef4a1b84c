"""How fast molecules are drawn, against the plain loop that writes a PNG of each with RDKit's defaults.

Run by hand: ``python tests/benchmarks/drawing.py [MOLECULES.gz]``, gzipped lines ``CID<TAB>SMILES`` (up to 100
characters, all lengths equally often). Without it the molecules are those RDKit brings along. It prints a Markdown
table, and what a second process adds. All routes take turns at each molecule, so that a busy machine slows them alike;
a ratio is the median over the molecules of the plain loop's time divided by the route's.
"""

import gzip
import io
import multiprocessing
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction import plain as images
from ocsrflow.depiction.plain import Picture, draw
from ocsrflow.pictures.picture_chunks import Compressor
from PIL import Image
from rdkit import Chem, RDConfig
from rdkit.Chem import Draw
from rdkit.Chem.Draw import rdMolDraw2D

MOLECULES = 400
SIZE = 300
DEFAULT = Depiction()
BLACK_AND_WHITE = Depiction(palette="black_and_white")
VARIED = Depiction(line_width=(1, 3), font_size=(10, 20), rotation=(0, 360), padding=(0.02, 0.2))


def molecules(path: Path | None, count: int) -> list[str]:
    """SMILES that RDKit can parse, of all lengths equally often as far as there are any."""
    if path:
        with gzip.open(path, "rt", encoding="ascii") as file:
            smiles = [line.rstrip("\n").split("\t")[1] for line in file]
    else:
        text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
        smiles = [line.split("\t")[0] for line in text.splitlines()]
    generator = random.Random(0)
    generator.shuffle(smiles)
    of_length = defaultdict(list)
    for text in smiles:
        if len(text) <= 100:
            of_length[len(text)].append(text)
    chosen: list[str] = []
    while len(chosen) < count and any(of_length.values()):
        chosen += [of_length[length].pop() for length in list(of_length) if of_length[length]]
    generator.shuffle(chosen)
    return [text for text in chosen[:count] if Chem.MolFromSmiles(text) is not None]


def png(molecule: Chem.Mol, metadata: bool) -> bytes:
    drawer = rdMolDraw2D.MolDraw2DCairo(SIZE, SIZE)
    if not metadata:
        drawer.drawOptions().includeMetadata = False
    drawer.DrawMolecule(molecule)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def plain(smiles: str) -> bytes:
    """The measure of all routes."""
    return png(Chem.MolFromSmiles(smiles), metadata=True)


frame = Compressor().chunk  # one for all pictures, as in the stage render


def drawn(depiction: Depiction) -> Callable[[str], bytes]:
    return lambda smiles: frame(draw(Chem.MolFromSmiles(smiles), depiction, len(smiles)))


def by_pillow(png: bytes) -> Picture:
    """Pillow in place of pyspng."""
    return np.asarray(Image.open(io.BytesIO(png)))


def with_pillow(smiles: str) -> bytes:
    """``draw`` with another decoder."""
    kept = images.pyspng.load
    images.pyspng.load = by_pillow
    try:
        return frame(draw(Chem.MolFromSmiles(smiles), DEFAULT))
    finally:
        images.pyspng.load = kept


def routes() -> Iterator[tuple[str, Callable[[str], bytes]]]:
    yield "plain loop: PNG with metadata", plain
    yield "PNG without metadata", lambda s: png(Chem.MolFromSmiles(s), metadata=False)
    yield "Draw.MolToImage, Pillow, zstd", lambda s: frame(np.asarray(Draw.MolToImage(Chem.MolFromSmiles(s))))
    yield (
        "whole canvas without metadata, Pillow, zstd",
        lambda s: frame(np.asarray(Image.open(io.BytesIO(png(Chem.MolFromSmiles(s), metadata=False))))),
    )
    yield "draw, zstd", drawn(DEFAULT)
    yield "draw in black and white, zstd", drawn(BLACK_AND_WHITE)
    yield "draw with four ranges, zstd", drawn(VARIED)
    yield "draw, decoded by Pillow, zstd", with_pillow


def table(smiles: list[str]) -> None:
    taken: dict[str, list[float]] = defaultdict(list)
    named = list(routes())
    for text in smiles:
        for name, route in named:
            start = time.perf_counter()
            route(text)
            taken[name].append(time.perf_counter() - start)
    # The first molecules warm the caches.
    base = np.array(taken[named[0][0]][10:])
    print("| route | median ms | mean ms | median ratio to the plain loop |")
    print("| :- | -: | -: | -: |")
    for name, _ in named:
        times = np.array(taken[name][10:])
        ratio = np.median(base / times)
        print(f"| {name} | {1e3 * np.median(times):.2f} | {1e3 * times.mean():.2f} | {ratio:.2f} |")


def work(plainly: bool, smiles: list[str], ready: object, start: object, seconds: object) -> None:
    route = plain if plainly else drawn(DEFAULT)
    for text in smiles[:10]:
        route(text)
    ready.release()
    start.wait()
    began = time.perf_counter()
    for text in smiles:
        route(text)
    seconds.put(time.perf_counter() - began)


def throughput(processes: int, plainly: bool, smiles: list[str]) -> float:
    """Molecules a second of so many spawned processes with the same work each."""
    context = multiprocessing.get_context("spawn")
    ready, start, seconds = context.Semaphore(0), context.Event(), context.Queue()
    running = [context.Process(target=work, args=(plainly, smiles, ready, start, seconds)) for _ in range(processes)]
    for process in running:
        process.start()
    for _ in running:
        ready.acquire()
    start.set()
    slowest = max(seconds.get() for _ in running)
    for process in running:
        process.join()
    return processes * len(smiles) / slowest


def main() -> None:
    smiles = molecules(Path(sys.argv[1]) if sys.argv[1:] else None, MOLECULES)
    table(smiles)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        for plainly in ratios:
            one = throughput(1, plainly, smiles)
            ratios[plainly].append(throughput(2, plainly, smiles) / one)
    ours, control = (statistics.median(ratios[plainly]) for plainly in (False, True))
    print(f"\nTwo processes against one: {ours:.2f} times the throughput (the plain loop: {control:.2f}).")


if __name__ == "__main__":
    main()
