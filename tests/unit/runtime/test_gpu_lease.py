"""GPU slots, with many processes on made-up GPUs (there are no real ones on most machines)."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ocsrflow.runtime import gpu_lease
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.gpu_lease import Lease, device_of, present, take
from ocsrflow.training.process_group import join
from support.processes import lives, program
from support.waiting import PATIENCE, wait_until

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89aa01-0000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89bb02-0000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-77770003-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-2bc4-0000)
  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-77770003-0000/2/0)
"""
FIRST, SECOND, PART, OTHER_PART = (
    "GPU-5c89aa01-0000",
    "GPU-5c89bb02-0000",
    "MIG-2bc4-0000",
    "MIG-GPU-77770003-0000/2/0",
)

# Leases and notes, from when to when, in a log that all share; "-" for seconds holds until it is killed.
HOLD = """
import os, sys, time
from pathlib import Path
from ocsrflow.runtime import gpu_lease as gpus
folder, log, name, count, seconds, *made_up = sys.argv[1:]
gpus.POLL, gpus.PATIENCE = 0.05, 1.0
file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(event, ids=()):
    os.write(file, f"{time.monotonic()} {name} {event} {' '.join(ids)}\\n".encode())
note("waits")
lease = gpus.Lease(made_up, int(count), Path(folder))
ids = lease.ids
note("begins", ids)
time.sleep(1000 if seconds == "-" else float(seconds))
note("ends", ids)
lease.release()
"""
MADE_UP = ["0", "1", "2", "3"]

Start = Callable[..., subprocess.Popen[str]]


