"""How fast predictions are scored, and the texts of an ensemble parsed, against the plain loop in one process.

Run by hand: ``python tests/benchmarks/scores.py [--corpus CID-SMILES.gz] [--processes 2]``, gzipped lines
``CID<TAB>SMILES``; without it the molecules are the 5,000 of the NCI that RDKit brings along. It prints a Markdown
table. The plain loop and ours take turns, so that a busy machine slows them alike; a time is the median of the rounds,
a ratio the median of the rounds' ratios. CPU seconds are those of all processes, once they have ended.
"""

import argparse
import gzip
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ocsrflow.chem.molecules import canonical_text, parse, without_stereo
from ocsrflow.chem.scores import EXACT, evaluate
from ocsrflow.chem.similarity import parse_all, parse_cached
from rdkit import Chem, DataStructs, RDConfig

Run = tuple[float, float]  # seconds, CPU seconds
WRONG = 0.15  # of a model's texts in an ensemble


def molecules(corpus: Path | None, count: int) -> list[str]:
    """The first SMILES of at most 100 characters that RDKit can parse."""
    if corpus:
        with gzip.open(corpus, "rt", encoding="ascii") as file:
            lines = [line.rstrip("\n").split("\t")[1] for line in islice(file, 2 * count)]
    else:
        text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
        lines = [line.split("\t")[0] for line in text.splitlines()]
    return [text for text in lines if 2 < len(text) <= 100 and parse(text) is not None][:count]


def mutated(text: str, random: random.Random) -> str:
    """Another text, as a model might have read the molecule: spelt anew, an atom or stereo wrong, or broken."""
    kind = random.randrange(4)
    if kind == 0:
        other = Chem.MolToSmiles(parse(text), doRandom=True)
    elif kind == 1:
        other = text.replace("@@", "@").replace("/", "")
    else:
        at = random.randrange(len(text))
        other = text[:at] + random.choice("CNOSF" if text[at].isupper() else "cnos1(") + text[at + 1 :]
    return other if other != text else f"C{text}"


@lru_cache(maxsize=200_000)
def identities(text: str) -> tuple[str, str, str, str] | None:
    """A molecule in the four senses of an exact match."""
    molecule = parse(text)
    if molecule is None:
        return None
    flat = parse(text.replace("/", "").replace("\\", ""))
    return (
        canonical_text(molecule),
        Chem.MolToSmiles(flat) if flat is not None else "",
        canonical_text(without_stereo(molecule)),
        Chem.MolToInchi(molecule),
    )


def plain_scores(predictions: list[str], references: list[str]) -> dict[str, float]:
    """The definitions, pair by pair."""
    totals = dict.fromkeys(("tanimoto", *EXACT), 0.0)
    for prediction, reference in zip(predictions, references, strict=True):
        a, b = parse_cached(prediction), parse_cached(reference)
        if a is None:
            continue
        same = a.canonical == b.canonical
        totals["tanimoto"] += 1.0 if same else DataStructs.TanimotoSimilarity(a.fingerprint, b.fingerprint)
        for name, x, y in zip(EXACT, identities(prediction), identities(reference), strict=True):
            totals[name] += x == y != ""
    return {name: total / len(references) for name, total in totals.items()}


def plain_known(texts: list[str]) -> int:
    """How many different texts RDKit parses: each parsed once, with its canonical SMILES and fingerprint."""
    found: dict[str, object] = {}
    for text in texts:
        if text not in found:
            molecule = parse(text)
            found[text] = molecule and (Chem.MolToSmiles(molecule), Chem.RDKFingerprint(molecule))
    return sum(value is not None for value in found.values())


def cpu() -> float:
    return sum(
        use.ru_utime + use.ru_stime
        for use in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def timed(work: Callable[[], object]) -> tuple[Run, object]:
    parse_cached.cache_clear()
    identities.cache_clear()
    began, used = time.perf_counter(), cpu()
    found = work()
    return (time.perf_counter() - began, cpu() - used), found


def rows(what: str, plain: Callable[[], object], ours: Callable[[], object], rounds: int) -> Iterator[str]:
    taken: dict[str, list[Run]] = {"plain loop": [], "ours": []}
    for _ in range(rounds):
        results = []
        for name, work in (("plain loop", plain), ("ours", ours)):
            run, result = timed(work)
            taken[name].append(run)
            results.append(result)
        assert results[0] == results[1], f"they differ: {results}"
    for name, runs in taken.items():
        seconds, used = (statistics.median(values) for values in zip(*runs, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in zip(taken["plain loop"], runs, strict=True))
        yield f"| {what} | {name} | {seconds:.1f} | {used:.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    smiles = molecules(options.corpus, max(options.pairs, options.pictures))
    generator = random.Random(0)
    references = smiles[: options.pairs]
    predictions = [mutated(text, generator) if at % 2 else text for at, text in enumerate(references)]
    texts = [
        mutated(text, generator) if generator.random() < WRONG else text
        for text in smiles[: options.pictures]
        for _ in range(options.models)
    ]

    def our_scores() -> dict[str, float]:
        found = evaluate(predictions, references, processes=options.processes).scores
        return {name: round(found[name].value, 9) for name in ("tanimoto", *EXACT)}

    def the_scores() -> dict[str, float]:
        return {name: round(value, 9) for name, value in plain_scores(predictions, references).items()}

    def our_known() -> int:
        return sum(value is not None for value in parse_all(texts, processes=options.processes).values())

    print(f"{options.processes} processes, {options.rounds} rounds.\n")
    print("| work | route | seconds | CPU seconds | ratio to the plain loop |")
    print("| :- | :- | -: | -: | -: |")
    what = f"evaluate, {len(references)} pairs, {len({*references, *predictions})} different texts"
    for row in rows(what, the_scores, our_scores, options.rounds):
        print(row, flush=True)
    what = f"known, {len(texts)} texts, {len(set(texts))} different"
    for row in rows(what, lambda: plain_known(texts), our_known, options.rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
