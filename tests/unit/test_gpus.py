"""GPU slots, with many processes on made-up GPUs (there are no real ones on most machines)."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from ocsrflow.errors import UserError
from ocsrflow.gpus import Lease, present, take

HOLD = """
import sys, time
from pathlib import Path
from ocsrflow.gpus import Lease
lease = Lease([(str(i), f"made-up-{i}") for i in range(4)], int(sys.argv[2]), Path(sys.argv[1]))
print(" ".join(lease.ids), flush=True)
time.sleep(float(sys.argv[3]))
"""


def hold(folder: Path, count: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def leased(process: subprocess.Popen[str]) -> set[str]:
    assert process.stdout is not None
    return set(process.stdout.readline().split())


def test_four_jobs_get_four_different_gpus(tmp_path: Path) -> None:
    jobs = [hold(tmp_path, 1, 30) for _ in range(4)]
    found = [leased(job) for job in jobs]
    assert set().union(*found) == {"0", "1", "2", "3"}
    for job in jobs:
        job.kill()


def test_the_gpu_of_a_killed_job_is_free_again(tmp_path: Path) -> None:
    first = hold(tmp_path, 4, 60)
    assert len(leased(first)) == 4
    second = hold(tmp_path, 2, 0)
    time.sleep(1.5)
    assert second.poll() is None  # it waits, holding none
    first.kill()
    assert len(leased(second)) == 2
    assert second.wait(20) == 0


def test_more_than_there_are_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 GPUs are asked for, but 2 can be used here"):
        Lease([("0", "a"), ("1", "b")], 3, tmp_path)


def test_only_visible_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [gpu for gpu, _ in present()] == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert present() == []
    assert take(1) is None
