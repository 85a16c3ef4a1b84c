"""The grammar of SMILES as an automaton over token numbers, for many texts at once.

What OpenSMILES (opensmiles.org, sections 2 and 3) says of the order of symbols, branches, ring digits, dots and what
is in brackets, as far as RDKit reads it: ``++`` and ``--`` are the only repeated charges, ``[HH]`` is a molecule, dots
stand outside branches. Ring digits come before branches, as OpenSMILES has them and all writers write them. Left out
is what RDKit alone knows and no corpus has: ``%(100)`` and ``[#6]``. Valences, aromaticity, and whether both ends of a
ring bond agree are left to RDKit.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .tokenizer import AROMATIC, BONDS, DIGITS, ELEMENTS, END, INDEX, VOCABULARY

ORGANIC = "B C N O P S F I Cl Br b c n o p s *".split()  # stand without brackets
PERMUTATIONS = {"TH": 2, "AL": 2, "SP": 3, "TB": 20, "OH": 30}  # of each chirality class
RINGS = 100  # ring numbers, 0 to 99
NONE = -1  # no atom: what comes next is bonded to nothing; a ring number that is not open
CLOSED = -2
_NEVER = 30_000  # tokens; no text is as long
_BRANCH, _CLOSE, _DOT = INDEX["("], INDEX[")"], INDEX["."]

# The states of the automaton. In those of the first line nothing is left open but branches and rings.
_ATOM, _BRANCHED = "an atom", "an atom and a branch"
_FIRST, _BOND, _OPEN, _CHAIN_BOND, _ENDED = "the first of a part", "a bond", "(", "a bond to an atom", "the end"
# In brackets, by what was read last; a number counts digits.
_BRACKET, _SYMBOL, _HYDROGEN, _H, _H_COUNT = "[", "a symbol", "the symbol H", "hydrogens", "their number"
_AT, _ATAT, _PLUS, _MINUS, _CHARGED, _CLASS = "@", "@@", "+", "-", "a charge", ":"


def _bracket_rules() -> dict[str, dict[str, str]]:
    """What may follow in brackets: isotope, symbol, chirality, hydrogens, charge, class, each but the symbol if any."""
    rules: dict[str, dict[str, str]] = {}
    close = {"]": _ATOM}
    mapped = {":": _CLASS} | close
    charged = {"+": _PLUS, "-": _MINUS} | mapped
    hydrogens = {"H": _H} | charged
    symbols = dict.fromkeys([*ELEMENTS, *AROMATIC], _SYMBOL) | {"H": _HYDROGEN}

    before = _BRACKET
    for count in range(1, 4):
        rules[before] = dict.fromkeys(DIGITS[1:] if count == 1 else DIGITS, f"isotope {count}") | symbols
        before = f"isotope {count}"
    rules[before] = symbols

    rules[_SYMBOL] = {"@": _AT, "@@": _ATAT} | hydrogens
    rules[_HYDROGEN] = hydrogens
    rules[_AT] = {name: name for name in PERMUTATIONS} | hydrogens
    rules[_ATAT] = hydrogens
    for name, count in PERMUTATIONS.items():
        rules[name] = {}
        for first in range(1, 10):
            if first > count:
                continue
            second = [str(n % 10) for n in range(10 * first, 10 * first + 10) if n <= count]
            rules[name][str(first)] = f"{name}{first}"
            rules[f"{name}{first}"] = dict.fromkeys(second, _ATAT) | hydrogens
    rules[_H] = dict.fromkeys(DIGITS, _H_COUNT) | charged
    rules[_H_COUNT] = charged

    for sign, token in ((_PLUS, "+"), (_MINUS, "-")):
        rules[sign] = {token: _CHARGED, "0": _CHARGED} | dict.fromkeys(DIGITS[1:], "charge 1") | mapped
    rules["charge 1"] = dict.fromkeys(DIGITS, _CHARGED) | mapped
    rules[_CHARGED] = mapped

    rules[_CLASS] = {"0": "class 4"} | dict.fromkeys(DIGITS[1:], "class 1")
    for count in range(1, 4):
        rules[f"class {count}"] = dict.fromkeys(DIGITS, f"class {count + 1}") | close
    rules["class 4"] = close
    return rules


def _rules() -> dict[str, dict[str, str]]:
    """What may follow in every state, and the state after it. Depths and rings are looked at elsewhere."""
    atoms = dict.fromkeys(ORGANIC, _ATOM) | {"[": _BRACKET}
    rings = dict.fromkeys(_ring_tokens(), _ATOM)
    chain = atoms | dict.fromkeys(BONDS, _CHAIN_BOND)
    branched = chain | {"(": _OPEN, ")": _BRANCHED, ".": _FIRST, VOCABULARY[END]: _ENDED}
    return {
        _FIRST: atoms,
        _ATOM: branched | dict.fromkeys(BONDS, _BOND) | rings,
        _BRANCHED: branched,
        _BOND: atoms | rings,
        _OPEN: chain,
        _CHAIN_BOND: atoms,
        _ENDED: {},
    } | _bracket_rules()


def _ring_tokens() -> list[str]:
    return [str(n) if n < 10 else f"%{n}" for n in range(RINGS)]


class State(NamedTuple):
    """Where some texts are, (texts, ...) each. Atoms are numbered from 0 in the order of the text."""

    at: Tensor  # state of the automaton
    left: Tensor  # tokens that may still come, the end included
    depth: Tensor  # branches that are open
    atoms: Tensor  # atoms so far
    current: Tensor  # the atom that the next one is bonded to, or NONE
    stack: Tensor  # (texts, longest): the atom that each open branch hangs on
    opener: Tensor  # (texts, 100): the atom that opened a ring number, or CLOSED
    opened: Tensor  # (texts, longest): of each atom, how many of the ring numbers that it opened are open
    bonded: Tensor  # (texts, longest) bool: atoms that the current one is bonded to, and itself


class Grammar:
    """The automaton on a device; nothing in it waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.follow, self.legal, self.need = _tables(device)
        self.rings = torch.tensor([INDEX[token] for token in _ring_tokens()], device=device)
        self.bonds = torch.tensor([INDEX[token] for token in BONDS], device=device)
        # Of each token the ring number that it may mean, and RINGS for others.
        self.number = torch.full((len(VOCABULARY),), RINGS, device=device)
        self.number[self.rings] = torch.arange(RINGS, device=device)

    def start(self, texts: int, longest: int, device: torch.device) -> State:
        """So many empty texts that may have ``longest`` tokens, their end included (2 or more)."""

        def numbers(value: int, *shape: int) -> Tensor:
            return torch.full((texts, *shape), value, dtype=torch.int64, device=device)

        return State(
            at=numbers(_NUMBER[_FIRST]),
            left=numbers(longest),
            depth=numbers(0),
            atoms=numbers(0),
            current=numbers(NONE),
            stack=numbers(NONE, longest),
            opener=numbers(CLOSED, RINGS),
            opened=numbers(0, longest).to(self.need.dtype),
            bonded=torch.zeros(texts, longest, dtype=torch.bool, device=device),
        )

    def allowed(self, state: State) -> Tensor:
        """Which tokens may come next, (texts, vocabulary) bool: one or more, but for texts that have ended.

        They are what the automaton, branches and ring numbers permit, and after which the text can still end in time.
        """
        legal = self.legal[state.at] & (self._needed(state) < state.left.unsqueeze(1))
        legal[:, _CLOSE] &= state.depth > 0
        legal[:, _DOT] &= state.depth == 0
        legal[:, END] &= (state.depth == 0) & (state.opened == 0).all(dim=1)
        # A ring number that is open is no other ring's; nor does an atom bond to itself or to a neighbour again.
        again = (state.opener != CLOSED) & state.bonded.gather(1, state.opener.clamp(min=0))
        legal[:, self.rings] &= ~(again & (state.at < _BRACKETS).unsqueeze(1))
        return legal

    def _needed(self, state: State) -> Tensor:
        """Tokens that suffice to end a text after each token, the end included, (texts, vocabulary).

        The way to an end: finish the atom, close the rings, close the branches. Each open ring takes a digit. Two atoms
        close one ring with each other at most, and neighbours none. So the rings that are open at one atom need as many
        further atoms to close them: one more where it is the last atom so far, whose next one is a neighbour, and one
        less where the last atom may close one itself. These atoms close the rings of all other atoms on their way, so
        the largest of these numbers counts.

        Examples: ``C12C`` needs five more tokens, ``C1C2`` and the end, for its last atom is a neighbour of the one at
        which two rings are open. ``C1CC(C`` needs three: ``1``, ``)`` and the end.
        """
        depth, kind = state.depth, self.need.dtype
        rings = state.opened.sum(dim=1)
        has_open, none = state.opened > 0, torch.zeros_like(state.bonded)
        current = self._at(state.current, state)
        branching = self._at(state.stack.gather(1, (depth - 1).clamp(min=0).unsqueeze(1)).squeeze(1), state)

        def atoms(last: Tensor, closable: Tensor) -> Tensor:
            """Atoms that rings still need, where the last atom is ``last`` and may close a ring of ``closable``."""
            return (state.opened + (last & has_open).to(kind) - (closable & has_open).to(kind)).amax(dim=1)

        # After most tokens an atom comes next, or is it: what the token's own state needs, then rings, branches, end.
        need = self.need[state.at] + (1 + depth + rings + atoms(none, ~current)).unsqueeze(1).to(kind)
        need[:, _BRANCH] += 1
        need[:, _DOT] = (2 + rings + atoms(none, has_open)).to(kind)
        # After a branch's end the atom that it hangs on is the last one.
        need[:, _CLOSE] = (depth + rings + atoms(branching, none)).to(kind)
        need[:, END] = 0
        # After a bond a ring digit may follow at once, where there is a ring that the current atom may close.
        from_current = atoms(current, ~state.bonded)
        may_close = (state.at == _NUMBER[_ATOM]) & (has_open & ~state.bonded).any(dim=1)
        at_once = torch.where(may_close, 1 + depth + rings + from_current, _NEVER).unsqueeze(1).to(kind)
        need[:, self.bonds] = torch.minimum(need[:, self.bonds], at_once)
        # A ring digit, which in brackets is another number, closes a ring, or opens one more at the current atom.
        one_more = 2 + torch.maximum(from_current, 2 + (state.opened * current).sum(dim=1))
        ring = torch.where(state.opener != CLOSED, from_current.unsqueeze(1), one_more.unsqueeze(1))
        ring = (ring + (depth + rings).unsqueeze(1)).to(kind)
        outside = (state.at < _BRACKETS).unsqueeze(1)
        need[:, self.rings] = torch.where(outside, ring, need[:, self.rings])
        return need

    def _at(self, atom: Tensor, state: State) -> Tensor:
        """Which place is that of an atom, (texts, longest) bool; nowhere for NONE."""
        return torch.arange(state.opened.shape[1], device=atom.device) == atom.unsqueeze(1)

    def advance(self, state: State, tokens: Tensor) -> State:
        """The states after a token of each text, (texts,) int64, each of them allowed; texts that have ended stay."""
        at = self.follow[state.at, tokens]
        outside, kind = state.at < _BRACKETS, state.opened.dtype
        ring = outside & (self.number[tokens] < RINGS) & (at == _NUMBER[_ATOM])
        made = (at == _NUMBER[_ATOM]) & ~ring
        opens, closes = outside & (tokens == _BRANCH), outside & (tokens == _CLOSE)

        index = torch.where(opens, state.depth, state.depth - 1).clamp(min=0).unsqueeze(1)
        top = state.stack.gather(1, index)
        stack = state.stack.scatter(1, index, torch.where(opens.unsqueeze(1), state.current.unsqueeze(1), top))
        before = torch.where(closes, top.squeeze(1), state.current).masked_fill(outside & (tokens == _DOT), NONE)
        current = torch.where(made, state.atoms, before)

        number = self.number[tokens].clamp(max=RINGS - 1).unsqueeze(1)
        other = state.opener.gather(1, number)  # who opened the ring number
        opening, closing = ring.unsqueeze(1) & (other == CLOSED), ring.unsqueeze(1) & (other != CLOSED)
        value = torch.where(opening, current.unsqueeze(1), torch.where(closing, CLOSED, other))
        here, there = self._at(current, state), self._at(other.squeeze(1), state)
        return State(
            at=at,
            left=state.left - 1,
            depth=state.depth + opens.long() - closes.long(),
            atoms=state.atoms + made.long(),
            current=current,
            stack=stack,
            opener=state.opener.scatter(1, number, value),
            opened=state.opened + (opening & here).to(kind) - (closing & there).to(kind),
            bonded=torch.where(made.unsqueeze(1), here | self._at(before, state), state.bonded | (closing & there)),
        )


_RULES = _rules()
# Outside states first, then those in brackets.
_NAMES = sorted(_RULES, key=lambda name: name in _bracket_rules())
_NUMBER = {name: i for i, name in enumerate(_NAMES)}
_BRACKETS = _NUMBER[_BRACKET]


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each state and token, (states, vocabulary): the state after it; whether there is one; tokens to an atom then.

    The last number counts what is still needed until no bond and no bracket is open.
    """
    least = dict.fromkeys(_NAMES, 1) | {_ATOM: 0, _BRANCHED: 0, _ENDED: 0, _BRACKET: 2, _CLASS: 2}
    least |= {name: 2 for name in _NAMES if name in PERMUTATIONS or name.startswith("isotope")}
    follow = torch.full((len(_NAMES), len(VOCABULARY)), _NUMBER[_ENDED])
    legal = torch.zeros(follow.shape, dtype=torch.bool)
    need = torch.zeros(follow.shape, dtype=torch.int16)
    for name, after in _RULES.items():
        for token, following in after.items():
            index = _NUMBER[name], INDEX[token]
            follow[index], legal[index], need[index] = _NUMBER[following], True, least[following]
    return follow.to(device), legal.to(device), need.to(device)
