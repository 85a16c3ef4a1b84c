"""What holds of every input: of filter, sample, split, tokenizer, pack and the pair rule, each on its own."""

import functools
import gzip
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ocsrflow.chem.molecules import canonical, fraction
from ocsrflow.chem.tokenizer import VOCABULARY, decode, encode
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.depiction.plain import draw as draw_picture
from ocsrflow.ensemble.voting_methods import pair_points, pair_vote
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import SPLITS, Packed
from ocsrflow.pictures.render import render
from ocsrflow.runtime.errors import UserError
from rdkit import Chem
from support.data import draw, write_kept

# Each example of these runs a stage, which takes tens of milliseconds.
STAGES = settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)

# Texts of few lengths of which some are spellings of one molecule, and some are none.
ACIDS = [f"{'C' * n}C(=O)O" for n in range(5)] + [f"OC(=O)C{'C' * n}" for n in range(5)]
RINGS = ["c1ccccc1", "C1=CC=CC=C1", "C1CCCCC1", "c1ccncc1", "n1ccccc1", "C1CC1", "O=C=O"]
CHAINS = [a + b + c + d for a in "CNO" for b in "CS" for c in "CNO" for d in "CFO"]
BROKEN = ["C(C", "c1ccccc", "C1CC", "[Xx]", "CC(C)(C)(C)C", "F(C)C"]
texts = st.sampled_from([*ACIDS, *RINGS, *CHAINS, *BROKEN])
sources = st.dictionaries(st.integers(0, 2**62), texts, min_size=20, max_size=120)


# filter

LINES = [b"1\tCCO", b"2\tCC\r", b"3\tC C", b"\t", b"", b"4", b"x\tC", b"5\tCCCCCCCCCC", b"\xff", b"\r"]


@STAGES
@given(st.lists(st.sampled_from(LINES) | st.binary(max_size=12), max_size=40), st.booleans(), st.integers(1, 12))
def test_filter_keeps_or_counts_every_line(rows: list[bytes], packed: bool, max_length: int) -> None:
    data = b"\n".join([b"9000\tC", *rows])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").write_bytes(gzip.compress(data) if packed else data)
        files = {key: folder / key for key in ("kept", "lengths", "rejects", "record")}
        filter_corpus(folder / "source", max_length=max_length, **files)
        kept, lengths = pd.read_parquet(folder / "kept"), pd.read_csv(folder / "lengths")
        rejects = pd.read_csv(folder / "rejects", keep_default_na=False).set_index("reason")
        about = json.loads((folder / "record").read_text())
    # A last line that is empty is none: its newline ended the one before.
    assert about["lines"] == data.removesuffix(b"\n").count(b"\n") + 1
    assert len(kept) == about["kept"]
    assert len(kept) + rejects.loc[rejects["dropped"].astype(bool), "count"].sum() == about["lines"]
    assert kept["cid"].is_unique
    assert (kept["smiles"].str.len() == kept["length"]).all()
    assert kept["length"].max() <= max_length
    # The histogram is of all molecules, the long ones too.
    too_long = rejects["count"].get("too_long", 0)
    assert lengths["count"].sum() == len(kept) + too_long
    short = lengths[lengths["length"] <= max_length].set_index("length")["count"].to_dict()
    assert short == kept["length"].value_counts().to_dict()


# split


