"""Servers on this machine: a spoilt one, and MLflow's own."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.waiting import PATIENCE, wait_until


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = PATIENCE) -> None:
    """Wait until a server that was started answers; where it does not, its log is in the failure."""

    def answers() -> bool:
        assert process.poll() is None, f"{url}: the server has ended\n{log.read_text()}"
        try:
            urllib.request.urlopen(url, timeout=10)
        except OSError:
            return False
        return True

    wait_until(answers, f"an answer of {url}", seconds, log.read_text)


def start_server(command: list[str], url: str, log: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a server, of MLflow or like it, in a session of its own, and wait until it answers."""
    options["env"] = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **options.get("env", {})}
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)
    try:
        wait_for(url, process, log)
    except BaseException:
        end_server(process)
        raise
    return process


def end_server(process: "subprocess.Popen[bytes]") -> None:
    """Kill a server and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class MlflowServer:
    """MLflow's own server with its artifact proxy, which can be killed and started again."""

    def __init__(self, folder: Path, store: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.store = store or f"sqlite:///{folder / 'server.db'}"
        self.uri, self.log = f"http://127.0.0.1:{self.port}", folder / "server.log"

    def start(self, workers: int = 1) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store]
        command += ["--port", str(self.port), "--workers", str(workers)]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = start_server(command, f"{self.uri}/health", self.log)

    def kill(self) -> None:
        end_server(self.process)


class Server:
    """An HTTP server on this machine whose answers a test can spoil."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.sent: Counter[str] = Counter()  # bytes of each file
        # What the next requests of a path get in place of the right answer.
        self.answers: dict[str, list[Callable[[http.server.BaseHTTPRequestHandler], None]]] = {}
        self.fail_next = 0  # so many answers are 503
        self.cut_after: int | None = None  # bytes of the next answer before the connection drops
        self.etag = '"one"'
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                if outer.answers.get(self.path):
                    outer.answers[self.path].pop(0)(self)
                    return
                if outer.fail_next:
                    outer.fail_next -= 1
                    self.send_error(503)
                    return
                if self.path not in outer.files:
                    self.send_error(404)
                    return
                data, status = outer.files[self.path], 200
                wanted = self.headers.get("Range")
                if wanted and self.headers.get("If-Range") == outer.etag:
                    start, whole = int(wanted.removeprefix("bytes=").rstrip("-")), len(data)
                    data, status = data[start:], 206 if start < whole else 416
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", outer.etag)
                self.end_headers()
                if outer.cut_after is not None:
                    data, outer.cut_after = data[: outer.cut_after], None
                    self.close_connection = True
                outer.sent[self.path] += len(data)
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