class Log:
    """What the jobs of a test noted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> list[tuple[float, str, str, list[str]]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [(float(at), name, event, ids) for at, name, event, *ids in map(str.split, lines)]

    def wait(self, name: str, event: str) -> list[str]:
        wait_until(lambda: self.has(name, event), f"{name} {event}", details=lambda: str(self.events()))
        return next(ids for _, who, what, ids in self.events() if (who, what) == (name, event))

    def has(self, name: str, event: str) -> bool:
        return any((who, what) == (name, event) for _, who, what, _ in self.events())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


@pytest.fixture
def start(tmp_path: Path, log: Log) -> Iterator[Start]:
    """Starts jobs: name, GPUs wanted, seconds, which GPUs it may have."""
    started = []

    def hold(name: str, count: int, seconds: float | None, made_up: list[str] = MADE_UP) -> subprocess.Popen[str]:
        words = [tmp_path / "locks", log.path, name, count, "-" if seconds is None else seconds, *made_up]
        command = [sys.executable, "-c", HOLD, *map(str, words)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield hold
    for job in started:
        job.kill()
        job.communicate()


def test_four_jobs_get_four_different_gpus_and_that_of_a_killed_one_is_free_again(start: Start, log: Log) -> None:
    jobs = {name: start(name, 1, None) for name in "abcd"}
    assert sorted(gpu for name in jobs for gpu in log.wait(name, "begins")) == MADE_UP
    waiting = start("e", 1, 0)
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "waiting for 1 of 4 GPUs: other jobs have them\n"
    assert not log.has("e", "begins")
    jobs["c"].kill()
    assert log.wait("e", "begins") == log.wait("c", "begins")
    assert waiting.communicate(timeout=PATIENCE)[1] == ""  # told once
    assert waiting.returncode == 0


def test_no_gpu_is_ever_leased_twice(start: Start, log: Log) -> None:
    """24 jobs that want 1 to 4 of 4 GPUs; six of them are killed, holding or waiting."""
    chance = random.Random(1)
    jobs = {str(n): start(str(n), chance.randint(1, 4), chance.uniform(0, 0.3)) for n in range(24)}
    killed = {}
    for name in ("3", "8", "13", "x", "y", "z"):
        if name in jobs:
            log.wait(name, "waits")  # killed wherever it is then
        else:
            jobs[name] = start(name, 2, None)
            log.wait(name, "begins")  # and would hold for ever
        killed[name] = time.monotonic()  # before: the next job may be quicker than this test
        jobs[name].kill()
    for name, job in jobs.items():
        assert job.wait(PATIENCE) == (-signal.SIGKILL if name in killed else 0)
    events = log.events()
    for at, name, event, ids in list(events):
        if name in killed and event == "begins":
            events.append((max(at, killed[name]), name, "ends", ids))
    held: dict[str, str] = {}
    for _, name, event, ids in sorted(events):
        for gpu in ids:
            if event == "begins":
                assert gpu not in held, f"{name} got {gpu}, which {held[gpu]} has"
                held[gpu] = name
            elif held.get(gpu) == name:
                del held[gpu]
    assert not held
    assert {name for _, name, event, _ in events if event == "begins"} >= jobs.keys() - killed.keys()


def test_a_job_that_wants_all_is_not_passed_over(start: Start, log: Log) -> None:
    for name in "abcd":
        start(name, 1, 2.0)
        log.wait(name, "begins")
    start("all", 4, 0.1)
    log.wait("all", "waits")
    time.sleep(0.5)
    later = [start(f"later{n}", 1, 0.5) for n in range(6)]
    for job in later:
        assert job.wait(PATIENCE) == 0
    order = [name for _, name, event, _ in sorted(log.events()) if event == "begins"]
    assert order.index("all") == 4, order


def test_jobs_of_other_gpus_do_not_wait(start: Start, log: Log) -> None:
    start("a", 2, None, ["0", "1"])
    log.wait("a", "begins")
    start("b", 1, None, ["1", "0"])  # waits
    start("c", 2, None, ["2", "3"])
    assert log.wait("c", "begins") == ["2", "3"]
    start("d", 1, None, ["3", "GPU/../4"])  # a name that is no file name
    assert log.wait("d", "begins") == ["GPU/../4"]
    assert not log.has("b", "begins")


def test_a_removed_lock_file_keeps_nobody_out_and_lets_nobody_in(tmp_path: Path) -> None:
    """Whoever waited on a file that is removed waits on for the one that another made in its place."""
    old = gpu_lease._lock(tmp_path, "0.lock")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gpu_lease._lock, tmp_path, "0.lock")
        time.sleep(0.2)
        (tmp_path / "0.lock").unlink()
        new = gpu_lease._lock(tmp_path, "0.lock", wait=False)
        assert new is not None
        gpu_lease._unlock(old)
        time.sleep(0.2)
        assert not waiting.done()
        gpu_lease._unlock(new)
        gpu_lease._unlock(waiting.result(timeout=PATIENCE))


def test_what_cannot_be_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 GPUs are asked for, but 2 can be used here"):
        Lease(["0", "1"], 3, tmp_path / "locks")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "0.lock").symlink_to(tmp_path / "file")
    for folder in ("file", "link", "locks"):
        with pytest.raises(UserError, match=r"no place for the locks of the GPUs .*; remove it, or set TMPDIR"):
            Lease(["0"], 1, tmp_path / folder)
    if os.getuid() == 0:
        os.chown(tmp_path / "locks", 12345, 12345)
        with pytest.raises(UserError, match=r"locks: no place .* belongs to somebody else"):
            Lease(["0"], 1, tmp_path / "locks")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs and one that is split in two, as nvidia-smi lists them."""
    listing = program(tmp_path / "bin/nvidia-smi", f"cat <<'EOF'\n{LISTED}EOF")
    monkeypatch.setenv("PATH", str(listing.parent), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what take() sets goes with the test
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    return listing


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        (None, [FIRST, SECOND, PART, OTHER_PART]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,0", [SECOND]),
        (" 1 , 0", [SECOND, FIRST]),
        ("0,0", [FIRST]),
        (f"0,{FIRST},GPU-5c89a", [FIRST]),
        ("2", [PART]),
        (f"GPU-7777,{OTHER_PART},MIG-2bc4", [PART, OTHER_PART]),
    ],
)
def test_visible_gpus(allowed: str | None, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert present() == found


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("allowed", "problem"),
    [
        ("0,3", "3 names no GPU"),
        ("GPU-9", "GPU-9 names no GPU"),
        ("all", "all names no GPU"),
        ("GPU-5c89", "GPU-5c89 names several GPUs"),
    ],
)
def test_wrong_names_are_reported(allowed: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES={allowed}: {problem}"):
        present()


def test_take_shows_the_leased_gpus_only(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lease = take(2)
    assert lease is not None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == f"{FIRST},{SECOND}"
    lease.release()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    again = take(1)
    assert again is not None
    assert again.ids == [SECOND]
    again.release()
    assert take(0) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update it."


@pytest.fixture
def torch_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what ``torch.cuda`` says, made up: there is no GPU here."""

    def make_up(count: int, warning: str = "", capability: tuple[int, int] = (9, 0)) -> None:
        def available() -> bool:
            if warning:
                warnings.warn(warning, UserWarning, stacklevel=2)
            return count > 0

        answers = {"is_available": available, "device_count": lambda: count, "get_device_name": lambda: "Made-up"}
        answers["get_device_capability"] = lambda: capability
        answers["get_arch_list"] = lambda: ["sm_75", "sm_86", "sm_90", "compute_90"]
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr("torch.version.cuda", "13.0")

    return make_up


@pytest.mark.parametrize(
    ("script", "allowed", "causes"),
    [
        (None, None, ["there is no nvidia-smi"]),
        (None, "0", ["CUDA_VISIBLE_DEVICES=0 names no GPU", "there is no nvidia-smi"]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None, ["nvidia-smi fails (NVIDIA-SMI has failed)"]),
        ("echo 'No devices were found' >&2", None, ["nvidia-smi lists none (No devices were found)"]),
        (f"cat <<'EOF'\n{LISTED}EOF", "-1", ["CUDA_VISIBLE_DEVICES=-1 names no GPU"]),
        (f"cat <<'EOF'\n{LISTED}EOF", "", ["CUDA_VISIBLE_DEVICES= names no GPU"]),
    ],
)
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(
    machine: Path,
    tmp_path: Path,
    torch_cuda: Callable[..., None],
    script: str | None,
    allowed: str | None,
    causes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch_cuda(0, DRIVER)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if script is None:
        machine.unlink()
        monkeypatch.setenv("PATH", str(machine.parent))
    else:
        machine.write_text(f"#!/bin/sh\n{script}\n")
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with pytest.raises(UserError) as caught:
        take(1)
    causes += ["built for CUDA 13.0", "driver on your system is too old (found version 12020)"]
    for words in (*causes, "set gpus: 0", "uv pip install --torch-backend=auto"):
        assert words in str(caught.value)
    assert take(None) is None  # where it is only preferred


@pytest.mark.parametrize(
    ("count", "capability", "words"),
    [(0, (9, 0), "driver on your system is too old"), (1, (7, 0), "no code for a Made-up (compute capability 7.0)")],
)
def test_a_gpu_that_pytorch_cannot_use_is_an_error(
    machine: Path,
    tmp_path: Path,
    torch_cuda: Callable[..., None],
    count: int,
    capability: tuple[int, int],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch_cuda(count, "" if count else DRIVER, capability)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lease = take(1)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        device_of(lease)
    assert "set gpus: 0" in str(caught.value)
    with pytest.raises(UserError, match=re.escape(words)):
        join(1)  # a process of a training
    assert device_of(lease, required=False) == "cpu"
    assert words in capsys.readouterr().err
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (9, 0), (12, 0)])  # of code for 7.5, 8.6 and 9.0, and PTX
def test_newer_gpus_of_a_kind_run_its_code(torch_cuda: Callable[..., None], capability: tuple[int, int]) -> None:
    torch_cuda(1, "", capability)
    assert gpu_lease.outdated() is None


@pytest.mark.parametrize("allowed", [None, "3,1"])
def test_cuda_without_nvidia_smi_is_used(
    machine: Path,
    tmp_path: Path,
    torch_cuda: Callable[..., None],
    allowed: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch_cuda(2)
    machine.write_text("#!/bin/sh\nexit 127\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    first = take(1)
    assert first is not None
    assert first.ids == (["0"] if allowed is None else ["3"])
    # CUDA has begun in this process and still sees both; in a new one it is the only one.
    assert device_of(first) == "cuda:0"
    torch_cuda(1)
    assert device_of(first) == "cuda"
    torch_cuda(2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    second = take(1)
    assert second is not None
    assert second.ids == ["1"]
    assert device_of(second) == "cuda:1"
    for lease in (first, second):
        lease.release()


PARENT = """
import os, subprocess, sys, time
from ocsrflow.runtime import gpu_lease as gpus
os.environ[gpus.PARENT] = sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.wait() if sys.argv[2] == "0" else time.sleep(1000)
print(child.returncode)
"""
CHILD = """
import os, time
from ocsrflow.runtime.gpu_lease import *
die_with_parent()
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_a_worker_dies_with_its_launcher() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("sys.argv[2]", "str(os.getpid())", 1), CHILD, "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not lives(child), "the end of the worker whose launcher was killed")
    # One whose launcher died before it could ask, so that somebody else is its parent now.
    late = subprocess.run([sys.executable, "-c", PARENT, CHILD, "0"], capture_output=True, text=True, timeout=PATIENCE)
    assert late.stdout == f"{-signal.SIGKILL}\n"
