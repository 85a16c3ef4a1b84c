"""Reading CID<TAB>SMILES lines in blocks: whatever the bytes, NumPy's way gives what judging line by line gives."""

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ocsrflow.corpus import cid_smiles
from ocsrflow.corpus.cid_smiles import LONGEST, Source, judge, scan
from ocsrflow.runtime.errors import UserError

PIECES = [
    b"\t",
    b"\r",
    b"\n",
    b" ",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"12",
    b"-",
    b"+",
    b"9" * 17,
    b"C",
    b"c1cc",
    b"[N+]",
]


@example([b"\r", b"\n"])  # two empty lines, the first of which is judged after the second
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_a_block_is_what_its_lines_are_one_by_one(pieces: list[bytes]) -> None:
    block = b"".join(pieces) + b"\n"
    expected, odd = [], {}
    for number, line in enumerate(block.split(b"\n")[:-1]):
        verdict = judge(line)
        if verdict.stop:
            expected.append((verdict.cid, line[verdict.begin : verdict.stop].decode("ascii"), number))
        if verdict.reason:
            count, first = odd.get(verdict.reason, (0, number))
            odd[verdict.reason] = (count + 1, first)
    found = scan(block, 9)
    assert list(zip(found.cids.tolist(), found.lengths.tolist(), found.numbers.tolist(), strict=True)) == [
        (cid, len(smiles), number) for cid, smiles, number in expected
    ]
    assert found.smiles.to_pylist() == [smiles for _, smiles, _ in expected if len(smiles) <= 9]
    assert found.short.tolist() == [len(smiles) <= 9 for _, smiles, _ in expected]
    assert {reason: (some.times, some.first) for reason, some in found.odd.items()} == odd
    assert found.total == block.count(b"\n")


@given(st.binary(max_size=400))
def test_no_bytes_stop_the_scan(data: bytes) -> None:
    assert scan(data + b"\n", 9).total == data.count(b"\n") + 1


def read(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for block in Source(path).lines(100, 2):
        found += zip(block.cids.tolist(), block.smiles.to_pylist(), strict=True)
    return found


@pytest.mark.parametrize("size", [7, 100, 1 << 22])
def test_blocks_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    generator = random.Random(5)
    rows = [(generator.randrange(10**12), "C" * generator.randrange(1, 40)) for _ in range(300)]
    text = "".join(f"{cid}\t{smiles}\n" for cid, smiles in rows)
    (tmp_path / "a").write_text(text.rstrip("\n"))  # the last line needs no newline
    (tmp_path / "a.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(cid_smiles, "BLOCK", size)
    assert read(tmp_path / "a") == read(tmp_path / "a.gz") == rows


def test_members_and_padding_of_gzip_are_read(tmp_path: Path) -> None:
    members = [gzip.compress(text) for text in (b"1\tC\n2\tN", b"", b"N\n3\tO\n")]
    (tmp_path / "a.gz").write_bytes(b"".join(members) + bytes(512))
    assert read(tmp_path / "a.gz") == [(1, "C"), (2, "NN"), (3, "O")]


@pytest.mark.parametrize("garbage", [b"garbage after the data", b"\x1f\x8b", gzip.compress(b"9\tC\n", mtime=0)[:-6]])
def test_what_follows_the_gzip_data_is_reported(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"1\tC\n" * 1000) + garbage)
    with pytest.raises(UserError, match="damaged or cut off, or something else follows"):
        read(tmp_path / "a.gz")


def test_a_name_that_only_says_gzip_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_text("1\tC\n")
    with pytest.raises(UserError, match="not a gzip file, whatever its name says"):
        read(tmp_path / "a.gz")


def test_gzip_is_known_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_bytes(gzip.compress(b"1\tC\n"))
    assert read(tmp_path / "corpus") == [(1, "C")]


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_an_empty_file_has_no_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert read(tmp_path / name) == []


def test_a_line_without_end_is_counted_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cid_smiles, "BLOCK", 1 << 18)
    (tmp_path / "a").write_bytes(b"1\tC\n2\t" + b"C" * (3 * LONGEST) + b"\n3\tN\n" + b"x" * (2 * LONGEST))
    blocks = list(Source(tmp_path / "a").lines(100, 1))
    assert np.concatenate([block.cids for block in blocks]).tolist() == [1, 3]
    odd = [(reason, some.times, len(some.line)) for block in blocks for reason, some in block.odd.items()]
    assert odd == [("endless_line", 1, cid_smiles.SHOWN)] * 2
    assert sum(block.total for block in blocks) == 4


def test_a_file_that_is_written_to_while_it_is_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cid_smiles, "BLOCK", 100)
    path = tmp_path / "a"
    path.write_text("1\tC\n" * 1000)
    blocks = Source(path).lines(100, 1)
    next(blocks)
    with open(path, "a") as file:
        file.write("2\tN\n")
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="written to while it was read"):
        list(blocks)
