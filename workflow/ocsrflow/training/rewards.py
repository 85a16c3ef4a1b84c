"""What a network's texts are worth, worked out in processes of their own, which RDKit cannot hold up.

Without PyTorch, so that these processes start fast and stay small.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from types import TracebackType

from ..chem.similarity import (
    LIMIT,
    RECENT,
    ParsedMolecule,
    is_valid,
    limit_memory,
    parse_here,
    parsed_similarity,
    tanimoto,
)
from ..config.risk import Reward
from ..runtime.isolated import CHUNK, Failed, Pool, attempts

Pair = tuple[str, str]  # a text and the right one
Score = tuple[float, bool]  # their Tanimoto similarity, and whether RDKit parses the text


def score(pair: Pair) -> Score:
    """What a validation asks of a text."""
    return tanimoto(*pair), is_valid(pair[0])


def reward(kind: Reward, pair: Pair) -> float:
    """What a text is worth, in [0, 1].

    Parameters
    ----------
    kind
        ``tanimoto``: Tanimoto similarity of RDKit's path fingerprints, 1 for equal molecules also where the fingerprint
        is empty; ``exact``: 1 for equal canonical isomeric SMILES, else 0. A text that RDKit cannot parse has 0.
    pair
        The text and the right one.
    """
    text, right = map(_parsed, pair)
    if text is None or right is None:
        return 0.0
    return parsed_similarity(text, right) if kind == "tanimoto" else float(text.canonical == right.canonical)


@lru_cache(maxsize=RECENT)
def _parsed(text: str) -> ParsedMolecule | None:
    return parse_here(text)


class Rewards:
    """Processes that work out rewards for as long as a phase of training goes on, in a ``with`` block."""

    def __init__(self, kind: Reward, *, processes: int = 1, seconds: float = LIMIT) -> None:
        """Name the reward.

        Parameters
        ----------
        kind
            As in :func:`reward`.
        processes
            How many share the work; they start with the first texts.
        seconds
            Time limit of one text. One that takes longer is worth 0, and a line on standard error says so.
        """
        # Bound to a list function: a chunk of pairs makes a chunk of rewards.
        self._work = partial(attempts, partial(reward, kind))
        self._seconds = seconds
        self._workers = Pool(prepare, processes=processes)

    def __enter__(self) -> "Rewards":
        self._workers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.__exit__(kind, error, trace)

    def schedule(self, pairs: Sequence[Pair]) -> Iterator[float]:
        """Begin at once with the rewards of some pairs; going through what is returned waits for them, in order."""
        chunks = [pairs[at : at + CHUNK] for at in range(0, len(pairs), CHUNK)]
        waiting = [self._workers.schedule(self._work, chunk, self._seconds) for chunk in chunks]
        return (_or_nothing(found, pair) for found, pair in zip(_chained(waiting), pairs, strict=True))


def _chained(parts: list[Iterator[float | Failed]]) -> Iterator[float | Failed]:
    for part in parts:
        yield from part


def _or_nothing(found: float | Failed, pair: Pair) -> float:
    if isinstance(found, Failed):
        print(f"minimum risk: a text counts as worth nothing, {found}: {pair[0]}", file=sys.stderr, flush=True)
        return 0.0
    return found


def prepare() -> None:
    """First thing in a new process that parses what a network wrote."""
    limit_memory()
    # A signal to stop goes to all processes of a job; the one that trains must still be able to finish its step.
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
