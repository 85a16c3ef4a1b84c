"""Packing pictures from more files than the system lets a process have open."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.data import make_dataset

SHARDS = 12
OPEN_FILES = 14  # about half of them are the stage's own


@pytest.mark.usefixtures("drawn_here")
def test_more_shards_than_open_files_make_the_same_data_set(kept: Path, tmp_path: Path) -> None:
    folder = make_dataset(kept, tmp_path, shards=SHARDS)
    assert len({path.name[:5] for path in (folder / "pictures").rglob("*.h5")}) == SHARDS
    again = tmp_path / "again"
    again.mkdir()
    command = [sys.executable, "-m", "ocsrflow", "pack", folder / "sample.parquet", folder / "shards"]
    command += ["--store", folder / "pictures", "--shards", SHARDS]
    for option in ("out", "tokens", "vocabulary", "rejects"):
        command += [f"--{option}", again / option]
    limited = ["bash", "-c", f'ulimit -n {OPEN_FILES} && exec "$@"', "bash", *map(str, command)]
    run = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (again / "out").read_bytes() == (folder / "images.h5").read_bytes()
