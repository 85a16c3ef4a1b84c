"""The tokenizer: closed vocabulary, lossless both ways."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.chem import tokenizer
from ocsrflow.config.planning import PUBLIC
from rdkit import Chem
from support.data import nci


def round_trip(smiles: str) -> str:
    return tokenizer.decode(tokenizer.encode(smiles).tolist())


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CCl", ["C", "Cl"]),
        ("Sc1ccccc1", ["S", "c", "1", "c", "c", "c", "c", "c", "1"]),
        ("[Sc+3]", ["[", "Sc", "+", "3", "]"]),
        ("[C@@H](F)(Cl)Br", ["[", "C", "@@", "H", "]", "(", "F", ")", "(", "Cl", ")", "Br"]),
        ("[13CH4]", ["[", "1", "3", "C", "H", "4", "]"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("C%(123)C%(123)", ["C", "%(", "1", "2", "3", ")", "C", "%(", "1", "2", "3", ")"]),
        ("[Co@OH12](F)", ["[", "Co", "@", "OH", "1", "2", "]", "(", "F", ")"]),
        ("C/C=C\\C", ["C", "/", "C", "=", "C", "\\", "C"]),
        ("[NH3]->[Fe]", ["[", "N", "H", "3", "]", "->", "[", "Fe", "]"]),
        ("[nH]1cc[se]c1", ["[", "n", "H", "]", "1", "c", "c", "[", "se", "]", "c", "1"]),
        ("[#6]~*", ["[", "#", "6", "]", "~", "*"]),
        ("[CH3:7]", ["[", "C", "H", "3", ":", "7", "]"]),
        ("[Og]", ["[", "Og", "]"]),
    ],
)
def test_tokens_are_those_of_the_grammar(smiles: str, tokens: list[str]) -> None:
    assert tokenizer.tokenize(smiles) == tokens
    assert round_trip(smiles) == smiles


@pytest.mark.parametrize(("text", "at"), [("C C", 2), ("Cé", 2), ("[Xx]", 2), ("Na", 2), ("C%1", 2), ("hello", 1)])
def test_what_is_no_smiles_is_reported_with_its_place(text: str, at: int) -> None:
    with pytest.raises(ValueError, match=f"at character {at}"):
        tokenizer.encode(text)


def test_the_vocabulary_is_closed_and_fits_two_bytes() -> None:
    assert len(set(tokenizer.VOCABULARY)) == len(tokenizer.VOCABULARY) < 2**16
    assert tokenizer.VOCABULARY[:3] == ["<pad>", "<start>", "<end>"]


MOLECULES = [molecule for molecule in map(Chem.MolFromSmiles, nci()) if molecule is not None]


@given(st.integers(0, len(MOLECULES) - 1), st.integers(0, 2**31 - 1), st.booleans(), st.booleans())
def test_every_spelling_of_a_molecule_comes_back(at: int, seed: int, kekule: bool, hydrogens: bool) -> None:
    molecule = MOLECULES[at]
    if kekule:
        Chem.Kekulize(molecule, clearAromaticFlags=True)
    (text,) = Chem.MolToRandomSmilesVect(molecule, 1, seed % 2**31 or 1, kekuleSmiles=kekule, allHsExplicit=hydrogens)
    assert round_trip(text) == text


def test_every_public_molecule_survives() -> None:
    with gzip.open(PUBLIC, "rt") as lines:
        texts = [line.rstrip("\n").split("\t")[1] for line in lines]
    assert len(texts) == 283_036
    assert all("".join(tokenizer.tokenize(text)) == text for text in texts)


CHARGES = ["+", "-", "*", "#", ":", "@", "@@", "@TH", "@AL", "@SP", "@TB", "@OH", *tokenizer.DIGITS]
BRACKETS = st.lists(st.sampled_from([*tokenizer.ELEMENTS, *tokenizer.AROMATIC, *CHARGES]), max_size=6)
OUTSIDE = st.sampled_from(
    ["(", ")", ".", *tokenizer.BONDS, *tokenizer.DIGITS, *tokenizer.RING_CLOSURES, *"BCNOPSFIbcnops*", "Cl", "Br"]
)
PIECES = OUTSIDE | BRACKETS.map(lambda inside: f"[{''.join(inside)}]")


@given(st.lists(PIECES, max_size=30))
def test_any_text_that_has_tokens_comes_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.START, *tokens.tolist(), tokenizer.END, 5, 6]) == text
