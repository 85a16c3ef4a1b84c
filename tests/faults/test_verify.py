"""A flipped bit in any finished file is found and named by ``make verify``, and the command it prints mends it."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ocsrflow.errors import UserError
from ocsrflow.files import HASHES
from ocsrflow.verify import check, verify
from support.checkout import CONFIG, snakemake
from support.faults import FULL, Faults

# Damaged together and made again with all that follows from them: one that little follows from, or the data themselves.
DAMAGED = ["corpus/nci/pictures", "datasets/short/images.h5"] if FULL else ["scores/held-out/constant.parquet"]


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Path:
    """A copy of the checkout in which the toy experiment has run."""
    return Path(shutil.copytree(toy, tmp_path / "checkout"))


def flip(path: Path, generator: random.Random) -> None:
    """Turn over one bit, and leave the date as it was: a disk tells nobody."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def run_verify(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocsrflow.verify", "results"]
    env = {**os.environ, "PYTHONPATH": str(checkout / "workflow")}
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)


def test_every_output_is_written_down(toy: Path) -> None:
    summary = snakemake(toy, "--summary", "--cores", "2", "--configfile", CONFIG).stdout.splitlines()
    outputs = [toy / line.split("\t")[0] for line in summary[1:] if line.startswith("results/")]
    files = [path for output in outputs for path in ([output] if output.is_file() else output.rglob("[!.]*.*"))]
    records = {path.relative_to(toy / "results" / HASHES) for path in (toy / "results" / HASHES).rglob("*.sha256")}
    assert len(files) > 80
    assert {Path(f"{path.relative_to(toy / 'results')}.sha256") for path in files} <= records
    told = run_verify(toy)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith(f"{len(records)} files are as they were made"), told.stdout


def test_the_record_is_that_of_sha256sum(toy: Path) -> None:
    command = f"find {HASHES} -name '*.sha256' -exec cat {{}} + | sha256sum --check --quiet"
    run = subprocess.run(["bash", "-c", command], cwd=toy / "results", capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_a_flipped_bit_in_any_file_is_found(toy: Path, tmp_path: Path, faults: Faults) -> None:
    results, generator = Path(shutil.copytree(toy / "results", tmp_path / "results")), random.Random(0)
    records = sorted((results / HASHES).rglob("*.sha256"))
    assert len(records) > 80
    with faults.tried("flipped bit, found", "all files", len(records)):
        for record in records:
            path = results / record.relative_to(results / HASHES).with_suffix("")
            before = path.read_bytes()
            if before:
                flip(path, generator)
                assert check(results, record).state == "damaged", path
                path.write_bytes(before)
            assert check(results, record).state == "as made", path
    with faults.tried("flipped bit, found", "records", len(records)):
        for record in records:
            flip(record, generator)
            assert check(results, record).state == "damaged", record


def test_what_was_damaged_is_made_again_by_the_commands_that_are_printed(copy: Path, faults: Faults) -> None:
    generator, damaged = random.Random(1), []
    for name in DAMAGED:
        path = copy / "results" / name
        damaged.append(path if path.is_file() else sorted(path.rglob("*.h5"))[0])
    before = {path: path.read_bytes() for path in damaged}
    for path in damaged:
        flip(path, generator)
    gone = copy / "results/scores/held-out/constant.json"
    gone.unlink()
    with faults.tried("flipped bit, made again", ", ".join(path.name for path in damaged), len(damaged)):
        told = run_verify(copy)
        assert told.returncode == 1
        for path in damaged:
            assert f"damaged: {path.relative_to(copy)}\n" in told.stdout
        assert f"missing: {gone.relative_to(copy)}\n" in told.stdout
        assert told.stderr.count("\n") == 1
        assert "are not as they were made" in told.stderr
        commands = re.findall("^  (.*)$", told.stdout, flags=re.MULTILINE)
        assert len(commands) == (2 if FULL else 1)
        for command in commands:
            command = re.sub("^snakemake", f"{sys.executable} -m snakemake", command)
            run = subprocess.run(command, shell=True, cwd=copy, capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
        assert {path: path.read_bytes() for path in damaged} == before
        assert gone.is_file()
        assert run_verify(copy).returncode == 0
        planned = snakemake(copy, "-n", "--cores", "2", "--configfile", CONFIG)
        assert "Nothing to be done" in planned.stdout


def test_a_folder_of_which_nothing_is_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is written down"):
        verify(tmp_path)


def test_files_without_a_record_are_named(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Path(shutil.copytree(toy / "results", tmp_path / "results"))
    (results / "models/shuffle/weights.safetensors.part").write_text("what a killed process left")
    (results / HASHES / "models/shuffle/weights.safetensors.sha256").unlink()
    verify(results)
    assert "no record: " + str(results / "models/shuffle/weights.safetensors") + "\n" in capsys.readouterr().out
