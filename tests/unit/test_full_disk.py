"""A disk that fills up, in every stage of the data half: one line, status 1, nothing half written."""

import gzip
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_dataset


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount the small disk that this test fills")
    yield folder
    subprocess.run(["umount", folder], check=True)


def run(module: str, *words: object) -> None:
    """Run a stage that finds no room, and look at what it says."""
    command = [sys.executable, "-m", f"ocsrflow.{module}", *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True)
    told = [line for line in run.stderr.splitlines() if "gone" not in line]  # without the progress
    assert run.returncode == 1, run.stderr
    assert len(told) == 1, run.stderr
    assert told[0].startswith(f"ocsrflow.{module}: error: no space left on the disk")


def outputs(folder: Path, *names: str) -> list[object]:
    return [word for name in names for word in (f"--{name}", folder / name)]


def test_filter(small: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    lines = "".join(f"{n}\t{''.join(generator.choices('CNOS', k=60))}\n" for n in range(40_000))
    (tmp_path / "corpus.gz").write_bytes(gzip.compress(lines.encode(), 1))
    run("filter", tmp_path / "corpus.gz", "--max-length", 100, *outputs(small, "kept", "lengths", "rejects"))
    assert list(small.iterdir()) == []


def test_sample(kept: Path, small: Path) -> None:
    (small / "there").write_bytes(bytes(200_000))
    run("sample", kept, "--max-length", 100, *outputs(small, "out", "lengths", "rejects"))
    assert [path.name for path in small.iterdir()] == ["there"]


def test_render(kept: Path, small: Path, tmp_path: Path) -> None:
    folder = make_dataset(kept, tmp_path / "data", size=300)
    run("render", folder / "sample.parquet", "--store", small, *outputs(small, "out", "rejects"))
    assert [path for path in small.rglob("*") if path.is_file()] == []


def test_pack(kept: Path, small: Path, tmp_path: Path) -> None:
    folder = make_dataset(kept, tmp_path / "data", size=300, pixels=200)
    words = [folder / "sample.parquet", folder / "shards", "--store", folder / "pictures", "--shards", 1]
    run("pack", *words, *outputs(small, "out", "tokens", "vocabulary", "rejects"))
    assert list(small.iterdir()) == []


def test_browse(dataset: Path, small: Path) -> None:
    (small / "there").write_bytes(bytes(200_000))
    run("browse", dataset / "images.h5", "--out", small / "page.html")
    assert [path.name for path in small.iterdir()] == ["there"]


def test_train(dataset: Path, small: Path) -> None:
    network = (
        '{"encoder": "shufflenet_v2_x0_5", "pretrained": "none", "frozen_children": 0, "image_size": 64, "dim": 32}'
    )
    training = '{"batch": 16, "epochs": 1, "validation_size": 8, "decode_length": 20}'
    settings = ["--network", network, "--training", training, "--checkpoints", small]
    run("train", dataset / "images.h5", *settings, *outputs(small, "out", "metrics", "description"))
    left = {path.name: path.stat().st_size for path in small.rglob("*") if path.is_file()}
    assert left.keys() == {"metrics.jsonl", "lock"}  # what was seen so far
    assert left["metrics.jsonl"] > 0
