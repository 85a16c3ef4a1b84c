"""How alike two molecules are: RDKit's path fingerprints and their Tanimoto similarity, as in the contest."""

import resource
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache, partial
from typing import NamedTuple

from rdkit import Chem, DataStructs

from ..runtime.isolated import Failed, Pool, attempts, guarded
from ..runtime.progress import progress
from .molecules import canonical_text, parse

LIMIT = 10.0  # seconds for one text; RDKit needs a millisecond for nearly all of them
MEMORY = 4 << 30  # bytes for one process; the fingerprints of dense clusters take all there is
RECENT = 256  # fingerprints that a process remembers


class ParsedMolecule(NamedTuple):
    """What the scores and the votes ask about a text that RDKit parses."""

    canonical: str  # canonical isomeric SMILES, equal for the same molecule alone: molecules.canonical_text
    fingerprint: DataStructs.ExplicitBitVect  # RDKit's path fingerprint with its defaults, 2048 bits


def tanimoto(first: str, second: str) -> float:
    """Tanimoto similarity of two SMILES in [0, 1], as :func:`parsed_similarity` has it, worked out in this process."""
    return parsed_similarity(parse_cached(first), parse_cached(second))


def parsed_similarity(first: ParsedMolecule | None, second: ParsedMolecule | None) -> float:
    """Tanimoto similarity of two molecules in [0, 1]; 0 where RDKit cannot parse one of them (None).

    ``RDKFingerprint`` with RDKit's defaults, as the contest's rules had it. The same molecules have 1, also those
    without a bond (methane, ``[Na+].[Cl-]``), whose empty fingerprints RDKit finds similar to nothing.
    """
    return 0.0 if first is None or second is None else parsed_similarities(first, [second])[0]


def parsed_similarities(molecule: ParsedMolecule, others: Sequence[ParsedMolecule]) -> list[float]:
    """:func:`parsed_similarity` of one molecule to each of several, faster than one by one."""
    values = DataStructs.BulkTanimotoSimilarity(molecule.fingerprint, [other.fingerprint for other in others])
    same = molecule.canonical
    return [1.0 if other.canonical == same else value for other, value in zip(others, values, strict=True)]


def is_valid(smiles: str) -> bool:
    """Whether RDKit parses the text."""
    return parse(smiles) is not None


def parse_all(
    texts: Iterable[str],
    *,
    processes: int = 1,
    seconds: float = LIMIT,
    what: str = "parsing",
    pool: Pool | None = None,
) -> dict[str, ParsedMolecule | None]:
    """Canonical SMILES and fingerprint of every different text, each worked out once, in parallel.

    A text that hangs or crashes RDKit counts as one that RDKit cannot parse, and a line on standard error says so.

    Parameters
    ----------
    texts, processes, seconds, what, pool
        As in :func:`parse_all_or_failed`.

    Returns
    -------
    By text; None where RDKit cannot parse it.
    """
    found = parse_all_or_failed(texts, processes=processes, seconds=seconds, what=what, pool=pool)
    for text, result in found.items():
        if isinstance(result, Failed):
            shown = text if len(text) <= 60 else f"{text[:60]}… ({len(text)} characters)"
            print(f"{what}: counted as invalid, {result}: {shown}", file=sys.stderr)
    return {text: None if isinstance(result, Failed) else result for text, result in found.items()}


def parse_all_or_failed(
    texts: Iterable[str],
    *,
    processes: int = 1,
    seconds: float = LIMIT,
    what: str = "parsing",
    pool: Pool | None = None,
) -> dict[str, ParsedMolecule | Failed | None]:
    """What :func:`parse_all` finds, and what became of the texts that hang or crash RDKit.

    The work is always done in other processes, for a handful of texts too, since a text of 160 characters can hold
    RDKit up: the first process takes a quarter of a second to start, a text a millisecond.

    Parameters
    ----------
    texts
        SMILES, or what may be none. Different spellings of a molecule cost least when they are close together.
    processes
        How many processes share the work, at most.
    seconds
        Time limit of one text.
    what
        What is going on, for the progress bar.
    pool
        Processes that are there already; their memory should be limited.

    Returns
    -------
    By text, in the order in which they first came.
    """
    different = list(dict.fromkeys(texts))
    work = partial(attempts, parse_here)
    results = guarded(work, different, seconds=seconds, prepare=limit_memory, processes=processes, pool=pool)
    with closing(results):
        bar = progress(results, total=len(different), what=what, unit="SMILES")
        return dict(zip(different, bar, strict=True))


def limit_memory() -> None:
    """Let this process have :data:`MEMORY` for its data, so that a text cannot bring the machine down."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


@lru_cache(maxsize=200_000)
def parse_cached(text: str) -> ParsedMolecule | None:
    """What :func:`parse_all` finds for one text, in this process, which remembers it."""
    return parse_here(text)


_recent: dict[str, DataStructs.ExplicitBitVect] = {}  # of this process, by canonical SMILES


def parse_here(text: str) -> ParsedMolecule | None:
    """What :func:`parse_all` finds for one text, in this process, which it may hold up; None where it is not parsed."""
    molecule = parse(text)
    if molecule is None:
        return None
    canonical = canonical_text(molecule)
    if canonical not in _recent:  # the fingerprint takes five times as long as all else, and spellings differ
        if len(_recent) >= RECENT:
            _recent.clear()
        _recent[canonical] = Chem.RDKFingerprint(molecule)
    return ParsedMolecule(canonical, _recent[canonical])
