"""What listens listens to this machine alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow.cli
import mlflow.models.cli
import psutil
import pytest
import yaml
from support.checkout import REPOSITORY
from support.processes import python_path
from support.servers import end_server, free_port, start_server
from support.waiting import PATIENCE, wait_until

WORKER = """
import pathlib, sys, time
from ocsrflow.training.process_group import join
place = join(2)
assert place.all_gather(place.rank) == [0, 1]
pathlib.Path(sys.argv[1], f"joined{place.rank}").touch()
while not pathlib.Path(sys.argv[1], "seen").exists():
    time.sleep(0.02)
"""


def listening(pid: int) -> set[str]:
    """The addresses at which a process and its children wait for connections."""
    found = set()
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        found |= {c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_the_processes_of_a_training_listen_to_this_machine_alone(tmp_path: Path) -> None:
    """torchrun's rendezvous unpickles what it is sent, so that nobody else may send it anything."""
    (tmp_path / "worker.py").write_text(WORKER)
    start = "import sys; from ocsrflow.training import launch; launch.PROGRAM = ('-m',); "
    words = ["-c", start + "launch.launch('worker', sys.argv[1], gpus=0, processes=2)", str(tmp_path)]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": python_path(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    launcher = subprocess.Popen([sys.executable, *words], env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("joined*"))) == 2 or launcher.poll() is not None, "two processes")
        assert launcher.poll() is None
        assert listening(launcher.pid) == {"127.0.0.1"}  # of Gloo, which the two talk by
        (folder,) = (tmp_path / "tmp").glob("ocsrflow-launch-*")
        assert folder.stat().st_mode & 0o077 == 0  # where they met
    finally:
        (tmp_path / "seen").touch()
        assert launcher.wait(PATIENCE) == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_make_ui_listens_to_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()  # MLflow makes its tables
    port = free_port()
    command = ["make", "-o", ".venv/.ready", "ui", f"RESULTS={tmp_path}", f"PORT={port}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    where = {"cwd": REPOSITORY, "env": {"PATH": path, "MLFLOW_WORKERS": "1"}}
    server = start_server(command, f"http://127.0.0.1:{port}/health", tmp_path / "server.log", **where)
    try:
        assert listening(server.pid) == {"127.0.0.1"}
    finally:
        end_server(server)


@pytest.mark.parametrize("command", [mlflow.cli.server, mlflow.models.cli.serve], ids=["server", "models serve"])
def test_mlflows_own_servers_do_so_by_default(command: object) -> None:
    """As docs/how-to/mlflow.md says of both."""
    (host,) = (option for option in command.params if option.name == "host")  # type: ignore[attr-defined]
    assert host.default == "127.0.0.1"


def test_nothing_of_ours_says_otherwise() -> None:
    texts = [REPOSITORY / "Makefile", REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md")]
    texts += [*REPOSITORY.glob("workflow/**/*.smk"), *REPOSITORY.glob("workflow/ocsrflow/**/*.py")]
    hosts = {}
    for path in texts:
        hosts |= dict.fromkeys(re.findall(r"(?:--host[ =]|host=)\"?([\w.:*]+)", path.read_text()), path)
    assert hosts.keys() == {"127.0.0.1"}, hosts
    profiles = [*REPOSITORY.glob("workflow/profiles/*/config.yaml")]
    assert len(profiles) >= 4
    for path in profiles:
        assert "host" not in yaml.safe_load(path.read_text()), path
