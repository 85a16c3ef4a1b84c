"""SMILES to tokens and back, over a closed vocabulary built from the SMILES grammar.

The vocabulary is that of the OpenSMILES specification with RDKit's extensions (dative bonds, atomic numbers in
brackets, ``%(nnn)``). It does not depend on any data, so that models trained on different data sets share it, and
every valid SMILES has tokens. Joining the tokens gives the text back, character for character.
"""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Periodic table to oganesson; '*' is any atom.
ELEMENTS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
    "Mc Lv Ts Og *"
).split()
AROMATIC = "b c n o p s se as te si".split()
BONDS = ["-", "=", "#", "$", ":", "/", "\\", "~", "->", "<-"]
CHIRALITY = ["@", "@@", "TH", "AL", "SP", "TB", "OH"]
DIGITS = list("0123456789")
RING_CLOSURES = [f"%{n}" for n in range(10, 100)] + ["%("]
PUNCTUATION = ["(", ")", "[", "]", ".", "+"]

PAD, START, END = 0, 1, 2
SPECIAL = ["<pad>", "<start>", "<end>"]

VOCABULARY: list[str] = SPECIAL + PUNCTUATION + BONDS + DIGITS + RING_CLOSURES + CHIRALITY + AROMATIC + ELEMENTS
INDEX: dict[str, int] = {token: i for i, token in enumerate(VOCABULARY)}

# Outside brackets only the organic subset stands: there 'Sc' is a sulphur and an aromatic carbon.
_OUTSIDE = re.compile(r"Cl|Br|->|<-|%\(|%\d\d|[BCNOPSFIbcnops*()\[\].=#$:/\\~0-9-]")
_INSIDE = re.compile(
    r"@@?|(?<=@)(?:TH|AL|SP|TB|OH)|"
    + "|".join(sorted((e for e in ELEMENTS + AROMATIC if e != "*"), key=len, reverse=True))
    + r"|[*#:+\[\]0-9-]"
)


def tokenize(smiles: str) -> list[str]:
    """The tokens of a SMILES; joined they are the same text.

    Raises
    ------
    ValueError
        For a character that the grammar does not have in its place, with its position (from 1).
    """
    tokens: list[str] = []
    at, inside = 0, False
    while at < len(smiles):
        match = (_INSIDE if inside else _OUTSIDE).match(smiles, at)
        if match is None:
            raise ValueError(f"no SMILES token at character {at + 1}: {smiles[at : at + 10]!r}")
        token = match[0]
        tokens.append(token)
        at = match.end()
        inside = token == "[" or (inside and token != "]")
    return tokens


def encode(smiles: str) -> NDArray[np.uint16]:
    """Token numbers of a SMILES, (tokens,) uint16, without start and end. Raises ValueError as :func:`tokenize`."""
    return np.array([INDEX[token] for token in tokenize(smiles)], dtype=np.uint16)


def is_tokenised(smiles: str) -> bool:
    """Whether a text is made of tokens that models know."""
    try:
        tokenize(smiles)
    except ValueError:
        return False
    return True


def decode(numbers: Iterable[int]) -> str:
    """The text of token numbers, up to the first end token; start and padding are skipped."""
    text = []
    for number in numbers:
        if number == END:
            break
        if number >= len(SPECIAL):
            text.append(VOCABULARY[number])
    return "".join(text)
