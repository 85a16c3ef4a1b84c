"""How fast five models vote, against the plain loop over pictures that asks RDKit about one text after the other.

    python tests/benchmarks/votes.py [--corpus CID-SMILES.gz] [--pictures 20000] [--rounds 3] [--processes 2]

The answers are made up: the molecules are those RDKit brings along, or of a corpus with lines ``CID<TAB>SMILES``; a
member reads most of them rightly, and others with a few characters changed, so that some answers are no SMILES. All
routes take turns, and a ratio is the median over the rounds of the plain loop's time divided by the route's. Parsing is
part of every route. The second table is of the methods alone, with all texts parsed, on ballots with a pool.
"""

import argparse
import gzip
import itertools
import random
import statistics
import tempfile
import time
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pandas as pd
from ocsrflow.chem.molecules import parse
from ocsrflow.chem.similarity import parse_all
from ocsrflow.ensemble.choose import choose
from ocsrflow.ensemble.vote import vote
from ocsrflow.ensemble.voting_methods import METHODS, Candidates, PoolEntry
from ocsrflow.runtime.files import write_json
from rdkit import Chem, DataStructs, RDConfig

RIGHT = (0.80, 0.76, 0.74, 0.72, 0.70)  # share of the pictures that each member reads rightly


def references(corpus: Path | None, count: int) -> list[str]:
    """SMILES of up to 100 characters; again from the beginning where there are too few."""
    if corpus:
        with gzip.open(corpus, "rt", encoding="ascii") as file:
            found = [line.split()[1] for line in itertools.islice(file, 2 * count)]
    else:
        text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
        found = [line.split()[0] for line in text.splitlines()]
    return list(itertools.islice(itertools.cycle([text for text in found if len(text) <= 100]), count))


def misread(text: str, generator: random.Random) -> str:
    """A text with up to three characters changed, left out or put in."""
    characters = list(text)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(characters))
        characters[at : at + 1] = generator.choice(["", characters[at] * 2, "C", "N", "O", "=C", "(C)"])
        characters = characters or ["C"]
    return "".join(characters)


def answers(texts: list[str]) -> list[tuple[str, ...]]:
    """What five members read in each picture: pictures that are hard for one are so for the others."""
    generator = random.Random(0)
    rows = []
    for text in texts:
        hard, wrong = generator.random(), [misread(text, generator) for _ in range(3)]
        rows.append(
            tuple(text if 0.7 * hard + 0.3 * generator.random() < right else generator.choice(wrong) for right in RIGHT)
        )
    return rows


@lru_cache(maxsize=200_000)
def fingerprint(text: str) -> DataStructs.ExplicitBitVect | None:
    molecule = parse(text)
    return None if molecule is None else Chem.RDKFingerprint(molecule)


def plain_vote(texts: tuple[str, ...]) -> int:
    """The pair rule as it was first written."""
    valid = [i for i, text in enumerate(texts) if fingerprint(text) is not None]
    if len(valid) < 2:
        return valid[0] if valid else 0
    similarity = {
        (i, j): DataStructs.TanimotoSimilarity(fingerprint(texts[i]), fingerprint(texts[j]))
        for i, j in itertools.combinations(valid, 2)
    }
    ranked = sorted(similarity, key=lambda pair: (-similarity[pair], pair))
    if similarity[ranked[0]] == 1.0:
        return ranked[0][0]
    points = [0] * len(texts)
    for worth, pair in zip(range(len(ranked), 0, -1), ranked, strict=True):
        for member in pair:
            points[member] += worth
    return max(valid, key=lambda i: (points[i], -i))


def plain(rows: list[tuple[str, ...]]) -> list[str]:
    fingerprint.cache_clear()
    return [row[plain_vote(row)] for row in rows]


def ours(rows: list[tuple[str, ...]], processes: int) -> list[str]:
    molecules = parse_all((text for row in rows for text in row), processes=processes)
    return [METHODS["pairs"](Candidates(row, (-0.1,) * len(row)), molecules).text for row in rows]


