"""How badly a candidate fits a picture: it is drawn, and the two drawings are laid over one another."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Chem.rdMolTransforms import TransformConformer

from ..chem.molecules import parse
from ..chem.similarity import limit_memory
from ..config.depiction import Depiction
from ..depiction.plain import Picture, draw
from ..runtime.isolated import Failed, Pool, attempts, guarded

FRAME = 128  # pixels of the longer side of a drawing, in which any two are compared
EDGE = 3  # white around it, in which strokes that overlap the frame still count
NEAR = 1  # pixels by which a stroke may be misplaced at no cost
INKED = 0.3  # share of the darkest ink from which on a pixel counts for a drawing's extent
FAINT = 25  # levels of 255 up to which a pixel is white
FITS = 0.01  # a drawing as near as this is the same one: no other is tried

SECONDS = 10.0  # time limit of a picture's candidates
CHUNK = 4  # pictures handed to a process at a time: with many candidates each takes a second

Turn = tuple[int, int]  # factors of x and of y
TURNS: list[Turn] = [(-1, 1), (1, -1), (-1, -1)]  # two mirror images and the half turn


class Ink(NamedTuple):
    """A drawing made ready to be compared: what is drawn fills the frame, whatever its size and place."""

    strokes: NDArray[np.float64]  # 0 (white) to 1
    reach: NDArray[np.float64]  # the darkest of each pixel and its neighbours up to NEAR
    weight: float  # sum of the squared strokes

    def turned(self, turn: Turn) -> "Ink":
        """The drawing mirrored, or turned by 180 degrees."""
        x, y = turn
        return Ink(self.strokes[::y, ::x], self.reach[::y, ::x], self.weight)


def ink(picture: Picture) -> Ink | None:
    """What is drawn in a picture, (height, width, channels) uint8, on white; None where nothing is.

    The part that is drawn on is scaled to the frame, its longer side to :data:`FRAME` pixels, and the strokes to full
    black, since how thin lines come out of the scaling depends on their width.
    """
    dark = 255 - picture.min(axis=-1)  # of a coloured pixel the darkest channel: yellow labels count too
    darkest = int(dark.max())
    if darkest <= FAINT:
        return None
    inked = dark > INKED * darkest
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = FRAME / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = Image.fromarray(dark).resize(size, Image.Resampling.BILINEAR, box=box)
    frame = Image.new("L", (FRAME + 2 * EDGE, FRAME + 2 * EDGE))
    frame.paste(drawn, ((frame.width - size[0]) // 2, (frame.height - size[1]) // 2))
    levels = np.asarray(frame)
    black = float(np.quantile(levels[levels > levels.max() // 10], 0.9))  # the darkest tenth: middles of the lines
    frame = Image.fromarray((levels * (255 / black)).clip(0, 255).astype(np.uint8))
    strokes = np.asarray(frame) / 255
    reach = np.asarray(frame.filter(ImageFilter.MaxFilter(2 * NEAR + 1))) / 255
    return Ink(strokes, reach, float((strokes**2).sum()))


def misfit(first: Ink | None, second: Ink | None) -> float:
    """How much of two drawings has no counterpart in the other one, in [0, 1].

    With a, b the strokes and a', b' the darkest within a pixel of each place: (Σ max(a - b', 0)² + Σ max(b - a', 0)²)
    / (Σ a² + Σ b²). 0 for strokes that lie within a pixel of each other, 1 for strokes that never meet, and where only
    one is blank. tests/benchmarks/redepiction.py measures how often it tells a molecule from its near misses, beside
    chamfer distances and blurred differences, which do so about as often, and bare pixels, which suffer from a shift.
    """
    if first is None or second is None:
        return 0.0 if first is second else 1.0
    missing = np.maximum(first.strokes - second.reach, 0)
    surplus = np.maximum(second.strokes - first.reach, 0)
    return float(((missing**2).sum() + (surplus**2).sum()) / (first.weight + second.weight))


def distance(picture: Picture, drawn: Picture) -> float:
    """How badly a drawing fits a picture, in [0, 1]: :func:`misfit` of what is drawn; 0 for equal pictures.

    Both are (height, width, channels) uint8 on white, of any size. Size and place of the drawing in its picture do not
    matter, the width of the lines hardly does.
    """
    return misfit(ink(picture), ink(drawn))


def middle(depiction: Depiction) -> Depiction:
    """The depiction with the middle of every range, for pictures of which one does not know the values."""
    ranges = {name: value for name, value in depiction if isinstance(value, tuple)}
    middles = {name: (low + high) / 2 for name, (low, high) in ranges.items()}
    if "font_size" in middles:
        middles["font_size"] = round(middles["font_size"])  # whole pixels
    return depiction.model_copy(update=middles)


class Redrawer:
    """Draws candidates as the pictures of a data set are drawn, and compares them with a picture.

    RDKit lays a molecule out by the order of its atoms. So a text is drawn as it is, then turned to the side that
    fits the picture best, then in the order of its canonical text, until one fits; the best counts. Pictures drawn
    with a range of rotations fit badly all the same: a candidate is drawn in the middle of each range.
    """

    def __init__(self, depiction: Depiction) -> None:
        self.depiction = middle(depiction)

    def distances(self, picture: Picture, texts: Iterable[str]) -> list[float]:
        """How badly each text fits the picture: :func:`distance` to its best drawing, NaN where there is none.

        Parameters
        ----------
        picture
            (size, size, channels) uint8.
        texts
            Candidates, SMILES that RDKit may not parse or not be able to draw.
        """
        seen = ink(picture)
        return [self._distance(seen, text) for text in texts]

    def _distance(self, seen: Ink | None, text: str) -> float:
        best = math.nan
        for drawn in self._drawings(seen, text):
            found = misfit(seen, drawn)
            best = found if math.isnan(best) else min(best, found)
            if best <= FITS:
                break
        return best

    def _drawings(self, seen: Ink | None, text: str) -> Iterator[Ink | None]:
        """The drawings of a text that are worth comparing, likeliest first."""
        for molecule in _orders(text):
            try:
                drawn = ink(draw(molecule, self.depiction))
                yield drawn
                turn = _best_turn(seen, drawn)
                if turn is not None:
                    yield ink(draw(_turned(molecule, turn, self.depiction.kekulize), self.depiction))
            except ValueError:  # RDKit cannot draw it
                continue


def _orders(text: str) -> Iterator[Chem.Mol]:
    """The molecule in the text's order of atoms, and in that of its canonical text; none where RDKit cannot parse."""
    molecule = parse(text)
    if molecule is None:
        return
    yield molecule
    canonical = Chem.MolToSmiles(molecule)
    again = parse(canonical) if canonical != text else None
    if again is not None:
        yield again


