"""Checkouts of this repository, and Snakemake in them."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TESTS = REPOSITORY / "tests"
CONFIG = "tests/workflow/toy.yaml"
# In the folder of results, as in docs/how-to/stop-and-resume.md.
CHECK_HASHES = "set -o pipefail; find hashes -name '*.sha256' -exec cat {} + | sha256sum --check --quiet"


def snakemake(
    folder: Path, *options: str, check: bool = True, seconds: float = 1800
) -> subprocess.CompletedProcess[str]:
    """Snakemake in a checkout; after so many seconds it hangs, and is killed."""
    command = [sys.executable, "-m", "snakemake", *options]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds)
    if check and run.returncode:
        raise AssertionError(f"snakemake ended with {run.returncode}:\n{(run.stdout + run.stderr)[-8000:]}")
    return run


def copy_checkout(folder: Path) -> Path:
    """The files of this checkout, as they are, in a new folder."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder
