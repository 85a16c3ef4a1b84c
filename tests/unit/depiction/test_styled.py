"""Every drawing shows the molecule that its text says, in whatever style; styles and bad settings are as described."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from ocsrflow.chem.molecules import canonical, parse
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.styles import FONTS, VARIED, Styles
from ocsrflow.depiction import indigo_toolkit, labels, styled
from ocsrflow.depiction.labels import LABEL, abbreviated, with_hydrogens, write_methyls, write_salts
from ocsrflow.depiction.layout import BOND, lay_out
from ocsrflow.depiction.plain import Picture
from ocsrflow.depiction.scan import scan
from ocsrflow.depiction.style import choose_style, font_file
from ocsrflow.depiction.styled import draw_styled
from ocsrflow.pictures import varied
from ocsrflow.pictures.varied import draw_varied
from ocsrflow.runtime.errors import UserError
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

# Stereocentres and double bonds of every kind, in rings and chains.
STEREO = (
    "C[C@H](N)C(=O)O", "C/C=C/C(=O)OC", "C/C=C\\Cl", "O=C1[C@@H]2CC[C@H](C2)N1C",
    "C[C@@H]1CC[C@H](O)C(/C=C/c2ccccc2)C1",
    "N[C@@H](Cc1c[nH]c2ccccc12)C(=O)O", "C[S@](=O)c1ccccc1", "F/C(Cl)=C(/Br)C[C@](O)(CC)C=C",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", "CC(C)=N/O",
    "C[C@]12CC[C@H](O)CC1=CC[C@@H]1[C@@H]2CC[C@]2(C)C(=O)CC[C@@H]12",
)  # fmt: skip
PLAIN = ("CCO", "c1ccccc1C(=O)OCC", "CC(=O)Nc1ccc(O)cc1", "COc1ccc(CCCCCCN)cc1.Cl", "O=[N+]([O-])c1ccncc1")


def varied_styles(**changes: object) -> Styles:
    return Styles.model_validate({**VARIED, **changes})


def mol(smiles: str) -> Chem.Mol:
    molecule = parse(smiles)
    assert molecule is not None
    return molecule


@pytest.mark.parametrize("mirrored", [0, 1])
@pytest.mark.parametrize("layout", ["rdkit", "coordgen", "indigo"])
def test_layouts_keep_stereochemistry(layout: str, mirrored: int) -> None:
    styles = varied_styles(layouts={layout: 1}, mirrored=mirrored)
    for number, smiles in enumerate(STEREO):
        molecule = mol(smiles)
        places = lay_out(molecule, choose_style(styles, number))
        assert places.shape == (molecule.GetNumAtoms(), 2)
        Chem.WedgeMolBonds(molecule, molecule.GetConformer())
        as_drawn = Chem.MolFromMolBlock(Chem.MolToMolBlock(molecule))
        assert Chem.MolToSmiles(as_drawn) == canonical(smiles)


def test_layouts_differ_and_bonds_have_one_length() -> None:
    places = {}
    for layout in ("rdkit", "coordgen", "indigo"):
        molecule = mol("CC(C)CC1CCC(CC1)C(=O)NCc1ccccc1")
        styles = varied_styles(layouts={layout: 1}, mirrored=0, turned=0, displacement=0.0)
        places[layout] = lay_out(molecule, choose_style(styles, 1))
        ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()])
        lengths = np.linalg.norm(places[layout][ends[:, 0]] - places[layout][ends[:, 1]], axis=1)
        assert np.median(lengths) == pytest.approx(BOND)
    shapes = {layout: tuple(np.ptp(found, axis=0).round(2)) for layout, found in places.items()}
    assert len(set(shapes.values())) == 3


def test_a_layout_that_turns_a_double_bond_round_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    molecule = mol("C/C=C/C")
    monkeypatch.setattr(
        "ocsrflow.depiction.layout.indigo_layout", lambda _: np.array([[0, 1], [0, 0], [1, 0], [1, 1.0]])
    )
    lay_out(molecule, choose_style(varied_styles(layouts={"indigo": 1}), 0))
    assert Chem.MolToSmiles(Chem.MolFromMolBlock(Chem.MolToMolBlock(molecule))) == "C/C=C/C"


def test_abbreviations_stand_for_the_groups_they_replace() -> None:
    found = Counter()
    for smiles in ("COc1ccccc1C(=O)OCC", "CC(C)(C)OC(=O)NCC", "FC(F)(F)c1ccc(CC#N)cc1", "C[C@H](OC)c1ccncc1"):
        for seed in range(40):
            short = abbreviated(mol(smiles), random.Random(seed))
            found.update(atom.GetProp(LABEL) for atom in short.GetAtoms() if atom.HasProp(LABEL))
    assert {"OMe", "CO<sub>2</sub>Et", "NHBoc", "CF<sub>3</sub>", "CN"} <= found.keys()


def test_abbreviations_swallow_no_stereocentre() -> None:
    labelled = 0
    for smiles in ("CC[C@H](C)Nc1ccccc1", "C[C@H](OC)C(F)(Cl)Br", "N[C@@H](Cc1ccccc1)C(=O)OC(C)(C)C"):
        for seed in range(40):
            short = abbreviated(mol(smiles), random.Random(seed))
            labels = [atom for atom in short.GetAtoms() if atom.HasProp(LABEL)]
            centres = [atom for atom in short.GetAtoms() if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]
            labelled += len(labels)
            assert len(centres) == 1
            assert not centres[0].HasProp(LABEL)
    assert labelled > 40


@pytest.mark.parametrize(
    "smiles",
    ["[13CH3]Oc1ccc(C[13CH2]CCCN)cc1", "C[NH+](C)CCc1ccccc1", "[CH2]Oc1ccncc1", "[CH2-]Cc1ccncc1", "CC[18O]C(=O)CN"],
)
def test_abbreviations_swallow_no_isotope_charge_or_radical(smiles: str) -> None:
    def marks(molecule: Chem.Mol) -> list[tuple[int, int, int]]:
        atoms = [(a.GetIsotope(), a.GetFormalCharge(), a.GetNumRadicalElectrons()) for a in molecule.GetAtoms()]
        return sorted(atom for atom in atoms if any(atom))

    for seed in range(80):
        assert marks(abbreviated(mol(smiles), random.Random(seed))) == marks(mol(smiles))


@pytest.mark.parametrize(
    ("smiles", "right", "wrong"),
    [
        ("CC(C)Cc1ccncc1", "iBu", "nBu"),
        ("CCC(C)c1ccncc1", None, "iBu"),
        ("CCCC(C)c1ccncc1", None, "iPent"),
        ("CNc1ccncc1", "NHMe", "NMe"),
    ],
)
def test_labels_of_rdkit_that_name_another_group_are_not_used(smiles: str, right: str | None, wrong: str) -> None:
    labels: set[str] = set()
    for seed in range(80):
        short = abbreviated(mol(smiles), random.Random(seed))
        labels |= {atom.GetProp(LABEL) for atom in short.GetAtoms() if atom.HasProp(LABEL)}
    assert wrong not in labels
    assert right is None or right in labels


def test_labels_are_ascii() -> None:
    """RDKit draws each byte of other letters by itself."""
    for seed in range(40):
        molecule = mol("CCN.Cl")
        write_salts(molecule, random.Random(seed))
        assert molecule.GetAtomWithIdx(3).GetProp(LABEL).isascii()
    for abbreviation in labels._abbreviations():
        assert f"{abbreviation.label}{abbreviation.displayLabel}{abbreviation.displayLabelW}".isascii()


def test_a_salt_keeps_its_isotope() -> None:
    molecule = mol("CCN.[36ClH]")
    write_salts(molecule, random.Random(0))
    assert not any(atom.HasProp(LABEL) for atom in molecule.GetAtoms())


@pytest.mark.parametrize(
    ("smiles", "circles"),
    [
        ("c1ccccc1", 1),
        ("c1ccc2ccccc2c1", 2),
        ("c1ccc2[nH]ccc2c1", 1),
        ("C[n+]1ccccc1", 1),
        ("O=c1cccc[nH]1", 0),
        ("O=c1cc[nH]c(=O)[nH]1", 0),
        ("O=c1ccc2ccccc2[nH]1", 1),
        ("c1ccc2nsnc2c1", 0),
        ("c1ccc2c(c1)-c1ccccc1-2", 2),
    ],
)
def test_circles_are_drawn_where_no_double_bond_leaves_the_ring(smiles: str, circles: int) -> None:
    molecule = mol(smiles)
    prepared = rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=True)
    bonds = [bond.GetBondType() for bond in prepared.GetBonds()]
    assert len(styled._without_double_bonds(prepared, molecule)) == circles
    assert (bonds == [bond.GetBondType() for bond in prepared.GetBonds()]) == (circles == 0)


def test_long_chains_are_written_with_their_length() -> None:
    texts = set()
    for seed in range(60):
        short = abbreviated(mol("OC(=O)c1ccc(CCCCCCN)cc1"), random.Random(seed))
        texts |= {atom.GetProp(LABEL) for atom in short.GetAtoms() if atom.HasProp(LABEL)}
    assert "(CH<sub>2</sub>)<sub>6</sub>" in texts


def test_methyls_salts_and_hydrogens() -> None:
    molecule = mol("Cc1ccccc1N(C)C.Cl")
    write_methyls(molecule, random.Random(0))
    write_salts(molecule, random.Random(0))
    labels = [atom.GetProp(LABEL) for atom in molecule.GetAtoms() if atom.HasProp(LABEL)]
    assert len(labels) == 4
    assert len({label for label in labels if "Cl" not in label}) == 1  # all methyls in the same way
    with_h = with_hydrogens(mol("C[C@H](F)Cl"), random.Random(0))
    assert with_h.GetNumAtoms() == 5
    assert canonical(Chem.MolToSmiles(Chem.RemoveHs(with_h))) == canonical("C[C@H](F)Cl")


def test_a_picture_follows_from_its_seed_alone() -> None:
    for seed in range(12):
        first, second = (draw_styled(mol(PLAIN[seed % len(PLAIN)]), varied_styles(), seed) for _ in range(2))
        assert np.array_equal(first, second)
    shapes = {draw_styled(mol("CCOC(=O)c1ccccc1"), varied_styles(), seed).shape for seed in range(12)}
    assert len(shapes) > 6


def test_drawing_leaves_the_molecule_as_it_is() -> None:
    for number, smiles in enumerate((*STEREO, *PLAIN)):
        molecule = mol(smiles)
        draw_styled(molecule, varied_styles(abbreviations=1, circles=1, hydrogens=1), number)
        assert molecule.GetNumConformers() == 0
        assert Chem.MolToSmiles(molecule) == canonical(smiles)


def test_one_style_is_rdkits_own() -> None:
    pixels = draw_styled(mol("CCO"), Styles(), 3)
    assert pixels.shape == (300, 300)
    assert np.array_equal(pixels, draw_styled(mol("CCO"), Styles(), 4))


@pytest.mark.parametrize(
    "trait", ["circles", "methyls", "atom_numbers", "abbreviations", "indigo", "colour", "scan", "surroundings"]
)
def test_each_trait_changes_the_picture(trait: str) -> None:
    without, having = (draw_styled(mol("Cc1ccccc1C(=O)OCC"), Styles.model_validate({trait: v}), 5) for v in (0, 1))
    assert without.shape != having.shape or not np.array_equal(without, having)


def test_lines_and_letters_have_the_asked_size() -> None:
    ink = [int((draw_styled(mol("CCCCCCCC"), Styles(line_width=width), 0) < 128).sum()) for width in (0.03, 0.06, 0.12)]
    assert ink[1] == pytest.approx(2 * ink[0], rel=0.25)
    assert ink[2] == pytest.approx(2 * ink[1], rel=0.25)
    letters = [int((draw_styled(mol("NCCN"), Styles(letter_size=size), 0) < 128).sum()) for size in (0.7, 1.4)]
    assert letters[1] > 1.2 * letters[0]


@pytest.mark.parametrize("indigo", [0, 1])
def test_no_line_is_thinner_than_a_pixel(indigo: int) -> None:
    """A thinner one would be pale, and a scan's threshold would take it for paper."""
    chain = mol("C" * 30)
    for size in (150, 400, 700):
        pixels = draw_styled(chain, Styles(size=size, height=1.0, line_width=0.005, indigo=indigo), 0)
        columns = pixels[:, pixels.min(axis=0) < 250]
        ink = (255 - columns.astype(float)).sum(axis=0) / 255  # the line crosses every column once
        assert columns.shape[1] > 0.7 * size
        assert np.median(ink) > 1.0


