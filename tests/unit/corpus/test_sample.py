"""The stage sample: a draw that depends on the seed and the molecules alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.chem.molecules import canonical, fraction
from ocsrflow.corpus.hash_sample import Lowest, hash64
from ocsrflow.runtime.errors import UserError
from support.data import draw, write_kept


def splitmix64(state: int) -> int:
    """The first number of Vigna's splitmix64.c from a state, in plain Python."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_hash_is_what_its_documentation_says() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first number of the seed 0
    cids = np.array([0, 1, 2, 999_999_999, 2**40], dtype=np.int64)
    for seed in (0, 1, 2**33):
        expected = [splitmix64((int(cid) + splitmix64(seed)) % 2**64) for cid in cids]
        assert hash64(cids, seed).tolist() == expected
    # Anything else would change every data set.
    assert hash64(cids[:1], 0).tolist() == [12035550249420947055]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=200, unique_by=lambda row: row[1]),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
    st.integers(1, 50),
)
def test_the_lowest_of_each_group_are_those_that_sorting_gives(
    rows: list[tuple[int, int]], limits: list[int], step: int
) -> None:
    lowest = Lowest(np.array(limits))
    lowest.HELD = 5
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        groups, hashes = np.array([g for g, _ in part]), np.array([h for _, h in part], np.uint64)
        lowest.add(groups, hashes, np.arange(at, at + len(part)))
    expected = []
    for group, limit in enumerate(limits):
        of_group = sorted((value, n) for n, (g, value) in enumerate(rows) if g == group)
        expected += [(group, n) for _, n in of_group[:limit]]
    assert list(zip(*(array.tolist() for array in lowest.result()), strict=True)) == expected


def plainly(kept: Path, max_length: int, per_length: int | None, size: int | None, seed: int) -> list[int]:
    """The CIDs of a draw, as the module's description says it."""
    rows = pd.read_parquet(kept)
    rows = rows[rows["length"] <= max_length]
    rows["hash"] = [splitmix64((cid + splitmix64(seed)) % 2**64) for cid in rows["cid"].tolist()]
    rows["group"] = rows["length"] if per_length else 0
    queues = {
        group: list(part.sort_values("hash")[["cid", "smiles"]].itertuples(index=False))
        for group, part in rows.groupby("group")
    }
    if per_length is None:
        order = [0] * len(rows)
    else:
        slots = [(rank, group) for group, queue in queues.items() for rank in range(min(per_length, len(queue)))]
        if size is not None:
            first = splitmix64(seed + 2**32)
            slots.sort(key=lambda slot: splitmix64(((slot[1] << 32) + slot[0] + first) % 2**64))
        else:
            slots.sort()
        order = [group for _, group in slots]
    chosen, known = [], set()
    for group in order:
        while queues[group] and (size is None or len(chosen) < size):
            cid, smiles = queues[group].pop(0)
            text = canonical(smiles)
            if text and text not in known:
                known.add(text)
                chosen.append(cid)
                break
    return chosen


@pytest.mark.parametrize(
    ("per_length", "size"), [(None, None), (None, 150), (7, None), (7, 60), (40, 5000), (None, 10**6)]
)
def test_a_draw_is_what_its_description_says(
    kept: Path, tmp_path: Path, per_length: int | None, size: int | None
) -> None:
    rows = draw(kept, tmp_path, max_length=18, per_length=per_length, size=size, seed=9)
    assert rows["cid"].tolist() == plainly(kept, 18, per_length, size, 9)


def test_a_group_that_RDKit_refuses_is_topped_up_beyond_what_was_fetched(tmp_path: Path) -> None:
    smiles = ["C(CCCCC"] * 4000 + [f"C{a}C{b}C{c}F" for a in "NOS" for b in "NOS" for c in "NOS"]
    cids = np.argsort(np.argsort(hash64(np.arange(len(smiles)), 0)))  # the good ones anywhere
    order = np.argsort(hash64(np.arange(len(smiles)), 0))
    spread = np.empty(len(smiles), object)
    spread[order] = smiles  # the good ones last
    write_kept(tmp_path / "kept.parquet", np.arange(len(smiles)), list(spread))
    assert len(cids) == len(smiles)
    rows = draw(tmp_path / "kept.parquet", tmp_path, per_length=20, validation=0.3, test=0.3)
    assert len(rows) == 20
    rejects = pd.read_csv(tmp_path / "rejects.csv")
    assert rejects["count"].tolist() == [4000]


