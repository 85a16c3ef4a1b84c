"""What the tests share: fixtures, and which test runs where and when."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Tests run side by side, with more threads than cores: those that wait must not keep the others waiting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hypothesis import settings
from mlflow.tracking import MlflowClient
from ocsrflow.corpus.download import download
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.pictures import render
from ocsrflow.runtime.isolated import CHUNK
from support.attempts import Attempts
from support.data import make_dataset
from support.once import made_once
from support.servers import Server
from support.toy import copy_toy, make_toy
from support.training import run_train
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["support.faults", "support.needs"]

settings.register_profile("ocsrflow", deadline=None)  # what takes long once need not be slow: machines are noisy
settings.load_profile("ocsrflow")

# The first begins with the toy experiment, which takes minutes: meanwhile the others run what does not need it.
FIRST = "tests/faults/test_signals.py"
# They look at the finished toy experiment, so they come last.
USE_TOY = (
    "tests/browser/", "tests/workflow/test_workflow.py", "tests/faults/test_stage_kills.py",
    "tests/security/test_unpickling.py",
)  # fmt: skip
# Each of their tests runs wherever a process is free; those of other files share what is made for the file.
ONE_BY_ONE = ("tests/workflow/test_workflow.py", "tests/faults/test_stage_kills.py")
# What takes longest goes first, so that nobody waits for it in the end: files, or tests of those above.
LONG = (
    "test_slurm.py", "workflow/test_search.py", "test_engine.py", "test_risk.py", "test_resume.py",
    "test_tracking_server.py", "test_browse.py",
    "gpu/test_run.py",
    "test_read.py", "test_launch.py", "test_render.py", "test_hostile_files.py", "test_train.py", "test_makefile.py",
    "test_parent.py", "test_mlflow_away.py", "test_full_disk.py", "test_speed.py", "test_status.py",
    "test_gpu_lease.py", "test_record.py", "test_trial.py", "test_live_curves.py", "test_compare.py",
    "test_pack_order.py",
    "test_recording_again", "test_other_splits", "test_local_files", "test_snakemakes_own_report", "killed_at_random",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """For `make test-quick`."""
    parser.addoption("--quick", action="store_true", help="leave out files that train, or start many processes")


class SideBySide(LoadScopeScheduling):
    """Hands out files one after the other, and of some files the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Asked for by pytest-xdist."""
    return SideBySide(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in the order in which they are handed out."""
    if config.getoption("quick"):
        slow = {item for item in items if any(name in item.nodeid for name in LONG)}
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]

    def place(item: pytest.Item) -> tuple[bool, bool, int]:
        ranks = [rank for rank, name in enumerate(LONG) if name in item.nodeid]
        return not item.nodeid.startswith(FIRST), item.nodeid.startswith(USE_TOY), min(ranks, default=len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filtered NCI molecules."""
    folder = tmp_path_factory.mktemp("nci")
    download(kind="nci", out=folder / "CID-SMILES.gz")
    filter_corpus(
        folder / "CID-SMILES.gz",
        max_length=100,
        kept=folder / "kept.parquet",
        lengths=folder / "lengths.csv",
        rejects=folder / "rejects.csv",
    )
    return folder / "kept.parquet"


@pytest.fixture(scope="session")
def dataset(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short molecules, packed from two shards."""
    return make_dataset(kept, tmp_path_factory.mktemp("dataset"), shards=2)


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training by the settings of ``support.training``; to be copied where a test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    run_train(dataset, folder)
    return folder


@pytest.fixture(scope="module")
def attempts(dataset: Path) -> Iterator[Attempts]:
    """Where trainings are stopped and killed."""
    made = Attempts(dataset)
    yield made
    made.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine would make small tensors a hundred times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage ``render`` draws in this process: one of its own takes a second, and is not what the test looks at."""

    def here(
        function: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any], *, prepare: Callable[..., None],
        arguments: tuple[Any, ...] = (), **_: object,
    ) -> Iterator[Any]:  # fmt: skip
        prepare(*arguments)
        for at in range(0, len(items), CHUNK):
            yield from function(items[at : at + CHUNK])

    monkeypatch.setattr(render, "guarded", here)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test."""
    made = Server()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite store with its tables and no run, to be copied: making the tables takes a second."""

    def make(folder: Path) -> None:
        folder.mkdir()
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the toy experiment has run, this process's own; what a test changes it changes back."""
    made = made_once(tmp_path_factory, "toy", make_toy)
    return copy_toy(made, tmp_path_factory.mktemp("copy") / "toy")
