"""Highlights behind a drawing are taken out as paper is; what is drawn stays, coloured letters and wedges too."""

import io
import random

import numpy as np
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.highlights import without_highlights
from ocsrflow.depiction.plain import Picture
from ocsrflow.pictures.normalise import normalise
from ocsrflow.pictures.redraw_distance import distance
from PIL import Image
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

GREY = Depiction(size=128, palette="black_and_white")
SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "Nc1ccc(Cl)c(S(=O)(=O)CC)c1",
    "FC(F)(F)c1nc(Br)sc1C(=O)NC1CC1",
    "C[C@@H](O)[C@H](N)C(=O)N1CCC[C@@H]1CSC",
]
# RDKit's own, yellow, green, red, grey, dark green
COLOURS = [(1, 0.5, 0.5), (1, 1, 0.4), (0.5, 1, 0.5), (1, 0.2, 0.2), (0.8, 0.8, 0.8), (0, 0.6, 0.2)]


def drawn(
    smiles: str,
    size: tuple[int, int] = (300, 300),
    width: float = 2.0,
    *,
    continuous: bool = True,
    several: tuple[object, ...] = (),
    **highlights: object,
) -> Picture:
    """RDKit's drawing; ``several`` are the colours of atoms and of bonds, with lists of colours for each."""
    drawer = rdMolDraw2D.MolDraw2DCairo(*size)
    drawer.drawOptions().bondLineWidth = width
    drawer.drawOptions().continuousHighlight = continuous
    if several:
        drawer.DrawMoleculeWithHighlights(Chem.MolFromSmiles(smiles), "", *several, {}, {})
    else:
        drawer.DrawMolecule(Chem.MolFromSmiles(smiles), **highlights)
    drawer.FinishDrawing()
    return np.asarray(Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB"))


def highlighted(smiles: str, colours: list[tuple[float, ...]], *, bonds: bool, seed: int = 0) -> dict[str, object]:
    """Half of the atoms in some colours, with the bonds between them or without."""
    molecule = Chem.MolFromSmiles(smiles)
    generator = random.Random(seed)
    atoms = generator.sample(range(molecule.GetNumAtoms()), molecule.GetNumAtoms() // 2)
    between = [b.GetIdx() for b in molecule.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= set(atoms)]
    between = between if bonds else []
    return {
        "highlightAtoms": atoms,
        "highlightBonds": between,
        "highlightAtomColors": {atom: generator.choice(colours) for atom in atoms},
        "highlightBondColors": {bond: generator.choice(colours) for bond in between},
    }


@pytest.mark.parametrize("bonds", [False, True], ids=["atoms", "bonds"])
@pytest.mark.parametrize("colour", COLOURS)
def test_discs_and_bands_are_taken_out(colour: tuple[float, ...], bonds: bool) -> None:
    for smiles in SMILES:
        for size in ((250, 200), (300, 300), (900, 700)):
            picture = drawn(smiles, size, **highlighted(smiles, [colour], bonds=bonds))
            found = normalise(picture, GREY)
            assert distance(found, normalise(drawn(smiles, size), GREY)) < 0.02, (smiles, size)


def test_so_are_several_colours_at_once_whatever_the_paper() -> None:
    for seed, smiles in enumerate(SMILES):
        plain = normalise(drawn(smiles), GREY)
        picture = drawn(smiles, **highlighted(smiles, COLOURS[:3], bonds=True, seed=seed))
        compressed = io.BytesIO()
        Image.fromarray(picture).save(compressed, "JPEG", quality=90)
        changed = [picture, 255 - picture, np.asarray(Image.open(compressed)), (picture * [1, 1, 0.9]).astype(np.uint8)]
        for number, pixels in enumerate(changed):
            assert distance(normalise(pixels, GREY), plain) < 0.02, (smiles, number)


@pytest.mark.parametrize("width", [1.0, 2.0, 6.0])
@pytest.mark.parametrize("size", [(150, 150), (300, 300), (900, 700)])
def test_coloured_letters_bonds_and_wedges_stay(size: tuple[int, int], width: float) -> None:
    for smiles in [*SMILES, "F[C@](Cl)(Br)I", "O[C@H]1O[C@H](CO)[C@@H](O)[C@H](O)[C@H]1N"]:
        picture = drawn(smiles, size, width)
        assert without_highlights(picture) is picture, smiles


def test_coloured_labels_beside_a_highlight_stay() -> None:
    """The oxygens next to atoms on red and on pink are as dark as without."""
    for colour in (COLOURS[0], COLOURS[3]):
        smiles = "O=C(O)C(=O)O"
        marks = {"highlightAtoms": [1, 3], "highlightAtomColors": {1: colour, 3: colour}, "highlightBonds": []}
        ink, expected = (255 - normalise(drawn(smiles, **m), GREY).astype(int) for m in (marks, {}))
        assert ink.sum() > 0.95 * expected.sum()


def test_a_picture_of_a_colour_keeps_its_hue_without_its_highlights() -> None:
    picture = drawn(SMILES[0], **highlighted(SMILES[0], COLOURS[:1], bonds=True))
    found = without_highlights(picture).astype(int)
    pink = (picture[..., 0] == 255) & (abs(picture[..., 1].astype(int) - 127) < 3)
    assert pink.sum() > 500
    assert (found[pink] == 255).mean() > 0.99  # but for soft edges of red letters
    red = (picture == (255, 0, 0)).all(axis=-1)  # of letters
    assert red.sum() > 20
    assert (found[red] == (255, 0, 0)).mean() > 0.9


@pytest.mark.parametrize("size", [(300, 300), (600, 600)])
def test_so_are_two_or_three_colours_on_one_atom(size: tuple[int, int]) -> None:
    for seed, smiles in enumerate(SMILES):
        marks = highlighted(smiles, COLOURS[:1], bonds=False, seed=seed)
        generator = random.Random(seed)
        colours = [*COLOURS[:3], (0.5, 0.6, 1)]
        atoms = {atom: generator.sample(colours, generator.choice([1, 2, 3])) for atom in marks["highlightAtoms"]}
        found = normalise(drawn(smiles, size, several=(atoms, {})), GREY)
        assert distance(found, normalise(drawn(smiles, size), GREY)) < 0.02, smiles


def test_so_are_half_transparent_colours() -> None:
    colours = [(1, 0.5, 0.5, 0.5), (1, 0, 0, 0.4), (0, 0.6, 1, 0.5)]
    for seed, smiles in enumerate(SMILES):
        picture = drawn(smiles, **highlighted(smiles, colours, bonds=True, seed=seed))
        assert distance(normalise(picture, GREY), normalise(drawn(smiles), GREY)) < 0.02, smiles


@pytest.mark.parametrize("size", [(300, 300), (600, 600)])
def test_bonds_in_the_highlights_colour_stay_and_go_on_to_their_atoms(size: tuple[int, int]) -> None:
    for seed, smiles in enumerate(SMILES):
        picture = drawn(smiles, size, continuous=False, **highlighted(smiles, COLOURS[:1], bonds=True, seed=seed))
        assert distance(normalise(picture, GREY), normalise(drawn(smiles, size), GREY)) < 0.04, smiles
