"""The commands of docs/how-to/mlflow.md for a server, as written but for the port, on PostgreSQL as Debian has it."""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import REPOSITORY
from support.needs import need
from support.servers import free_port, wait_for

SOCKETS = "/var/run/postgresql"
NAME = "mlflow.example.org"


def commands() -> list[str]:
    """The shell's blocks of the section on servers, but for that with passwords to be filled in."""
    text = (REPOSITORY / "docs/how-to/mlflow.md").read_text()
    section = text[text.index("\n## A server\n") : text.index("\n## When the server is away\n")]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    return [block for block in blocks if "..." not in block]


@pytest.fixture
def cluster() -> Iterator[list[str]]:
    """Debian's PostgreSQL, new: its socket where Debian has it, for those alone who are started with these words."""
    programs = Path(need("initdb")).parent
    if "postgres" not in {user.pw_name for user in pwd.getpwall()} or not Path(SOCKETS).is_dir():
        pytest.skip("needs the user and the folder of Debian's PostgreSQL")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs root, who makes the role, and the right to mount")
    with tempfile.TemporaryDirectory(prefix="ocsrflow-pg-") as folder:
        shutil.chown(folder, "postgres", "postgres")
        who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        run = {"check": True, "capture_output": True, "cwd": folder}
        # As pg_createcluster does: peers by the socket, passwords elsewhere.
        ways = ["--auth-local=peer", "--auth-host=scram-sha-256", "-U", "postgres", "--no-sync"]
        subprocess.run([*who, programs / "initdb", "-D", f"{folder}/data", *ways], **run)
        control = [*who, programs / "pg_ctl", "-D", f"{folder}/data"]
        options = f"-p 5432 -k {folder} -c listen_addresses= -c fsync=off"
        subprocess.run([*control, "-o", options, "-l", f"{folder}/log", "-w", "start"], **run)
        try:
            yield ["unshare", "--mount", "sh", "-c", f'mount --bind {folder} {SOCKETS} && exec "$@"', "sh"]
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)


def ask(port: int, host: str, origin: str, name: str) -> int:
    """The status of what MLflow's page asks when an experiment is made."""
    headers = {"Host": host, "Origin": origin, "Content-Type": "application/json"}
    address = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/create"
    request = urllib.request.Request(address, json.dumps({"name": name}).encode(), headers)
    try:
        return int(urllib.request.urlopen(request, timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_recipe_for_a_server(cluster: list[str], tmp_path: Path) -> None:
    once, local, named = commands()
    subprocess.run([*cluster, "sh", "-ec", once], check=True, capture_output=True, cwd="/")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WORKERS": "1"}
    answers = {}
    for kind, command in (("local", local), ("named", named)):
        port = free_port()
        assert "--port 5000 " in command
        words = [*cluster, "sh", "-ec", command.replace("--port 5000 ", f"--port {port} ")]
        with open(tmp_path / f"{kind}.log", "wb") as log:
            server = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / f"{kind}.log")
            here, there = f"127.0.0.1:{port}", f"https://{NAME}"
            for name, host, origin in (
                ("local address", here, f"http://{here}"),
                ("page", NAME, there),
                ("other host", "evil.example.org", there),
                ("other page", NAME, "https://evil.example.org"),
            ):
                answers[kind, name] = ask(port, host, origin, f"{kind}, {name}")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert answers["local", "local address"] == 200
    assert answers["named", "local address"] == answers["named", "page"] == 200
    assert answers["named", "other host"] == answers["named", "other page"] == 403
    assert answers["local", "page"] == 403  # so that these options are needed
