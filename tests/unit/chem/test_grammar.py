"""The grammar lets through what chemists write, and nothing that is no SMILES."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.chem.grammar import Grammar
from ocsrflow.chem.tokenizer import END, INDEX, PAD, START, VOCABULARY, decode, tokenize
from ocsrflow.network.beam_search import search
from ocsrflow.network.decoder import Decoder
from rdkit import Chem
from support.data import nci
from torch import Tensor

CPU = torch.device("cpu")

BRACKET = re.compile(
    r"\[(?:[1-9]\d{0,2})?"
    r"(?:H(?!@)|(?:(?!H@)[A-Z][a-z]?|se|as|te|si|[bcnops*])(?:@@|@(?:(?:TH|AL)[12]|SP[123]|TB(?:1\d|20|[1-9])|OH(?:[12]\d|30|[1-9]))|@)?)"
    r"(?:H\d?)?(?:\+\+|--|[+-](?:0|[1-9]\d?)?)?(?::(?:0|[1-9]\d{0,3}))?\]"
)
PIECE = re.compile(BRACKET.pattern + r"|Cl|Br|[BCNOPSFIbcnops*]|%\d\d|\d|->|<-|[-=#$:/\\~().]")
BONDS = {"-", "=", "#", "$", ":", "/", "\\", "~", "->", "<-"}


pytestmark = pytest.mark.usefixtures("one_thread")


def fault(smiles: str) -> str | None:
    """What is wrong with a text, read character by character; None where it is SMILES."""
    stack: list[int] = []
    rings: dict[int, int] = {}
    bonds: set[frozenset[int]] = set()
    atoms, current, before, at = 0, None, "start", 0
    while at < len(smiles):
        match = PIECE.match(smiles, at)
        if match is None:
            return f"no piece at {at}"
        piece, at = match[0], match.end()
        if piece in BONDS:
            if before in ("start", ".", "bond"):
                return "a bond to nothing"
            before = "bond to an atom" if before in ("(", ")") else "bond"
        elif piece == "(":
            if before not in ("atom", ")"):
                return "a branch of nothing"
            stack.append(current)
            before = "("
        elif piece == ")":
            if not stack or before not in ("atom", ")"):
                return "the end of no branch"
            current, before = stack.pop(), ")"
        elif piece == ".":
            if stack or before not in ("atom", ")"):
                return "a dot in a wrong place"
            current, before = None, "."
        elif piece.lstrip("%").isdigit():
            number = int(piece.lstrip("%"))
            if before not in ("atom", "bond"):
                return "a ring digit in a wrong place"
            before = "atom"
            if number not in rings:
                rings[number] = current
                continue
            bond = frozenset((rings.pop(number), current))
            if len(bond) == 1 or bond in bonds:
                return "a bond to itself, or twice"
            bonds.add(bond)
        else:
            if current is not None:
                bonds.add(frozenset((current, atoms)))
            current, before, atoms = atoms, "atom", atoms + 1
    if stack or rings or before not in ("atom", ")"):
        return "not complete"
    return None


def accepted(texts: list[list[str]], longest: int) -> list[int | None]:
    """Of each text, the place of the first token that is refused, its end the last one; None where there is none."""
    grammar = Grammar(CPU)
    state = grammar.start(len(texts), longest, CPU)
    rows = [[*(INDEX[token] for token in text), END] for text in texts]
    refused: list[int | None] = [None] * len(rows)
    for step in range(max(map(len, rows))):
        tokens = torch.tensor([row[step] if step < len(row) else PAD for row in rows])
        fine = grammar.allowed(state).gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        for i, row in enumerate(rows):
            if step < len(row) and not fine[i] and refused[i] is None:
                refused[i] = step
        state = grammar.advance(state, tokens)
    return refused


def test_every_nci_molecule_is_accepted() -> None:
    texts = sorted(nci(), key=len)
    assert len(texts) == 4999
    # By length, each with no more tokens left than the longest of its fellows takes.
    for at in range(0, len(texts), 200):
        tokens = [tokenize(text) for text in texts[at : at + 200]]
        refused = accepted(tokens, max(map(len, tokens)) + 1)
        assert not any(place is not None for place in refused), texts[at + refused.index(max(x or 0 for x in refused))]


LEGAL = (
    "C [HH] [2H][2H] [H+] [13CH4] [C@@H](F)(Cl)Br [Zn++] [O--] [Fe+3] [NH4+:12] [Co@OH25](F)Cl [Pt@SP1] *C [12*]C "
    "C1CC1 C%11CC%11 C12CC1C2 C=1CCCCC=1 C1=CC=CC=C1 C-1CC1 C/C=C\\C N->[Pt]<-N C(C)(C)C C(=O)O C(C(C)C)C C1.C1 C.C "
    "C(C1)CC1 C1CC(C1)C [se]1cccc1 c1ccccc1 C1CC1C1CC1 [C@TH1](F)(Cl)(Br)I C$C C~C C0CC0 C1C2C3CC1C23"
).split()
ILLEGAL = (
    ". C. .C C..C C= =C C==C (C)C C( C() C) C(C C((C)C)C C(.C)C C(C.C)C 1CC1 C1CC C11 C1C1 C12CCC12 C(=1)CC1 C(1)CC1 "
    "C(C)1CC1 C(C)=1CC=1 C1CC1C1 C%( [ ] [] [C C] [1] [C@TH] [C@TH3] [C@SP4] [C@TB21] [C@OH31] [C:] [C+++] "
    "[C+-] [C+00] [C:01] [CH12] [C@H@] [H@] [1234C] [CC] [C-H] [C1] [#6] C1.C2 [C@@TH1] C=.C C.=C C(C=)C"
).split()


@pytest.mark.parametrize("text", LEGAL)
def test_legal_texts_are_accepted(text: str) -> None:
    tokens = tokenize(text)
    assert fault(text) is None
    assert Chem.MolFromSmiles(text, sanitize=False) is not None
    assert accepted([tokens], 40) == [None]


@pytest.mark.parametrize("text", ILLEGAL)
def test_illegal_texts_are_refused(text: str) -> None:
    tokens = re.findall(r"@@|TH|AL|SP|TB|OH|%\(|%\d\d|Cl|Br|.", text)
    assert fault(text) is not None
    assert accepted([tokens], 60)[0] is not None


def choose(allowed: Tensor, favoured: float) -> Tensor:
    """A random one of the allowed tokens; those that leave something open ``favoured`` times as often."""
    weights = torch.ones(len(VOCABULARY))
    weights[[INDEX[token] for token in ("(", "[", "C", "=", "1", "2", "3", "%10", ")", "@", "]")]] = favoured
    weights[END] = 0.2
    return torch.multinomial(allowed * weights, 1).squeeze(1)


@given(seed=st.integers(0, 2**31), longest=st.integers(2, 50), favoured=st.sampled_from([1.0, 30.0, 300.0]))
def test_random_texts_are_smiles_and_end_in_time(seed: int, longest: int, favoured: float) -> None:
    torch.manual_seed(seed)
    grammar, texts = Grammar(CPU), 40
    state = grammar.start(texts, longest, CPU)
    written: list[list[int]] = [[] for _ in range(texts)]
    ended = torch.zeros(texts, dtype=torch.bool)
    for _ in range(longest):
        allowed = grammar.allowed(state)
        assert torch.equal(allowed.any(dim=1), ~ended)
        allowed[ended, PAD] = True
        tokens = choose(allowed, favoured)
        for text, token in zip(written, tokens.tolist(), strict=True):
            text.append(token)
        state = grammar.advance(state, tokens)
        ended |= tokens == END
    assert bool(ended.all())
    for text in map(decode, written):
        assert fault(text) is None, text
        assert Chem.MolFromSmiles(text, sanitize=False) is not None, text


@pytest.mark.parametrize("beams", [1, 6])
@pytest.mark.parametrize("longest", [2, 5, 40])
def test_a_random_decoder_with_the_grammar_writes_smiles(beams: int, longest: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels=12, dim=16, vocabulary=len(VOCABULARY), dropout=0.0, grid=3).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
        decoder.output.bias[[INDEX[token] for token in ("(", "[", "C", "1", "2", "%10", "@")]] += 8
    features = torch.randn(12, 9, 12) * 3
    free = search(decoder, features, longest, beams=beams)
    assert any(fault(decode(candidate.tokens)) for found in free for candidate in found)
    written = search(decoder, features, longest, beams=beams, grammar=True)
    assert len(written) == 12
    for found in written:
        assert 1 <= len(found) <= beams
        assert len({tuple(candidate.tokens) for candidate in found}) == len(found)
        for candidate in found:
            assert candidate.ended
            assert len(candidate.tokens) < longest
            assert fault(decode(candidate.tokens)) is None
            assert not {PAD, START, END} & set(candidate.tokens)


def test_a_grammar_needs_its_vocabulary_and_room_for_an_end() -> None:
    small = Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0, grid=3)
    with pytest.raises(ValueError, match="vocabulary"):
        search(small, torch.randn(1, 9, 12), 5, grammar=True)
    own = Decoder(channels=12, dim=8, vocabulary=len(VOCABULARY), dropout=0.0, grid=3)
    with pytest.raises(ValueError, match="2 tokens or more"):
        search(own, torch.randn(1, 9, 12), 1, grammar=True)
