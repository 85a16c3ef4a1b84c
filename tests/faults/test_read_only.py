"""Results that cannot be written: one line, status 1, and nothing is changed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.checkout import REPOSITORY, copy_checkout
from support.faults import FULL, Faults
from support.needs import mount
from support.servers import Server
from support.training import NETWORK, TRAINING


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system with one file on which nothing can be written: root may write wherever permissions forbid it."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount("mount", "-t", "tmpfs", "none", folder)
    (folder / "there").write_text("as it was")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def refuses(folder: Path, module: str, *words: object) -> None:
    """Run a stage, look at what it says, and that nothing has changed."""
    command = [sys.executable, "-m", "ocsrflow", module, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in ended.stderr.splitlines() if "gone" not in line]  # without the progress
    assert ended.returncode == 1, ended.stderr
    assert len(errors) == 1, ended.stderr
    assert errors[0].startswith(f"ocsrflow {module}: error: no permission ({folder}")
    assert errors[0].endswith("Read-only file system")
    assert os.listdir(folder) == ["there"]


STAGES = {
    "download": "--kind nci --out {to}/a/c.gz",
    "filter": "{corpus} --max-length 100 --kept {to}/kept --lengths {to}/lengths --rejects {to}/rejects",
    "sample": "{kept} --max-length 14 --size 100 --out {to}/sample --lengths {to}/lengths --rejects {to}/rejects",
    "render": "{data}/sample.parquet --store {to}/pictures --out {to}/index --rejects {to}/rejects",
    "pack": "{data}/sample.parquet {data}/shards --store {data}/pictures --shards 2 --out {to}/images.h5 "
    "--tokens {to}/tokens --vocabulary {to}/vocabulary --rejects {to}/rejects",
    "browse": "{data}/images.h5 --out {to}/page.html",
    "constant": "{data}/images.h5 --split test --candidates {data}/images.h5 --out {to}/p.parquet --facts {to}/p.json",
    "train": "{data}/images.h5 --network {network} --training {training} --checkpoints {to}/checkpoints "
    "--out {to}/weights --metrics {to}/metrics --description {to}/model",
    "tracking": "--experiment e --out {to}/tracking.json",
}


SLOW = {"browse", "train", "tracking"}  # seconds of imports


@pytest.mark.parametrize("stage", [stage for stage in STAGES if FULL or stage not in SLOW])
def test_a_stage(stage: str, read_only: Path, kept: Path, dataset: Path, faults: Faults) -> None:
    settings = {"network": NETWORK.model_dump_json(), "training": TRAINING.model_dump_json()}
    places = {"to": read_only, "data": dataset, "kept": kept, "corpus": kept.with_name("CID-SMILES.gz")}
    with faults.tried("read-only results", stage):
        refuses(read_only, stage, *(word.format(**places, **settings) for word in STAGES[stage].split()))


def test_a_download_with_an_address(read_only: Path, server: Server, faults: Faults) -> None:
    server.files = {"/c.gz": b"molecules"}
    with faults.tried("read-only results", "download"):
        refuses(read_only, "download", "--kind", "pubchem", "--url", f"{server.url}/c.gz", "--out", read_only / "c.gz")


def test_snakemake(read_only: Path, tmp_path: Path, faults: Faults) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    toy = yaml.safe_load((REPOSITORY / "tests/workflow/toy.yaml").read_text())
    (checkout / "mine.yaml").write_text(yaml.safe_dump({**toy, "results": str(read_only / "results")}))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "mine.yaml"]
    with faults.tried("read-only results", "snakemake"):
        ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr + ended.stdout
        line = f"{read_only / 'results'}: Read-only file system; results need a folder that can be written to"
        assert line in ended.stderr.splitlines(), ended.stderr
        assert "rule download" not in ended.stderr  # no job was begun
        assert os.listdir(read_only) == ["there"]
