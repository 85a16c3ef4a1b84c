"""The stage filter: what is kept, what is counted and why, and what stops it."""

import gzip
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.corpus.filter import Seen, filter_corpus
from ocsrflow.runtime.errors import UserError
from PIL import Image
from support.data import draw, gzipped


def run_filter(source: Path, folder: Path, **options: object) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    settings = {"max_length": 20} | options
    filter_corpus(
        source,
        kept=folder / "kept.parquet",
        lengths=folder / "lengths.csv",
        rejects=folder / "rejects.csv",
        **settings,  # type: ignore[arg-type]
    )
    return (
        pd.read_parquet(folder / "kept.parquet"),
        pd.read_csv(folder / "lengths.csv"),
        pd.read_csv(folder / "rejects.csv", keep_default_na=False),
    )


BAD = [
    (b"no tab here", "no_tab"),
    (b"12\t", "empty_smiles"),
    (b"13\tC\xff\xfeC", "not_ascii"),
    (b"14\t" + b"C" * 10_000, "too_long"),
    (b"1\tCCCC", "duplicate_cid"),
    (b"x7\tCC", "bad_cid"),
    (b"-3\tCC", "bad_cid"),
    (b"99999999999999999999\tCC", "bad_cid"),
    (b"1" * 10_000 + b"\tCC", "bad_cid"),
    (b"15\tCC CC", "white_space"),
    (b"", "empty_line"),
]


@pytest.mark.parametrize("suffix", [".txt", ".gz"])
def test_bad_lines_are_counted_by_reason_and_the_others_kept(tmp_path: Path, suffix: str) -> None:
    text = b"1\tCCO\n" + b"\n".join(line for line, _ in BAD) + b"\n2\tCCN\r\n4294967297\tc1ccccc1"
    source = tmp_path / f"corpus{suffix}"
    source.write_bytes(gzipped(text) if suffix == ".gz" else text)
    kept, lengths, rejects = run_filter(source, tmp_path)
    assert kept["cid"].tolist() == [1, 2, 4294967297]
    assert kept["smiles"].tolist() == ["CCO", "CCN", "c1ccccc1"]
    expected: dict[str, int] = {"crlf": 1}
    for _, reason in BAD:
        expected[reason] = expected.get(reason, 0) + 1
    assert dict(zip(rejects["reason"], rejects["count"], strict=True)) == expected
    dropped = dict(zip(rejects["reason"], rejects["dropped"], strict=True))
    assert not dropped.pop("crlf")
    assert all(dropped.values())
    assert rejects["example"].str.len().max() <= 60
    assert rejects.set_index("reason").loc["no_tab", "first_line"] == 2
    # The histogram is of all lengths, the rejected long ones too.
    assert dict(lengths.to_numpy().tolist()) == {3: 2, 8: 1, 10_000: 1}


