"""A disk that fills up: one line, status 1, nothing half written; with some space freed the same command goes on."""

import gzip
import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocsrflow.config.depiction import Depiction
from support.data import make_dataset
from support.faults import Faults
from support.needs import mount
from support.servers import Server
from support.training import NETWORK, TRAINING, lines, run_train, without_times

SMALL = "256k"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount("mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def free_space(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def run(module: object, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocsrflow", str(module), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def finds_no_room(module: object, *words: object) -> None:
    """Run a stage that finds no room, and look at what it says."""
    ended = run(module, *words)
    errors = [line for line in ended.stderr.splitlines() if "gone" not in line]  # without the progress
    assert ended.returncode == 1, ended.stderr
    assert len(errors) == 1, ended.stderr
    assert errors[0].startswith(f"ocsrflow {module}: error: no space left on the disk")


def outputs(folder: Path, *names: str) -> list[object]:
    return [word for name in names for word in (f"--{name}", folder / name)]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def goes_on(disk: Path, *command: object) -> None:
    """With some space freed the same command ends well."""
    free_space(disk)
    ended = run(*command)
    assert ended.returncode == 0, ended.stderr


def test_download(server: Server, small: Path, faults: Faults) -> None:
    data = random.Random(0).randbytes(1_000_000)
    server.files = {"/c.gz": data, "/c.gz.md5": hashlib.md5(data).hexdigest().encode()}
    source = ["--kind", "pubchem", "--url", f"{server.url}/c.gz", "--md5-url", f"{server.url}/c.gz.md5"]
    command = ["download", *source, "--out", small / "c.gz"]
    with faults.tried("disk full", "download"):
        finds_no_room(*command)
        arrived = (small / "c.gz.arrived.partial").stat().st_size
        assert arrived >= 200_000
        goes_on(small, *command)
        assert files(small) == {"c.gz": data}
        assert server.requests[-1] == ("/c.gz", f"bytes={arrived}-")  # nothing that was written is fetched again


@pytest.mark.parametrize("file", ["c.gz.text", "c.gz.arrived.partial.json"])
def test_download_with_room_for_nothing(server: Server, small: Path, faults: Faults, file: str) -> None:
    data = bytes(100_000)
    server.files = {"/c.gz": data, "/c.gz.md5": hashlib.md5(data).hexdigest().encode()}
    source = ["--kind", "pubchem", "--url", f"{server.url}/c.gz"]
    source += ["--md5-url", f"{server.url}/c.gz.md5"] if "text" in file else []
    command = ["download", *source, "--out", small / "c.gz"]
    with faults.tried("disk full", "download"):
        (small / "there").write_bytes(bytes(256 * 1024))
        finds_no_room(*command)
        (small / "there").unlink()
        goes_on(small, *command)
        assert files(small) == {"c.gz": data}


def test_filter(small: Path, tmp_path: Path, faults: Faults) -> None:
    generator = random.Random(0)
    lines = "".join(f"{n}\t{''.join(generator.choices('CNOS', k=60))}\n" for n in range(40_000))
    (tmp_path / "corpus.gz").write_bytes(gzip.compress(lines.encode(), 1))
    words = ["filter", tmp_path / "corpus.gz", "--max-length", 100]
    with faults.tried("disk full", "filter"):
        finds_no_room(*words, *outputs(small, "kept", "lengths", "rejects"))
        assert list(small.iterdir()) == []


def test_sample(kept: Path, small: Path, faults: Faults) -> None:
    (small / "there").write_bytes(bytes(200_000))
    with faults.tried("disk full", "sample"):
        finds_no_room("sample", kept, "--max-length", 100, *outputs(small, "out", "lengths", "rejects"))
        assert [path.name for path in small.iterdir()] == ["there"]


@pytest.fixture(scope="module")
def made(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose pictures take more than 256 kB."""
    return make_dataset(kept, tmp_path_factory.mktemp("large"), size=300, pixels=200)


def test_render(made: Path, small: Path, faults: Faults) -> None:
    depiction = Depiction(size=200, palette="black_and_white").model_dump_json()
    command = ["render", made / "sample.parquet", "--store", small / "store", "--depiction", depiction]
    command += outputs(small, "out", "rejects")
    with faults.tried("disk full", "render"):
        finds_no_room(*command)
        assert files(small) == {}
        goes_on(small, *command)
        assert files(small / "store") == files(made / "pictures")
        assert (small / "out").read_bytes() == (made / "shards/0.parquet").read_bytes()
        assert (small / "rejects").read_bytes() == (made / "render.csv").read_bytes()


def test_pack(made: Path, small: Path, faults: Faults) -> None:
    command = ["pack", made / "sample.parquet", made / "shards", "--store", made / "pictures", "--shards", 1]
    command += outputs(small, "out", "tokens", "vocabulary", "rejects")
    with faults.tried("disk full", "pack"):
        finds_no_room(*command)
        assert list(small.iterdir()) == []
        goes_on(small, *command)
        names = {"out": "images.h5", "tokens": "tokens.json", "vocabulary": "vocabulary.json", "rejects": "pack.csv"}
        assert files(small) == {name: (made / other).read_bytes() for name, other in names.items()}


def test_browse(dataset: Path, small: Path, faults: Faults) -> None:
    (small / "there").write_bytes(bytes(200_000))
    with faults.tried("disk full", "browse"):
        finds_no_room("browse", dataset / "images.h5", "--out", small / "page.html")
        assert [path.name for path in small.iterdir()] == ["there"]


def test_train(dataset: Path, small: Path, tmp_path: Path, faults: Faults, one_thread: None) -> None:
    settings = ["--network", NETWORK.model_dump_json(), "--training", TRAINING.model_dump_json()]
    settings += ["--name", "tiny", "--dataset", "short", "--checkpoints", small / "checkpoints"]
    command = ["train", dataset / "images.h5", *settings]
    command += ["--out", small / "weights.safetensors", "--metrics", small / "metrics.jsonl"]
    command += ["--description", small / "model.json"]
    with faults.tried("disk full", "train") as fault:
        finds_no_room(*command)
        left = {path.name: path.stat().st_size for path in small.rglob("*") if path.is_file()}
        assert left.keys() == {"metrics.jsonl", "lock"}  # what was seen so far
        assert left["metrics.jsonl"] > 0
        goes_on(small, *command)
        run_train(dataset, tmp_path)
        assert (small / "weights.safetensors").read_bytes() == (tmp_path / "weights.safetensors").read_bytes()
        assert without_times(small) == without_times(tmp_path)
        fault.lost(lines(small)[0]["step"], "steps")