def _best_turn(seen: Ink | None, drawn: Ink | None) -> Turn | None:
    """Which turn of a drawing fits better than the drawing as it is, its letters mirrored; None where none does."""
    if seen is None or drawn is None:
        return None
    misfits = {turn: misfit(seen, drawn.turned(turn)) for turn in TURNS}
    turn = min(misfits, key=misfits.__getitem__)
    return turn if misfits[turn] < misfit(seen, drawn) else None


def _turned(molecule: Chem.Mol, turn: Turn, kekulize: bool) -> Chem.Mol:
    """A copy whose drawing is turned, with its letters and its stereochemistry as they were.

    RDKit keeps coordinates that are there, and sets the wedges by them when it draws.
    """
    laid_out = rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=kekulize, wedgeBonds=False)
    TransformConformer(laid_out.GetConformer(), np.diag([*turn, 1.0, 1.0]))
    return laid_out


def redraw_distances(pictures: Sequence[Picture], texts: Sequence[Sequence[str]], pool: Pool) -> list[list[float]]:
    """How badly each picture's candidates fit it: :meth:`Redrawer.distances`, in processes that may hang or crash.

    Parameters
    ----------
    pictures
        Each (size, size, channels) uint8.
    texts
        Each one's candidates. Past :data:`SECONDS` for a picture, all its distances are NaN.
    pool
        The processes, as :func:`redraw_pool` makes them.
    """
    items = [(picture, list(own)) for picture, own in zip(pictures, texts, strict=True)]
    found = guarded(partial(attempts, _distances), items, seconds=SECONDS, prepare=_prepare, chunk=CHUNK, pool=pool)
    with closing(found):
        return [
            [math.nan] * len(own) if isinstance(result, Failed) else result
            for (_, own), result in zip(items, found, strict=True)
        ]


def redraw_pool(depiction: Depiction, processes: int) -> Pool:
    """Processes that parse texts and draw them in this depiction, for as long as a reader lives."""
    return Pool(_prepare, (depiction,), processes=processes)


_redrawer: Redrawer  # of a process that guarded started


def _prepare(depiction: Depiction) -> None:
    global _redrawer
    limit_memory()
    _redrawer = Redrawer(depiction)


def _distances(item: tuple[Picture, list[str]]) -> list[float]:
    return _redrawer.distances(*item)
