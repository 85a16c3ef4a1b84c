"""How a stage's command ends: one line and an exit status, whatever stops it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import hear_ctrl_c
from support.waiting import PATIENCE

STAGE = """
import sys, time
from ocsrflow.runtime.cli import run
from ocsrflow.runtime.errors import UserError

def stage(what: str) -> None:
    if what == "mistake":
        raise UserError("x.csv: no column 'id'; add it")
    if what == "lines":
        for number in range(100_000):
            print(number)
    if what == "long":
        print("begun", flush=True)
        time.sleep(600)
    if what == "missing":
        open("nowhere/file")

run(stage)
"""


def begun(what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STAGE, what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, preexec_fn=hear_ctrl_c)  # type: ignore[call-overload,no-any-return]


def test_mistakes_are_one_line() -> None:
    for what, message in {
        "mistake": "x.csv: no column 'id'; add it",
        "missing": "no such file or folder: nowhere/file",
    }.items():
        process = begun(what)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (1, "")
        assert err.endswith(f"error: {message}\n")
        assert err.count("\n") == 1


def test_stopped_by_a_signal() -> None:
    for sent, status in {signal.SIGINT: 130, signal.SIGTERM: 143}.items():
        process = begun("long")
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(sent)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == status
        assert "Traceback" not in err


def test_who_reads_the_output_may_leave() -> None:
    process = begun("lines")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


WORK = """
import sys, time
if any("popen_loky" in word for word in sys.orig_argv):
    time.sleep(60)  # as a process that imports for long

def work(items):
    return items

def prepare():
    pass
"""
POOL = """
from ocsrflow.runtime.cli import run
from ocsrflow.runtime.isolated import guarded
from work import prepare, work

def stage(what: str) -> None:
    print("begun", flush=True)
    list(guarded(work, ["C"], seconds=100, prepare=prepare, processes=2))

run(stage)
"""


def test_ctrl_c_ends_worker_processes_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    process = subprocess.Popen(
        [sys.executable, "-c", POOL, "x"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    until = time.monotonic() + 60
    while _children(process.pid) < 2 and time.monotonic() < until:  # the worker, and loky's own process
        time.sleep(0.1)
    time.sleep(3)  # now it is importing
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("stopped\n")
    assert err.count("\n") == 1


def _children(process: int) -> int:
    return len(Path(f"/proc/{process}/task/{process}/children").read_text().split())


EARLY = """
import _thread, os, signal, sys, time
def stop():
    while "ocsrflow.runtime.cli" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
_thread.start_new_thread(stop, ())
"""


def test_ctrl_c_during_the_imports_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    run = subprocess.run(
        [sys.executable, "-m", "ocsrflow", "download", "--help"],
        capture_output=True, text=True, preexec_fn=hear_ctrl_c, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert run.returncode in (-signal.SIGINT, 130)  # a shell shows 130 for both
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("closed", "what", "status"), [(">&-", "done", 0), ("2>&-", "mistake", 1), (">&- 2>&- <&-", "mistake", 1)]
)
def test_streams_may_be_closed(closed: str, what: str, status: int, tmp_path: Path) -> None:
    command = f'exec {sys.executable} -c "$STAGE" {what} {closed}'
    run = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env={**os.environ, "STAGE": STAGE}, cwd=tmp_path
    )
    assert (run.returncode, run.stdout, run.stderr) == (status, "", "")


def test_who_reads_the_errors_may_leave() -> None:
    command = f'{sys.executable} -c "$STAGE" mistake 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}'
    run = subprocess.run(["bash", "-c", command], capture_output=True, env={**os.environ, "STAGE": STAGE})
    assert run.returncode == 1


FLAGS = """
import os, sys
from pathlib import Path
from ocsrflow.runtime.cli import run

def stage(pictures: list[Path], *, grammar: bool = True, json: bool = False) -> None:
    print(*pictures, grammar, json)

for words in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        run(stage, words.split())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_each(*words: str) -> tuple[list[str], list[str]]:
    """What each command line prints, a line and its status, and the errors of all."""
    run = subprocess.run([sys.executable, "-c", FLAGS, *words], capture_output=True, text=True, check=True)
    return run.stdout.splitlines(), run.stderr.splitlines()


def test_flags() -> None:
    expected = {
        "a.png": "a.png True False",
        "a.png --no-grammar": "a.png False False",
        "--json --no-grammar a.png": "a.png False True",
        "--grammar a.png --no-json": "a.png True False",
        "--grammar=False a.png": "a.png False False",
        "--grammar ./false": "false True False",
    }
    assert run_each(*expected) == ([line for text in expected.values() for line in (text, "0")], [])


def test_a_value_behind_a_flag_is_no_picture() -> None:
    out, errors = run_each("--grammar False a.png", "a.png --json 0", "--no-grammar true a.png")
    assert out == ["1"] * 3
    assert len(errors) == 3
    assert all("without a value" in line for line in errors)
