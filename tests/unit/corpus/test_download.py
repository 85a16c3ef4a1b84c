"""The stage download: whole or not at all, checked, and clear about what is wrong.

What a server may do wrong is in tests/faults.
"""

import gzip
import hashlib
from pathlib import Path

import pytest
from ocsrflow.corpus.download import download
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.http import fetch
from support.data import gzipped
from support.servers import Server

DATA = gzipped("".join(f"{i}\tC{'C' * (i % 50)}\n" for i in range(50_000)))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "__kwdefaults__", {"attempts": 5, "longest_wait": 0.01})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_with_the_published_md5_arrives(tmp_path: Path, server: Server) -> None:
    server.files = {"/c.gz": DATA, "/c.gz.md5": f"{hashlib.md5(DATA).hexdigest()}  CID-SMILES.gz\n".encode()}
    out = tmp_path / "CID-SMILES.gz"
    download(kind="pubchem", out=out, url=f"{server.url}/c.gz", md5_url=f"{server.url}/c.gz.md5")
    assert out.read_bytes() == DATA
    assert names(tmp_path) == ["CID-SMILES.gz"]


def test_a_file_that_arrived_before_the_check_is_not_fetched_again(tmp_path: Path, server: Server) -> None:
    server.files = {"/c.gz": DATA}
    source = {"url": f"{server.url}/c.gz", "md5_url": f"{server.url}/c.gz.md5"}
    with pytest.raises(UserError, match=r"md5: the server answered 404"):
        download(kind="pubchem", out=tmp_path / "c.gz", **source)  # type: ignore[arg-type]
    assert [path for path, _ in server.requests] == ["/c.gz.md5"]
    server.files["/c.gz.md5"] = hashlib.md5(DATA).hexdigest().encode()
    (tmp_path / "c.gz.arrived").write_bytes(DATA)  # as if killed before the check
    download(kind="pubchem", out=tmp_path / "c.gz", **source)  # type: ignore[arg-type]
    assert [path for path, _ in server.requests] == ["/c.gz.md5"] * 2
    assert names(tmp_path) == ["c.gz"]


def test_a_finished_file_is_kept_until_another_one_is_whole(tmp_path: Path, server: Server) -> None:
    md5 = hashlib.md5(DATA).hexdigest().encode()
    source = {"url": f"{server.url}/c.gz", "md5_url": f"{server.url}/c.gz.md5"}
    server.files = {"/c.gz.md5": md5}
    (tmp_path / "c.gz").write_bytes(DATA)
    download(kind="pubchem", out=tmp_path / "c.gz", **source)  # type: ignore[arg-type]
    assert [path for path, _ in server.requests] == ["/c.gz.md5"]  # it is the one that is published
    (tmp_path / "c.gz").write_bytes(b"last year's")
    with pytest.raises(UserError, match="the server answered 404"):
        download(kind="pubchem", out=tmp_path / "c.gz", **source)  # type: ignore[arg-type]
    assert (tmp_path / "c.gz").read_bytes() == b"last year's"
    server.files["/c.gz"] = DATA
    download(kind="pubchem", out=tmp_path / "c.gz", **source)  # type: ignore[arg-type]
    assert (tmp_path / "c.gz").read_bytes() == DATA


def test_a_missing_file_is_reported_at_once(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(f"{server.url}/c.gz", tmp_path / "c.gz")
    assert len(server.requests) == 1


def test_an_unreachable_address_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch http://127\.0\.0\.1:9/c\.gz: no connection"):
        fetch("http://127.0.0.1:9/c.gz", tmp_path / "c.gz")
    assert names(tmp_path) == []


def test_the_embedded_molecules_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        download(kind="nci", out=tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "one.gz").read_bytes()).decode().splitlines()
    assert len(lines) == 4999
    assert lines[0] == "1\tCC1=CC(=O)C=CC1=O"