@pytest.mark.parametrize("name", FONTS)
def test_every_font_is_there(name: str) -> None:
    path = font_file(name)
    assert {"rdkit": "", "roboto": "BuiltinRobotoRegular"}.get(name) == path or Path(path).is_file()
    assert (draw_styled(mol("NCCO"), Styles(fonts={name: 1}), 0) < 128).any()


def test_a_scan_leaves_what_can_be_read() -> None:
    """No more than a speck of the ink is without ink near it, letters thinner than the bonds included."""
    looked_at = 0
    for seed in range(60):
        pixels = draw_styled(mol("CC(=O)Nc1ccc(O)cc1"), Styles(size=400, line_width=0.1, letter_size=0.9), seed)
        result = scan(pixels, np.random.default_rng(seed))
        assert result.dtype == np.uint8
        if result.shape != pixels.shape:  # askew: it cannot be laid over the other
            continue
        looked_at += 1
        dark = result < (int(result.min()) + int(result.max())) / 2
        near = np.zeros_like(dark)
        for down in range(-6, 7):
            for right in range(-6, 7):
                near |= np.roll(dark, (down, right), (0, 1))
        ink = pixels < 128
        assert (ink & ~near).sum() < 0.02 * ink.sum()
    assert looked_at > 30


def test_a_blank_picture_is_drawn_again_in_the_plain_style(monkeypatch: pytest.MonkeyPatch) -> None:
    depiction = Depiction(size=96, palette="black_and_white", styles="varied")  # type: ignore[arg-type]
    picture, plain = draw_varied(mol("CCO"), depiction, 1)
    assert (picture.shape, plain) == ((96, 96, 1), False)

    def blank(molecule: Chem.Mol, styles: Styles, seed: int) -> Picture:
        return np.full((200, 200), 255, np.uint8) if styles != Styles() else draw_styled(molecule, styles, seed)

    monkeypatch.setattr(varied, "draw_styled", blank)
    picture, plain = draw_varied(mol("CCO"), depiction, 1)
    assert plain
    assert picture.min() < 64