def test_spares_follow_the_sample(kept: Path, tmp_path: Path) -> None:
    for name, options, spares in (("a", {"size": 1100}, 2), ("b", {"per_length": 5}, None), ("c", {}, 0)):
        rows = draw(kept, tmp_path / name, **options)
        whole = pd.read_parquet(tmp_path / name / "sample.parquet")
        extra = whole[whole["spare"]]
        assert not set(extra["cid"]) & set(rows["cid"])
        assert not set(extra["canonical"]) & set(rows["canonical"])
        if spares is not None:
            assert len(extra) == spares
        else:  # one of each length that has one
            assert extra["length"].value_counts().max() == 1
            assert len(extra) > 8


def test_a_damaged_file_of_molecules_is_reported(kept: Path, tmp_path: Path) -> None:
    data = bytearray(kept.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    for name, spoiled in (("cut", data[:-100]), ("flipped", data)):
        (tmp_path / name).write_bytes(bytes(spoiled))
        with pytest.raises(UserError, match="not a whole file of filtered molecules"):
            draw(tmp_path / name, tmp_path / f"{name}-out", size=200)


def test_order_and_row_groups_of_the_source_do_not_matter(kept: Path, tmp_path: Path) -> None:
    shuffled = pd.read_parquet(kept).sample(frac=1, random_state=3)
    shuffled.to_parquet(tmp_path / "shuffled.parquet", row_group_size=777, index=False)
    one = draw(kept, tmp_path / "one", per_length=10, size=90)
    two = draw(tmp_path / "shuffled.parquet", tmp_path / "two", per_length=10, size=90)
    assert len(one) == 90
    pd.testing.assert_frame_equal(one, two)


def test_a_smaller_draw_is_contained_in_a_larger_one(kept: Path, tmp_path: Path) -> None:
    small, large = (set(draw(kept, tmp_path / str(k), per_length=k)["cid"]) for k in (5, 12))
    assert small < large
    small, large = (set(draw(kept, tmp_path / str(n), size=n)["cid"]) for n in (100, 400))
    assert len(small) == 100
    assert small < large


def test_every_length_gets_its_share_where_the_source_has_it(kept: Path, tmp_path: Path) -> None:
    rows = draw(kept, tmp_path, per_length=12)
    lengths = pd.read_csv(tmp_path / "lengths.csv", keep_default_na=False)
    counts = rows["smiles"].str.len().value_counts()
    for length, available, wanted, got, _ in lengths.itertuples(index=False):
        assert wanted == 12
        assert got == counts.get(length, 0) <= min(available, 12)
    assert lengths["length"].tolist() == list(range(1, 21))
    assert (lengths["got"] == 12).sum() > 8
    # Why there are fewer is said wherever there are.
    assert ((lengths["why"] == "") == (lengths["got"] == 12)).all()
    assert lengths["why"].str.match(r"the source has \d+").sum() > 2


def test_seeds_draw_differently(kept: Path, tmp_path: Path) -> None:
    one, two = (set(draw(kept, tmp_path / str(s), size=200, seed=s)["cid"]) for s in (1, 2))
    assert 0 < len(one & two) < 150


def test_no_molecule_is_in_two_splits_of_any_data_sets(kept: Path, tmp_path: Path) -> None:
    draws = [
        draw(kept, tmp_path / "a", per_length=40, seed=1),
        draw(kept, tmp_path / "b", size=600, seed=2),
        draw(kept, tmp_path / "c", max_length=30, size=900, seed=3),
    ]
    rows = pd.concat(draws)
    assert rows["canonical"].duplicated().sum() > 100
    assert rows.groupby("canonical")["split"].nunique().max() == 1
    at = rows["canonical"].map(lambda text: fraction(text, 0))
    expected = np.select([at < 0.1, at < 0.2], ["test", "validation"], "train")
    assert rows["split"].tolist() == expected.tolist()
    assert rows["split"].value_counts(normalize=True)["train"] == pytest.approx(0.8, abs=0.04)
    assert not any(table["canonical"].duplicated().any() for table in draws[1:])


def test_what_cannot_be_used_is_counted_and_the_next_takes_its_place(tmp_path: Path) -> None:
    # Of the first molecules in the order of the hash, some cannot be parsed and some come twice.
    cids = np.arange(1, 401)
    order = np.argsort(hash64(cids, 0))
    smiles = np.array([f"{'C' * (i % 7 + 1)}{'O' if i % 2 else 'N'}" for i in range(400)], dtype=object)
    smiles = np.array([f"{text:C<9}" for text in smiles], dtype=object)
    unique = [f"C{a}C{b}C{c}C{d}F" for a in "NOS" for b in "NOS" for c in "NOS" for d in "NOS"]
    smiles[order[:81]] = unique
    smiles[order[3]], smiles[order[4]] = "CCCC(CCCC", smiles[order[0]]
    write_kept(tmp_path / "kept.parquet", cids, list(smiles))
    rows = draw(tmp_path / "kept.parquet", tmp_path / "out", per_length=50, validation=0.2, test=0.2)
    assert len(rows) == 50
    assert set(rows["cid"]) == set(cids[order[[0, 1, 2, *range(5, 52)]]])
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    assert dict(zip(rejects["reason"], rejects["count"], strict=True)) == {"duplicate_molecule": 1, "not_parsed": 1}


@pytest.mark.parametrize("per_length", [None, 5])
def test_a_source_without_molecules_that_short_is_reported(tmp_path: Path, per_length: int | None) -> None:
    write_kept(tmp_path / "kept.parquet", [1], ["CCCCCCCC"])
    with pytest.raises(UserError, match="no molecule in the train split of 0"):
        draw(tmp_path / "kept.parquet", tmp_path, max_length=3, per_length=per_length)


def test_several_supplied_pictures_of_one_molecule_are_kept(tmp_path: Path) -> None:
    files = [f"{i}.png" for i in range(60)]
    smiles = [f"{'C' * k}{x}" for k in range(2, 7) for x in ("O", "N", "F", "Cl")] * 3
    write_kept(tmp_path / "kept.parquet", range(60), smiles, files)
    rows = draw(tmp_path / "kept.parquet", tmp_path, validation=0.3, test=0.3)
    assert len(rows) == 60


def test_an_empty_split_is_reported(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no molecule in the .* split"):
        draw(kept, tmp_path, size=5)


def splits_of(rows: pd.DataFrame) -> dict[str, str]:
    return dict(zip(rows["canonical"], rows["split"], strict=True))


def test_another_seed_is_another_split(kept: Path, tmp_path: Path) -> None:
    one, two = (splits_of(draw(kept, tmp_path / str(s), size=500, split_seed=s)) for s in (1, 2))
    assert one.keys() == two.keys()  # the draw does not change with it
    assert 0.6 < np.mean([one[text] == two[text] for text in one]) < 0.72  # 0.8² + 0.1² + 0.1² = 0.66 by chance


def test_a_larger_share_of_the_test_split_takes_nothing_out_of_it(kept: Path, tmp_path: Path) -> None:
    small, large = (splits_of(draw(kept, tmp_path / str(t), size=500, test=t)) for t in (0.1, 0.3))
    assert {text for text in small if small[text] == "test"} < {text for text in large if large[text] == "test"}


def test_the_number_of_processes_does_not_matter(kept: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        draw(kept, tmp_path / str(processes), size=300, processes=processes)
    one, two = ((tmp_path / str(n) / "sample.parquet").read_bytes() for n in (1, 2))
    assert one == two
