"""What the tests rely on: what is made once, what is waited for, and which skips are excused."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support import needs
from support.checkout import TESTS
from support.once import made_once
from support.waiting import wait_until

MAKER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from support.once import made_once
def make(folder):
    with open(folder.parent / "makers", "a") as file:
        file.write("one")
    time.sleep(0.5)
    if sys.argv[3] == "fails":
        raise RuntimeError("the disk is full")
    folder.mkdir()
made_once(SimpleNamespace(getbasetemp=lambda: Path(sys.argv[2], "popen-gw" + sys.argv[4])), "thing", make)
"""


@pytest.mark.parametrize("how", ["works", "fails"])
def test_of_several_processes_one_makes_it_and_none_waits_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    command = [sys.executable, "-c", MAKER, TESTS, tmp_path, how]
    processes = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    outputs = [process.communicate()[1] for process in processes]
    assert (tmp_path / "makers").read_text() == "one"
    if how == "works":
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        assert (tmp_path / "thing").is_dir()
    else:
        assert [process.returncode for process in processes] == [1, 1, 1]
        assert all("the disk is full" in text for text in outputs)
        assert sum("could not be made, by another test process" in text for text in outputs) == 2


def test_what_a_killed_process_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/half").touch()

    class Factory:
        def getbasetemp(self) -> Path:
            return tmp_path

    made = made_once(Factory(), "thing", Path.mkdir)  # type: ignore[arg-type]
    assert list(made.iterdir()) == []


def test_a_wait_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"still waiting: the end\nits log"):
        wait_until(lambda: False, "the end", seconds=0.1, details=lambda: "its log")


def test_only_what_is_not_there_is_an_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "found", {"osra": None, "chromium": "/usr/bin/chromium"}.get)
    with pytest.raises(pytest.skip.Exception) as absent:
        needs.need("osra")
    present = "chromium is not installed: apt-get install chromium"
    reasons = Counter([str(absent.value), "needs a GPU", present, "no time"])
    assert needs.unexcused(reasons) == [present, "no time"]