@given(st.floats(0.001, 0.49), st.floats(0.001, 0.49), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_splits_have_their_shares_whatever_they_are(validation: float, test: float, seed: int) -> None:
    count = 4000
    at = np.array([fraction(f"molecule {n}", seed) for n in range(count)])
    for low, high in ((0, test), (test, test + validation), (test + validation, 1)):
        share = high - low
        # Six standard deviations of a binomial distribution, and some for rare events.
        assert abs(((low <= at) & (at < high)).sum() - count * share) < 6 * (count * share * (1 - share)) ** 0.5 + 8


def splits_of(rows: pd.DataFrame) -> dict[str, str]:
    return dict(zip(rows["canonical"], rows["split"], strict=True))


class Drawn(NamedTuple):
    """A data set: with its spares, and without."""

    all: pd.DataFrame
    rows: pd.DataFrame


def drawn(source: dict[int, str], **options: object) -> Drawn | None:
    """A draw from some molecules; None where a split would be empty."""
    with tempfile.TemporaryDirectory() as name:
        kept = write_kept(Path(name) / "kept.parquet", list(source), list(source.values()))
        try:
            rows = draw(kept, Path(name), **{"validation": 0.3, "test": 0.3, **options})
        except UserError as error:
            if "no molecule in the" not in str(error):
                raise
            return None
        return Drawn(pd.read_parquet(Path(name) / "sample.parquet"), rows)


@STAGES
@given(st.lists(sources, min_size=2, max_size=3), st.integers(0, 2**32 - 1), st.data())
def test_a_molecule_is_in_the_same_split_of_every_data_set(
    of_each: list[dict[int, str]], split_seed: int, data: st.DataObject
) -> None:
    known: dict[str, str] = {}
    drawings = 0
    for source in of_each:
        options = {"seed": data.draw(st.integers(0, 9)), "per_length": data.draw(st.none() | st.integers(1, 20))}
        found = drawn(source, split_seed=split_seed, **options)
        if found is None:
            continue
        drawings += 1
        for text, split in splits_of(found.all).items():
            assert known.setdefault(text, split) == split
            at = fraction(text, split_seed)
            assert split == ("test" if at < 0.3 else "validation" if at < 0.6 else "train")
    assume(drawings > 1)


def test_another_seed_is_another_split(kept: Path, tmp_path: Path) -> None:
    one, two = (splits_of(draw(kept, tmp_path / str(s), size=500, split_seed=s)) for s in (1, 2))
    assert one.keys() == two.keys()  # the draw does not change with it
    assert 0.6 < np.mean([one[text] == two[text] for text in one]) < 0.72  # 0.8² + 0.1² + 0.1² = 0.66 by chance


def test_a_larger_share_of_the_test_split_takes_nothing_out_of_it(kept: Path, tmp_path: Path) -> None:
    small, large = (splits_of(draw(kept, tmp_path / str(t), size=500, test=t)) for t in (0.1, 0.3))
    assert {text for text in small if small[text] == "test"} < {text for text in large if large[text] == "test"}


# sample


@STAGES
@given(sources, st.none() | st.integers(1, 12), st.none() | st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_a_draw_is_uniform_and_has_no_molecule_twice(
    source: dict[int, str], per_length: int | None, size: int | None, seed: int
) -> None:
    found = drawn(source, per_length=per_length, size=size, seed=seed)
    assume(found is not None)
    assert found is not None
    assert found.all["canonical"].is_unique
    assert found.all["cid"].is_unique
    for row in found.all.itertuples():
        assert source[row.cid] == row.smiles
        assert canonical(row.smiles) == row.canonical
        assert len(row.smiles) == row.length
    usable = {canonical(text) for text in source.values()} - {None}
    assert len(found.rows) <= min(len(usable), size or len(usable))
    counts = found.rows["length"].value_counts()
    if per_length is None:
        assert len(found.rows) == min(len(usable), size or len(usable))
        return
    assert counts.max() <= per_length
    if size is None:
        for length in {len(text) for text in source.values()}:
            others = set(found.rows.loc[found.rows["length"] != length, "canonical"])
            own = {canonical(text) for text in source.values() if len(text) == length} - {None}
            got = counts.get(length, 0)
            # A molecule that has a spelling of another length may have been drawn there.
            assert min(per_length, len(own - others)) <= got <= min(per_length, len(own))


@STAGES
@given(sources, st.integers(1, 12), st.randoms(use_true_random=False), st.integers(1, 50))
def test_the_order_and_the_blocks_of_a_source_do_not_matter(source, per_length, random, block) -> None:
    found = drawn(source, per_length=per_length)
    order = list(source)
    random.shuffle(order)
    with tempfile.TemporaryDirectory() as name:
        table = pd.DataFrame({"cid": order, "smiles": [source[cid] for cid in order], "file": None})
        table["length"] = table["smiles"].str.len().astype("uint16")
        table["file"] = table["file"].astype("string")
        table.to_parquet(Path(name) / "kept.parquet", index=False, row_group_size=block)
        if found is None:
            with pytest.raises(UserError, match="no molecule in the"):
                draw(Path(name) / "kept.parquet", Path(name), per_length=per_length, validation=0.3, test=0.3)
            return
        again = draw(Path(name) / "kept.parquet", Path(name), per_length=per_length, validation=0.3, test=0.3)
    pd.testing.assert_frame_equal(found.rows, again)


def test_the_number_of_processes_does_not_matter(kept: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        draw(kept, tmp_path / str(processes), size=300, processes=processes)
    one, two = ((tmp_path / str(n) / "sample.parquet").read_bytes() for n in (1, 2))
    assert one == two


# tokenizer

BONDS = ["", "-", "=", "#", "$", ":", "/", "\\", ".", "~", "->"]
ELEMENTS = [Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, 119)]


@given(st.integers(0, 4000), st.integers(0, 2**31 - 1), st.booleans(), st.booleans())
def test_every_spelling_of_a_molecule_comes_back(
    nci: list[str], at: int, seed: int, kekule: bool, hydrogens: bool
) -> None:
    molecule = Chem.MolFromSmiles(nci[at % len(nci)])
    if kekule:
        Chem.Kekulize(molecule, clearAromaticFlags=True)
    (text,) = Chem.MolToRandomSmilesVect(molecule, 1, seed % 2**31 or 1, kekuleSmiles=kekule, allHsExplicit=hydrogens)
    assert decode(encode(text).tolist()) == text


@given(
    st.lists(
        st.tuples(
            st.sampled_from(ELEMENTS), st.integers(0, 300), st.sampled_from(["", "@", "@@"]), st.integers(0, 9),
            st.integers(-9, 9), st.integers(0, 999), st.sampled_from(BONDS),
        ),
        min_size=1, max_size=12,
    ),
    st.integers(1, 99),
)  # fmt: skip
def test_every_atom_that_can_be_written_comes_back(
    atoms: list[tuple[str, int, str, int, int, int, str]], ring: int
) -> None:
    text = ""
    closure = str(ring) if ring < 10 else f"%{ring}"
    for n, (element, isotope, chirality, hydrogens, charge, label, bond) in enumerate(atoms):
        text += f"[{isotope or ''}{element}{chirality}{f'H{hydrogens}' if hydrogens else ''}"
        text += f"{f'{charge:+}' if charge else ''}{f':{label}' if label else ''}]"
        text += closure if n in (0, len(atoms) - 1) and len(atoms) > 2 else ""
        text += bond if n < len(atoms) - 1 else ""
    tokens = encode(text).tolist()
    assert decode(tokens) == "".join(VOCABULARY[token] for token in tokens) == text


@pytest.fixture(scope="module")
def nci(kept: Path) -> list[str]:
    return pd.read_parquet(kept)["smiles"].tolist()


# pack

PIXELS = Depiction(size=32, palette="black_and_white")


class Shelf(NamedTuple):
    """Drawn molecules, and the folder with their pictures."""

    folder: Path
    smiles: list[str]  # that of CID n is number n - 1


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Molecules drawn by the stage render; two cannot be drawn, and one has a picture but a text without tokens."""
    folder = tmp_path_factory.mktemp("shelf")
    smiles = [*dict.fromkeys([*ACIDS, *RINGS, *CHAINS[:20]]), "C(C", "[Xx]", "CS"]
    table = pd.DataFrame({"cid": range(1, len(smiles) + 1), "smiles": smiles, "file": [None] * len(smiles)})
    table["split"] = "train"
    table.to_parquet(folder / "sample.parquet", index=False)
    render(
        folder / "sample.parquet", store=folder / "store", out=folder / "all.parquet",
        rejects=folder / "render-0.csv", depiction=PIXELS,
    )  # fmt: skip
    refused = pd.read_csv(folder / "render-0.csv")["cid"].tolist()
    assert [smiles[cid - 1] for cid in refused] == ["C(C", "[Xx]"]
    smiles[-1] = "CS |$R$|"
    return Shelf(folder, smiles)


def has_tokens(smiles: str) -> bool:
    try:
        encode(smiles)
    except ValueError:
        return False
    return True


@STAGES
@given(st.data())
def test_what_is_packed_is_what_is_read(shelf: Shelf, data: st.DataObject) -> None:
    cids = data.draw(st.lists(st.integers(1, len(shelf.smiles)), min_size=1, max_size=30, unique=True))
    spares = data.draw(st.integers(0, len(cids) - 1))
    by_length = data.draw(st.booleans())
    shards = data.draw(st.integers(1, 3))
    lost = set(data.draw(st.lists(st.sampled_from(cids), max_size=4)))  # have no picture, for whatever reason
    rows = pd.DataFrame({"cid": cids, "smiles": [shelf.smiles[cid - 1] for cid in cids]})
    rows["canonical"] = rows["smiles"].map(lambda text: canonical(text) or text)
    rows["length"] = rows["smiles"].str.len()
    rows["split"] = data.draw(st.lists(st.sampled_from(SPLITS), min_size=len(cids), max_size=len(cids)))
    rows["spare"] = np.arange(len(cids)) >= len(cids) - spares
    index = pd.read_parquet(shelf.folder / "all.parquet")
    index = index[index["cid"].isin(set(cids) - lost)]

    # As the stage's description says it: a spare takes the place of one that was left out, of its length where asked.
    expected, refused, open_places = [], 0, Counter[int]()
    for row in rows.itertuples():
        key = row.length if by_length else 0
        if row.spare and not open_places[key]:
            continue
        if row.cid not in set(index["cid"]) or not has_tokens(row.smiles):
            refused += 1
            open_places[key] += not row.spare
            continue
        open_places[key] -= row.spare
        expected.append(row)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notes = {"sample": "{}", "spares": "length" if by_length else "any"}
        pq.write_table(pa.Table.from_pandas(rows).replace_schema_metadata(notes), folder / "sample.parquet")
        for shard in range(shards):
            index[index["cid"] % shards == shard].to_parquet(folder / f"{shard}.parquet", index=False)
        files = {key: folder / key for key in ("out", "tokens", "vocabulary", "rejects")}
        stage = functools.partial(
            pack, folder / "sample.parquet", folder, store=shelf.folder / "store", shards=shards, **files
        )
        if not expected:
            with pytest.raises(UserError, match="no molecule has both a picture and tokens"):
                stage()
            return
        stage()
        found = Packed(folder / "out")
        everything = range(len(found))
        assert found.cid.tolist() == [row.cid for row in expected]
        assert [SPLITS[split] for split in found.split] == [row.split for row in expected]
        assert found.text("smiles", everything) == [row.smiles for row in expected]
        assert found.text("canonical", everything) == [row.canonical for row in expected]
        pictures = found.pictures(everything)
        for at, row in enumerate(expected):
            assert decode(found.tokens_of(at)) == row.smiles
            drawing = draw_picture(Chem.MolFromSmiles(row.smiles), PIXELS, row.cid)
            np.testing.assert_array_equal(pictures[at].transpose(1, 2, 0), drawing)
        entries = json.loads((folder / "tokens").read_text())
        assert [(entry["cid"], decode(entry["tokens"])) for entry in entries] == [(r.cid, r.smiles) for r in expected]
        assert pd.read_csv(folder / "rejects")["count"].sum() == refused


# The pair rule


def plain_points(ranking: Sequence[tuple[int, int]], members: int) -> list[int]:
    """Points of all members, as the design words it: the best of n pairs gives n to both, the next n - 1 …"""
    return [sum(len(ranking) - place for place, pair in enumerate(ranking) if m in pair) for m in range(members)]


@given(st.data(), st.integers(2, 7))
def test_the_points_are_those_of_the_ranking(data: st.DataObject, members: int) -> None:
    ranking = data.draw(st.permutations(list(itertools.combinations(range(members), 2))))
    similarity = {pair: 0.99 - place / 100 for place, pair in enumerate(ranking)}
    points = pair_points(similarity, members)
    assert list(points) == plain_points(ranking, members)
    # Whatever the ranking, n pairs give n (n + 1) points in all: with three members 12, as the slides' 5, 4 and 3.
    assert sum(points) == len(ranking) * (len(ranking) + 1)
    if members == 3:
        best, second, third = ranking
        places = {*best} & {*second}, {*best} & {*third}, {*second} & {*third}
        assert [points[place.pop()] for place in places] == [5, 4, 3]


def matrix(similarity: dict[tuple[int, int], float], members: int) -> list[list[float]]:
    return [[1.0 if i == j else similarity[min(i, j), max(i, j)] for j in range(members)] for i in range(members)]


@given(st.data(), st.integers(2, 6))
def test_only_the_order_of_similarities_counts(data: st.DataObject, members: int) -> None:
    pairs = list(itertools.combinations(range(members), 2))
    steps = data.draw(st.lists(st.integers(0, 5), min_size=len(pairs), max_size=len(pairs)))
    one = dict(zip(pairs, (step / 10 for step in steps), strict=True))
    two = dict(zip(pairs, (step**3 / 1000 for step in steps), strict=True))
    everybody = range(members)
    assert pair_vote(matrix(one, members), everybody) == pair_vote(matrix(two, members), everybody)


@given(st.data(), st.integers(2, 6))
def test_another_order_of_the_members_is_the_same_winner_where_nothing_ties(data: st.DataObject, members: int) -> None:
    ranking = data.draw(st.permutations(list(itertools.combinations(range(members), 2))))
    similarity = {pair: 0.99 - place / 100 for place, pair in enumerate(ranking)}
    found = pair_vote(matrix(similarity, members), range(members))
    order = data.draw(st.permutations(range(members)))  # member order[i] comes as number i
    moved = {(i, j): similarity[min(order[i], order[j]), max(order[i], order[j])] for i, j in similarity}
    again = pair_vote(matrix(moved, members), range(members))
    assert [found.points[member] for member in order] == list(again.points)
    most = [member for member in range(members) if found.points[member] == max(found.points)]
    assert found.winner == most[0]
    assert order[again.winner] == next(member for member in order if member in most)


@given(st.data(), st.integers(2, 5))
def test_invalid_members_change_nothing(data: st.DataObject, members: int) -> None:
    pairs = list(itertools.combinations(range(members), 2))
    values = data.draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=len(pairs), max_size=len(pairs)))
    alone = matrix(dict(zip(pairs, values, strict=True)), members)
    total = members + data.draw(st.integers(1, 3))
    valid = sorted(data.draw(st.permutations(range(total)))[:members])
    padded = [[0.0] * total for _ in range(total)]
    for (a, i), (b, j) in itertools.product(enumerate(valid), repeat=2):
        padded[i][j] = alone[a][b]
    found, expected = pair_vote(padded, valid), pair_vote(alone, range(members))
    assert found.winner == valid[expected.winner]
    assert [found.points[i] for i in valid] == list(expected.points)
    assert sum(found.points) == sum(expected.points)