def files(folder: Path, rows: list[tuple[str, ...]], right: list[str]) -> dict[str, list[Path]]:
    """The predictions of the members, as the stage ``predict`` writes them."""
    for member in range(len(RIGHT)):
        table = {"cid": range(len(rows)), "reference": right, "prediction": [row[member] for row in rows]}
        pd.DataFrame(table).assign(log_probability=-0.1).to_parquet(folder / f"{member}.parquet", index=False)
        facts = {"name": f"m{member}", "key": f"m{member}", "seconds_per_image": 0.1, "device": "none"}
        write_json(folder / f"{member}.json", facts)
    members = range(len(RIGHT))
    return {
        "predictions": [folder / f"{member}.parquet" for member in members],
        "member_facts": [folder / f"{member}.json" for member in members],
    }


def clocked(route: object) -> tuple[float, object]:
    began = time.perf_counter()
    result = route()
    return time.perf_counter() - began, result


def routes(rows: list[tuple[str, ...]], right: list[str], rounds: int, processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = files(folder, rows, right)
        named = {
            "plain loop, pair rule only": lambda: plain(rows),
            "pair rule only, 1 process": lambda: ours(rows, 1),
            f"pair rule only, {processes} processes": lambda: ours(rows, processes),
            f"stage vote (pairs, medoid, votes, oracle), {processes} processes": lambda: vote(
                **given, name="e", folder=folder, methods=["pairs", "medoid", "votes"], processes=processes
            ),
            f"stage choose (best of 5), {processes} processes": lambda: choose(
                **given, name="e", out=folder / "choice.json", selection="best", processes=processes
            ),
        }
        taken, results = defaultdict(list), {}
        for _ in range(rounds):
            for title, route in named.items():
                seconds, results[title] = clocked(route)
                taken[title].append(seconds)
        expected, *others = (result for result in results.values() if result is not None)
        assert all(other == expected for other in others), "another text is taken"
        assert pd.read_parquet(folder / "e.parquet")["prediction"].tolist() == expected
    base = taken["plain loop, pair rule only"]
    print("| route | median s | lowest–highest | median ratio to the plain loop |")
    print("| :- | -: | -: | -: |")
    for title, seconds in taken.items():
        ratio = statistics.median(a / b for a, b in zip(base, seconds, strict=True))
        print(f"| {title} | {statistics.median(seconds):.1f} | {min(seconds):.1f}–{max(seconds):.1f} | {ratio:.2f} |")


def methods(rows: list[tuple[str, ...]], rounds: int, processes: int) -> None:
    generator = random.Random(1)
    of_pictures = []
    for row in rows:
        texts = dict.fromkeys([*row, *(misread(row[0], generator) for _ in range(10))])
        pool = [PoolEntry(t, tuple(-10 * generator.random() for _ in row), generator.random()) for t in texts]
        of_pictures.append(Candidates(row, (-0.1,) * len(row), tuple(pool)))
    molecules = parse_all((p.text for candidates in of_pictures for p in candidates.pool), processes=processes)
    taken = defaultdict(list)
    for _ in range(rounds):
        for name, method in METHODS.items():
            seconds, _ = clocked(lambda method=method: [method(own, molecules) for own in of_pictures])
            taken[name].append(seconds / len(of_pictures))
    print("\n| method, without parsing | median µs a picture | median ratio to pairs |")
    print("| :- | -: | -: |")
    for name, seconds in taken.items():
        ratio = statistics.median(a / b for a, b in zip(taken["pairs"], seconds, strict=True))
        print(f"| {name} | {1e6 * statistics.median(seconds):.0f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    right = references(options.corpus, options.pictures)
    rows = answers(right)
    different = {text for row in rows for text in row}
    invalid = sum(parse(text) is None for text in different)
    alike = sum(len(set(row)) == 1 for row in rows) / len(rows)
    print(
        f"{len(rows)} pictures, {len(RIGHT)} members, {len(different)} different texts ({invalid} invalid); "
        f"all members agree on {alike:.0%} of the pictures.\n"
    )
    routes(rows, right, options.rounds, options.processes)
    methods(rows[:2000], options.rounds, options.processes)


if __name__ == "__main__":
    main()
