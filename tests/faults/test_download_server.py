"""A server that does all that servers do wrong: the file arrives byte for byte, or one line says why not.

Where a fault can pass, the same call survives it; where it cannot, the next call does, once the server is right again.
"""

import hashlib
import http.server
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocsrflow.corpus.download import download
from ocsrflow.runtime import http as module
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.progress import progress
from support.faults import FULL, Faults
from support.servers import Server
from support.waiting import PATIENCE

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(len(DATA))  # as long

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.fetch, "__kwdefaults__", {"attempts": 5, "longest_wait": 0.01})
    monkeypatch.setattr(module, "TIMEOUT", (PATIENCE, PATIENCE))


@pytest.fixture
def corpus(server: Server) -> Server:
    """A server with a file and its md5 sum."""
    publish(server, DATA)
    return server


def publish(server: Server, data: bytes) -> None:
    server.files = {"/c.gz": data, "/c.gz.md5": hashlib.md5(data).hexdigest().encode()}


def get(server: Server, out: Path) -> None:
    download(kind="pubchem", out=out, url=f"{server.url}/c.gz", md5_url=f"{server.url}/c.gz.md5")


def arrives(server: Server, out: Path) -> None:
    """Fetch, and compare: the file is there byte for byte, and nothing else."""
    get(server, out)
    assert out.read_bytes() == server.files["/c.gz"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def answer(body: bytes = b"", *, status: int = 200, reset: bool = False, **headers: object) -> Answer:
    """An answer as given, after which the connection is closed, or reset."""

    def give(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        handler.close_connection = True

    return give


def cut(server: Server, count: int, **options: bool) -> Answer:
    """The right answer, as far as so many bytes of the body."""

    def give(handler: Handler) -> None:
        asked = handler.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        rest = DATA[start:]
        headers = {"Content_Length": len(rest), "ETag": server.etag}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        server.sent["/c.gz"] += min(count, len(rest))
        answer(rest[:count], status=206 if start else 200, **options, **headers)(handler)

    return give


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_drops_at_random_bytes(corpus: Server, tmp_path: Path, faults: Faults, how: str) -> None:
    drops = 20
    for seed in range(20 if FULL else 1):
        dice = random.Random(seed)
        # Some bytes of the file more each time; sometimes none at all.
        steps = [dice.choice([0, 1, dice.randrange(len(DATA) // drops)]) for _ in range(drops)]
        corpus.sent.clear()
        corpus.answers["/c.gz"] = [cut(corpus, step, reset=how == "reset") for step in steps]
        with faults.tried(f"connection {how}", "download", drops) as fault:
            for _ in range(drops):  # where five tries in a row bring nothing, the user starts it again
                try:
                    arrives(corpus, tmp_path / "c.gz")
                    break
                except UserError as error:
                    assert "cannot fetch" in str(error)  # noqa: PT017
            assert (tmp_path / "c.gz").read_bytes() == DATA
            assert corpus.answers["/c.gz"] == []
            fault.lost(corpus.sent["/c.gz"] - len(DATA), "bytes")
            if how == "closed":  # what a reset takes with it may be lost on the way
                assert corpus.sent["/c.gz"] == len(DATA)
        (tmp_path / "c.gz").unlink()


@pytest.mark.parametrize("more", [1000, -1000])
def test_a_wrong_length(corpus: Server, tmp_path: Path, faults: Faults, more: int) -> None:
    wrong = answer(DATA, Content_Length=len(DATA) + more, ETag=corpus.etag)
    with faults.tried("length too long" if more > 0 else "length too short", "download") as fault:
        corpus.answers["/c.gz"] = [wrong]
        if more < 0:  # the rest is not read: only the md5 sum tells
            with pytest.raises(UserError, match=r"has md5 .* is published"):
                get(corpus, tmp_path / "c.gz")
        arrives(corpus, tmp_path / "c.gz")
        fault.lost(len(DATA), "bytes")


def test_a_length_that_stays_wrong_is_reported(corpus: Server, tmp_path: Path, faults: Faults) -> None:
    with faults.tried("length too long for ever", "download") as fault:
        corpus.answers["/c.gz"] = [answer(DATA, Content_Length=len(DATA) + 9) for _ in range(20)]
        with pytest.raises(UserError, match=r"cannot fetch .*/c.gz: the connection ended early; check the address"):
            get(corpus, tmp_path / "c.gz")
        assert len(corpus.answers["/c.gz"]) >= 14  # it gives up in time
        corpus.answers.clear()
        arrives(corpus, tmp_path / "c.gz")
        fault.lost(6 * len(DATA), "bytes")


@pytest.mark.parametrize(
    ("before", "after", "data", "reported"),
    [
        ('"one"', '"two"', OTHER, False),
        ('"one"', '"two"', OTHER[:-7], False),
        ("", "", OTHER, False),  # no ETag: nothing to compare, so the whole file is asked for
        ('W/"one"', 'W/"one"', OTHER, False),  # a weak one is no better
        ('"one"', '"one"', OTHER[:-7], False),  # the length of the whole tells
        ('"one"', '"one"', OTHER[:50_000], False),  # shorter than what had arrived
        ('"one"', '"one"', OTHER, True),  # only the md5 sum tells
    ],
)
def test_a_file_that_changes_between_two_ranges(
    corpus: Server, tmp_path: Path, faults: Faults, before: str, after: str, data: bytes, reported: bool
) -> None:
    with faults.tried("file changed between ranges", "download") as fault:
        corpus.etag = before
        corpus.answers["/c.gz"] = [cut(corpus, 100_000), *[answer(status=500)] * 5]
        with pytest.raises(UserError, match="the server answered 500"):
            get(corpus, tmp_path / "c.gz")
        publish(corpus, data)
        corpus.etag = after
        if reported:
            with pytest.raises(UserError, match=r"has md5 .* is published"):
                get(corpus, tmp_path / "c.gz")
        arrives(corpus, tmp_path / "c.gz")
        fault.lost(100_000, "bytes")


def test_errors_that_pass(corpus: Server, tmp_path: Path, faults: Faults) -> None:
    passing = [500, 502, 503, 429]
    with faults.tried("5xx and 429", "download", len(passing)):
        corpus.answers["/c.gz"] = [answer(b"<html>", status=status) for status in passing]
        arrives(corpus, tmp_path / "c.gz")
    again = tmp_path / "again" / "c.gz"
    again.parent.mkdir()
    with faults.tried("5xx for ever", "download"):
        corpus.answers["/c.gz"] = [answer(status=500) for _ in range(5)]
        with pytest.raises(UserError, match=r"cannot fetch .*: the server answered 500 Internal Server Error; check"):
            get(corpus, again)
        arrives(corpus, again)


def test_a_redirect_loop_is_reported_in_one_line(corpus: Server, tmp_path: Path, faults: Faults) -> None:
    with faults.tried("redirect loop", "download"):
        corpus.answers["/c.gz"] = [answer(status=302, Location="/c.gz") for _ in range(100)]
        out = tmp_path / "c.gz"
        command = [sys.executable, "-m", "ocsrflow", "download", "--kind", "pubchem", "--out", out]
        command += ["--url", f"{corpus.url}/c.gz", "--md5-url", f"{corpus.url}/c.gz.md5"]
        run = subprocess.run(command, capture_output=True, text=True)
        (line,) = [line for line in run.stderr.splitlines() if "gone" not in line]  # without the progress
        assert line.startswith(
            f"ocsrflow download: error: cannot fetch {corpus.url}/c.gz: the server redirects without"
        )
        assert run.returncode == 1
        corpus.answers.clear()
        arrives(corpus, out)


def test_a_slow_server(corpus: Server, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (PATIENCE, 3.0))

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        for at in range(0, len(DATA), len(DATA) // 9):
            handler.wfile.write(DATA[at : at + len(DATA) // 9])
            time.sleep(0.4)  # within the limit, which all together are not

    with faults.tried("answer drips", "download"):
        corpus.answers["/c.gz"] = [drip]
        arrives(corpus, tmp_path / "c.gz")
        assert [path for path, _ in corpus.requests].count("/c.gz") == 1


@pytest.mark.parametrize("count", [None, 0, 70_000])
def test_a_server_that_falls_silent(
    corpus: Server, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, count: int | None
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (PATIENCE, 1.0))
    release = threading.Event()

    def silent(handler: Handler) -> None:
        if count is not None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(DATA)))
            handler.send_header("ETag", corpus.etag)
            handler.end_headers()
            handler.wfile.write(DATA[:count])
        release.wait(PATIENCE)
        handler.close_connection = True

    with faults.tried("silence", "download"):
        corpus.answers["/c.gz"] = [silent]
        arrives(corpus, tmp_path / "c.gz")
        assert corpus.requests[-1] == ("/c.gz", f"bytes={count}-" if count else None)
    with faults.tried("silence for ever", "download"):
        (tmp_path / "c.gz").unlink()
        corpus.answers["/c.gz"] = [silent] * 10
        with pytest.raises(UserError, match=r"cannot fetch .*: the server did not answer in time; check"):
            get(corpus, tmp_path / "c.gz")
        corpus.answers.clear()
        arrives(corpus, tmp_path / "c.gz")
    release.set()


@pytest.mark.parametrize(
    "strange",
    [
        answer(DATA, ETag='"one"'),  # it knows no ranges
        answer(DATA[50_000:], status=206, ETag='"one"', Content_Range=f"bytes 50000-{len(DATA) - 1}/{len(DATA)}"),
        answer(DATA[150_000:], status=206, ETag='"one"', Content_Range=f"bytes 150000-{len(DATA) - 1}/{len(DATA)}"),
        answer(DATA[100_000:], status=206, ETag='"one"'),  # it does not say which part that is
        answer(DATA[100_000:], status=206, ETag='"one"', Content_Range="items 7"),
        answer(status=416, Content_Range=f"bytes */{len(DATA)}"),
    ],
    ids=["no ranges", "earlier", "later", "silent", "nonsense", "416"],
)
def test_a_server_that_is_wrong_about_ranges(corpus: Server, tmp_path: Path, faults: Faults, strange: Answer) -> None:
    with faults.tried("wrong range", "download") as fault:
        corpus.answers["/c.gz"] = [cut(corpus, 100_000), strange]
        arrives(corpus, tmp_path / "c.gz")
        assert ("/c.gz", "bytes=100000-") in corpus.requests
        fault.lost(100_000, "bytes")


def test_a_part_that_nobody_asked_for(corpus: Server, tmp_path: Path, faults: Faults) -> None:
    with faults.tried("wrong range", "download"):
        (tmp_path / "c.gz.arrived.partial").write_bytes(OTHER[:1000])  # of another address
        part = {"Content_Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
        corpus.answers["/c.gz"] = [answer(DATA, status=206, **part)]
        arrives(corpus, tmp_path / "c.gz")


@pytest.mark.parametrize("stamp", ["", '{"url": "ht', "[]", "\0\0\0"])
def test_what_is_known_of_the_bytes_is_damaged(corpus: Server, tmp_path: Path, faults: Faults, stamp: str) -> None:
    with faults.tried("damaged .partial.json", "download") as fault:
        (tmp_path / "c.gz.arrived.partial").write_bytes(OTHER[:1000])
        (tmp_path / "c.gz.arrived.partial.json").write_text(stamp)
        arrives(corpus, tmp_path / "c.gz")
        fault.lost(1000, "bytes")


def test_a_later_call_goes_on_from_what_an_earlier_one_left(corpus: Server, tmp_path: Path, faults: Faults) -> None:
    with faults.tried("5xx for ever", "download") as fault:
        corpus.answers["/c.gz"] = [cut(corpus, 40_000), *[answer(status=500)] * 5]
        with pytest.raises(UserError, match=r"what has arrived is kept"):
            get(corpus, tmp_path / "c.gz")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c.gz.arrived.partial", "c.gz.arrived.partial.json"]
        arrives(corpus, tmp_path / "c.gz")
        assert corpus.requests[-1] == ("/c.gz", "bytes=40000-")
        fault.lost(corpus.sent["/c.gz"] - len(DATA), "bytes")


def test_bytes_of_an_old_file_never_pass_for_those_of_a_new_one(
    corpus: Server, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*, what: str, **options: Any) -> Any:  # between the stamp and the bytes
        return sys.exit("killed") if "c.gz.arrived" in what else progress(what=what, **options)

    with faults.tried("killed as a changed file begins", "download") as fault:
        corpus.answers["/c.gz"] = [cut(corpus, 100_000), *[answer(status=500)] * 5]
        with pytest.raises(UserError, match="500"):
            get(corpus, tmp_path / "c.gz")
        publish(corpus, OTHER)
        corpus.etag = '"two"'
        with monkeypatch.context() as patch:
            patch.setattr(module, "progress", die)
            with pytest.raises(SystemExit, match="killed"):
                get(corpus, tmp_path / "c.gz")
        arrives(corpus, tmp_path / "c.gz")
        assert corpus.requests[-1] == ("/c.gz", None)
        fault.lost(100_000, "bytes")
