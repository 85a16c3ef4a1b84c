"""How a stage's command ends: one line and an exit status, whatever stops it."""

import signal
import subprocess
import sys

from support.processes import hear_ctrl_c
from support.waiting import PATIENCE

STAGE = """
import sys, time
from ocsrflow.cli import run
from ocsrflow.errors import UserError

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
    for what, told in {
        "mistake": "x.csv: no column 'id'; add it",
        "missing": "no such file or folder: nowhere/file",
    }.items():
        process = begun(what)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (1, "")
        assert err.endswith(f"error: {told}\n")
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
