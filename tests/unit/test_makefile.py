"""The Makefile's targets: what they run, and that they look at the results of the run that began last."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import REPOSITORY
from support.data import make_scores
from support.processes import program

PYTHON = f'exec {sys.executable} "$@"'


def make(folder: Path, *words: str, python: str = PYTHON) -> subprocess.CompletedProcess[str]:
    """Make in a folder with a Makefile and a virtual environment, both made at the first call."""
    shutil.copy(REPOSITORY / "Makefile", folder)
    program(folder / ".venv/bin/python", python)
    env = {name: value for name, value in os.environ.items() if name != "RESULTS" and "MAKE" not in name}
    command = ["make", "-o", ".venv/.ready", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("begun", "shown"),
    [([], "results"), (["results/demo"], "results/demo"), (["results/demo", "results"], "results")],
)
def test_status_is_of_the_last_run(tmp_path: Path, begun: list[str], shown: str) -> None:
    for at, results in enumerate(begun):
        path = tmp_path / results / "experiment.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (at, at))
    for given, expected in ((None, shown), ("elsewhere", "elsewhere")):
        words = ["status", *([f"RESULTS={given}"] if given else [])]
        assert make(tmp_path, *words, python='echo "$@"').stdout == f"-m ocsrflow status {expected}\n"


def test_status_and_compare_show_results(tmp_path: Path) -> None:
    for name, answers in (("a", ["CCO", "CCC", "C1CC"]), ("b", ["CCO", "CCN", "C1CC"])):
        make_scores(tmp_path / name, "one", answers)
    run = make(tmp_path, "compare", "A=a", "B=b")
    assert "Scores on test: the same 3 pictures" in run.stdout, run.stderr
    assert "give A=... and B=..." in make(tmp_path, "compare", "A=a").stderr
    run = make(tmp_path, "status", "RESULTS=a")
    assert "a: no run has started yet" in run.stderr


def test_browse_writes_the_page_of_a_data_set(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results/datasets/short"
    shutil.copytree(dataset, folder)
    (folder / "rejects").mkdir()
    for name, own in (("sample", "rejects.csv"), ("pack", "pack.csv")):
        shutil.copy(dataset / own, folder / "rejects" / f"{name}.csv")
    assert "give DATASET=..., one of: short" in make(tmp_path, "browse", "DATASET=long").stderr
    run = make(tmp_path, "browse", "DATASET=short")
    assert "The page: results/browse/short.html" in run.stdout, run.stderr
    assert "Data set short" in (tmp_path / "results/browse/short.html").read_text()