def test_what_cannot_be_drawn_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no depiction")

    monkeypatch.setattr(styled, "_by_rdkit", refuse)
    with pytest.raises(ValueError, match="no depiction"):
        draw_varied(mol("CCO"), Depiction(styles={"indigo": 0}), 1)  # type: ignore[arg-type]


def test_what_indigo_cannot_lay_out_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def layout(self) -> None:
            raise RuntimeError("core: no layout")

    monkeypatch.setattr(indigo_toolkit, "_load", lambda _: Refusing())
    with pytest.raises(ValueError, match="Indigo cannot lay it out: core: no layout"):
        indigo_toolkit.indigo_layout(mol("CCO"))


def test_without_indigo_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    indigo_toolkit._toolkit.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "indigo", None)
    with pytest.raises(UserError, match=r"pip install epam\.indigo"):
        draw_styled(mol("CCO"), Styles(indigo=1), 0)
    indigo_toolkit._toolkit.cache_clear()


def test_a_font_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "font.ttf").write_text("no font")
    for name in (str(tmp_path / "font.ttf"), str(tmp_path / "missing.ttf")):
        with pytest.raises(UserError, match="no TrueType font"):
            draw_styled(mol("CCO"), Styles(fonts={name: 1}), 0)


@pytest.mark.parametrize(
    ("styles", "key"),
    [
        ({"fonts": {"stix": 0.7, "dejavu-sans": 0.4}}, "fonts"),
        ({"layouts": {"chemdraw": 0.1}}, "layouts"),
        ("vary", "styles"),
    ],
)
def test_wrong_styles_are_refused_with_their_key(styles: object, key: str) -> None:
    with pytest.raises(ValidationError) as error:
        Depiction(styles=styles)  # type: ignore[arg-type]
    assert key in str(error.value)


def test_a_mapping_changes_the_varied_styles_in_part() -> None:
    depiction = Depiction(styles={"scan": 0.0})  # type: ignore[arg-type]
    assert depiction.styles is not None
    assert depiction.styles.scan == 0
    assert depiction.styles.size == (150, 700)
    assert Depiction.model_validate_json(depiction.model_dump_json()) == depiction


def test_the_documentation_has_the_shares_and_ranges_of_varied() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/depiction.md").read_text(encoding="utf-8")
    block = page.split("# what varied stands for\n")[1].split("```")[0]
    assert Styles.model_validate(yaml.safe_load(block)) == varied_styles()
