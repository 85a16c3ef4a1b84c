"""The SHA-256 of finished files, as coreutils' ``sha256sum`` reads it."""

import subprocess
from pathlib import Path

import pytest
from ocsrflow.runtime.files import RESULTS, write_text
from support.checkout import CHECK_HASHES, REPOSITORY


def check(results: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", CHECK_HASHES], cwd=results, capture_output=True, text=True)


def test_sha256sum_finds_a_flipped_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESULTS, str(tmp_path))
    paths = [tmp_path / "scores/held-out/tiny.json", tmp_path / "report/a name.svg", tmp_path / "top.txt"]
    for path in paths:
        write_text(path, f"{path.name}\n")
    assert (check(tmp_path).returncode, check(tmp_path).stdout) == (0, "")
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        found = check(tmp_path)
        assert found.returncode == 1
        assert found.stdout == f"{path.relative_to(tmp_path)}: FAILED\n"
        path.write_bytes(before)
    paths[0].unlink()
    assert f"{paths[0].relative_to(tmp_path)}: FAILED open or read\n" in check(tmp_path).stdout


def test_the_command_is_the_documented_one() -> None:
    command = CHECK_HASHES.removeprefix("set -o pipefail; ")
    assert f"cd results && {command}\n" in (REPOSITORY / "docs/how-to/stop-and-resume.md").read_text()
