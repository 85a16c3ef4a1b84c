"""Sheets of varied drawings, beside other pictures, and how long drawing and the door take.

Run by hand: ``python tests/benchmarks/styles.py OUT [MOLECULES.gz] [--beside FOLDER] [--size 192] [--set KEY=VALUE]``

It writes OUT/drawn.png and OUT/framed.png, a hundred pictures each, as they are drawn and as a network sees them;
with ``--beside`` OUT/beside.png, a hundred pictures of that folder brought to the same frame. ``--set scan=1`` changes
a trait of the styles (YAML). It prints medians and means of the processor's milliseconds for a picture.
"""

import argparse
import gzip
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from ocsrflow.chem.molecules import parse
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import Picture
from ocsrflow.depiction.styled import draw_styled
from ocsrflow.pictures.normalise import normalise
from ocsrflow.pictures.picture_files import SUFFIXES, load
from PIL import Image
from rdkit import RDConfig

COUNT, COLUMNS = 100, 10


def molecules(path: Path | None, longest: int) -> list[str]:
    if path:
        with gzip.open(path, "rt", encoding="ascii") as file:
            found = [line.split("\t")[1].strip() for line in file]
    else:
        lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii").splitlines()
        found = [line.split("\t")[0] for line in lines]
    fitting = [smiles for smiles in found if len(smiles) <= longest and parse(smiles) is not None]
    return random.Random(0).sample(fitting, COUNT)


def sheet(pictures: Sequence[Picture], side: int, out: Path) -> None:
    """A contact sheet of pictures on grey, each in a square of its own."""
    step = side + 4
    page = Image.new("RGB", (step * COLUMNS, step * -(-len(pictures) // COLUMNS)), "silver")
    for number, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        picture.thumbnail((side, side))
        page.paste(picture, (number % COLUMNS * step + 2, number // COLUMNS * step + 2))
    page.save(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("molecules", type=Path, nargs="?")
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--longest", type=int, default=60)
    parser.add_argument("--set", nargs="*", default=[])
    given = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in given.set)}
    depiction = Depiction(size=given.size, palette="black_and_white", styles=changes or "varied")
    assert depiction.styles is not None
    drawn: list[Picture] = []
    framed: list[Picture] = []
    drawing, door = [], []
    for number, smiles in enumerate(molecules(given.molecules, given.longest)):
        molecule = parse(smiles)
        assert molecule is not None
        began = time.process_time()
        drawn.append(draw_styled(molecule, depiction.styles, number))
        between = time.process_time()
        framed.append(normalise(drawn[-1], depiction))
        drawing.append(1000 * (between - began))
        door.append(1000 * (time.process_time() - between))
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(drawn, 190, given.out / "drawn.png")
    sheet(framed, given.size, given.out / "framed.png")
    for name, taken in (("drawing", drawing), ("door", door)):
        print(f"{name}: median {statistics.median(taken):.1f} ms, mean {statistics.mean(taken):.1f} ms a picture")
    if given.beside:
        files = sorted(path for path in given.beside.rglob("*") if path.suffix.lower() in SUFFIXES)
        chosen = random.Random(0).sample(files, min(COUNT, len(files)))
        sheet([load(path, depiction) for path in chosen], given.size, given.out / "beside.png")


if __name__ == "__main__":
    main()