def test_broken_lines_among_a_million_good_ones_change_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    letters = [a + b + c + d for a in "CNOS" for b in "CNOS" for c in "CNOS" for d in "CNOS"]
    # A molecule each: a chain of atoms that spells the number.
    chains = (letters[n & 255] + letters[n >> 8 & 255] + letters[n >> 16] + "C" * (n % 8) + "F" for n in range(10**6))
    good = [f"{3 * n + 1}\t{chain}".encode() for n, chain in enumerate(chains)]
    bad = [line for line, _ in BAD if not line.startswith((b"1\t", b"1" * 9))]
    bad += [b"7\tC\tN", b"\t", b"\0\1\2", b"8\tC\x7f"]
    spoiled = good.copy()
    for _ in range(10_000):
        spoiled[generator.randrange(1, len(good))] += b"\n" + generator.choice(bad)
    results = []
    for name, rows in (("good", good), ("spoiled", spoiled)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\n".join(rows), 1))
        kept, _, rejects = run_filter(tmp_path / f"{name}.gz", tmp_path / name)
        draw(tmp_path / name / "kept.parquet", tmp_path / f"{name}-sample", per_length=30, seed=4)
        results.append((kept, (tmp_path / f"{name}-sample" / "sample.parquet").read_bytes()))
    assert rejects.set_index("reason")["count"].drop(["too_long"]).sum() > 9000
    pd.testing.assert_frame_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_changed_source_is_reported_the_next_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "corpus"
    reported = []
    for text in ("1\tCC\n", "1\tCC\n", "1\tCC\n2\tCN\n"):
        source.write_text(text)
        run_filter(source, tmp_path, record=tmp_path / "source.json")
        reported.append("the source has changed" in capsys.readouterr().out)
    assert reported == [False, False, True]


def test_a_duplicate_cid_is_found_across_the_sizes_of_its_table(tmp_path: Path) -> None:
    cids = [1, 70_000_000, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**63 - 1]
    source = tmp_path / "corpus"
    source.write_text("".join(f"{cid}\tC\n" for cid in cids * 2))
    kept, _, rejects = run_filter(source, tmp_path)
    assert kept["cid"].tolist() == cids
    assert rejects["count"].tolist() == [7]


@given(st.lists(st.lists(st.sampled_from([0, 1, 9, 999, 1000, 1001, 2**33, 2**62]), max_size=9), max_size=12))
def test_what_was_seen_is_what_a_set_would_hold(blocks: list[list[int]]) -> None:
    seen, expected = Seen(), set[int]()
    seen.bitmap = 1000
    for block in blocks:
        new = [cid not in expected and cid not in block[:n] for n, cid in enumerate(block)]
        assert seen.add(np.array(block, np.int64)).tolist() == new
        expected.update(block)


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: data[:5000] + b"\0" * 9 + data[5009:]])
def test_a_damaged_gzip_is_one_line_and_leaves_nothing(tmp_path: Path, spoil) -> None:
    source = tmp_path / "corpus.gz"
    source.write_bytes(spoil(gzipped("".join(f"{i}\t{'C' * (i % 19 + 1)}O{i % 7}\n" for i in range(20000)))))
    with pytest.raises(UserError, match="damaged or cut off, or something else"):
        run_filter(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.gz"]


def test_a_source_without_a_usable_line_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    source.write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"no usable line \(no_tab 2\)"):
        run_filter(source, tmp_path)


def supplied_rows(tmp_path: Path, rows: str) -> Path:
    (tmp_path / "train.csv").write_text(rows)
    return tmp_path / "train.csv"


def supplied(tmp_path: Path, rows: str) -> Path:
    (tmp_path / "png").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20), "white").save(tmp_path / "png" / name)
    return supplied_rows(tmp_path, rows)


def test_supplied_pictures_come_with_their_names(tmp_path: Path) -> None:
    source = supplied(tmp_path, "file_name,SMILES\na.png,CCO\nb.png,CCN\n")
    kept, _, _ = run_filter(source, tmp_path, form="pictures", pictures=tmp_path / "png")
    assert kept[["smiles", "file"]].to_numpy().tolist() == [["CCO", "a.png"], ["CCN", "b.png"]]
    again, _, _ = run_filter(
        supplied_rows(tmp_path, "file_name,SMILES\nb.png,CCN\na.png,CCO\n"),
        tmp_path,
        form="pictures",
        pictures=tmp_path / "png",
    )
    assert again.iloc[::-1].to_numpy().tolist() == kept.to_numpy().tolist()


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    source = supplied(tmp_path, "file_name,SMILES\na.png,CCO\nc.png,CCN\n")
    with pytest.raises(UserError, match=r"line 3: no picture 'c\.png'"):
        run_filter(source, tmp_path, form="pictures", pictures=tmp_path / "png")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    source = supplied(tmp_path, "picture,SMILES\na.png,CCO\n")
    with pytest.raises(UserError, match="no column 'file_name'"):
        run_filter(source, tmp_path, form="pictures", pictures=tmp_path / "png")


@pytest.mark.parametrize("row", ["a.png,\n", "a.png,C C\n", "a.png,Cé\n"])
def test_a_picture_without_a_usable_smiles_is_counted(tmp_path: Path, row: str) -> None:
    source = supplied(tmp_path, f"file_name,SMILES\n{row}b.png,CCN\n")
    kept, _, rejects = run_filter(source, tmp_path, form="pictures", pictures=tmp_path / "png")
    assert kept["smiles"].tolist() == ["CCN"]
    assert rejects["count"].tolist() == [1]
