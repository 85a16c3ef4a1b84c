"""The toy experiment: run once for all test processes, and copied for each."""

import re
import shutil
import sqlite3
from pathlib import Path

from support.checkout import CONFIG, copy_checkout, snakemake

TOO_LONG = 5400.0  # seconds; it takes seven minutes of one core, and this ends a hang


def make_toy(folder: Path) -> None:
    """Run it in a new checkout.

    With one thread a job: its jobs are imports for the most part, so two at once take half the time of one with two
    threads; and threads that wait for one another, while other tests are at work, would take minutes for a step. Only
    speeds are measured on both cores.
    """
    copy_checkout(folder)
    texts = [path.read_text() for path in folder.glob("workflow/rules/*.smk")]
    rules = [name for text in texts for name in re.findall(r"^rule (\w+):", text, flags=re.MULTILINE)]
    threads = [f"{rule}=1" for rule in rules if not rule.startswith("speed_")]
    run = snakemake(folder, "--cores", "2", "--set-threads", *threads, "--configfile", CONFIG, seconds=TOO_LONG)
    assert "  best single model  " in run.stdout + run.stderr, "its last words"


def copy_toy(toy: Path, folder: Path) -> Path:
    """A copy in which everything may be changed; to Snakemake and to MLflow it is as finished as the first."""
    shutil.copytree(toy, folder, symlinks=True, dirs_exist_ok=True)
    move_store(folder / "results/mlflow.db", str(toy), str(folder))
    return folder


def move_store(database: Path, old: str, new: str) -> None:
    """MLflow's own store has whole paths in it."""
    store = sqlite3.connect(database)
    with store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    store.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",
                        (f"{old}/", f"{new}/", f"%{old}/%"),
                    )
    store.close()
