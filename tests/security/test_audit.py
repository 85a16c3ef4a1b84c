"""``make check`` asks for known vulnerabilities: here of a made-up database, in OSV's form, on this machine."""

import http.server
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkout import REPOSITORY
from support.servers import free_port

spec = importlib.util.spec_from_file_location("audit", REPOSITORY / "envs/audit.py")
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

LOCK = "".join(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("numpy", "requests"))


class Database(http.server.BaseHTTPRequestHandler):
    """Knows one vulnerability, of NumPy, or none."""

    asked: list[str]
    known: bool

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.asked.append(f"{name} {query['version']}")
        fixed = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [fixed]}]
        hit = {"vulns": [{"id": "PYSEC-2026-1", "summary": "a hole", "affected": affected}]}
        answer = json.dumps(hit if self.known and name == "numpy" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "requirements.lock").write_text(LOCK)
    monkeypatch.setattr(audit, "LOCKS", [tmp_path / "requirements.lock"])
    handler = type("Handler", (Database,), {"asked": [], "known": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(sys, "argv", ["audit.py", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"])
    yield handler
    server.shutdown()


def test_a_known_vulnerability_fails_the_check(database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    database.known = True
    assert audit.main() == 1
    output = capsys.readouterr()
    assert "numpy 1.0: PYSEC-2026-1 (mended in 1.1): a hole" in output.out
    assert output.err == "audit: vulnerabilities are known of numpy; make lock takes newer versions\n"
    assert database.asked == ["requests 1.0", "numpy 1.0", "requests 1.0"]  # the first to see whether it answers


def test_without_one_it_passes(database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit.asked(audit.LOCKS, ["--vulnerability-service", "osv", *sys.argv[1:]])
    assert audit.report(found, "OSV") == 0
    assert capsys.readouterr().out == "audit: OSV knows no vulnerability of 2 packages\n"


def test_where_no_database_answers_it_says_so_and_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit.py", "--osv-url", f"http://127.0.0.1:{free_port()}/v1/query"])
    assert audit.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("audit: skipped, no database of vulnerabilities can be asked from here")
    assert line.endswith("no connection)")


def test_a_database_that_knows_no_package_is_none() -> None:
    """A mirror with the packages only answers 404 to each question, of which pip-audit makes "none known"."""
    with pytest.MonkeyPatch.context() as patch:
        skipped = {"dependencies": [{"name": "requests", "skip_reason": "not found"}]}
        patch.setattr(audit.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": json.dumps(skipped)}))
        with pytest.raises(ValueError, match="it does not know requests"):
            audit.asked([], [])


def test_make_check_asks() -> None:
    recipe = (REPOSITORY / "Makefile").read_text().split("\ncheck:", 1)[1].split("\n\n", 1)[0]
    assert "\tpython envs/audit.py" in recipe
