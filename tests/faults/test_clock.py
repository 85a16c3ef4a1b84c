"""A clock that is set back, or forward and back, while something is at work; and what it leaves."""

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from ocsrflow import mirror
from ocsrflow import train as stage
from ocsrflow.dates import not_in_future
from ocsrflow.download import download
from ocsrflow.fetch import fetch
from ocsrflow.picture_store import PictureStore
from ocsrflow.tracking import tracking
from support.data import make_dataset
from support.faults import Faults
from support.servers import Server
from support.training import TRAINING, lines, run_train, without_times

HOUR = 3600.0


class Clock:
    """The wall clock of this process, which can be set; the monotonic one cannot, as on a real machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        patch.setattr(time, "time", lambda: real() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this test."""
    return Clock(monkeypatch)


@pytest.mark.parametrize("course", [[0, -HOUR, -HOUR, -HOUR], [0, 24 * HOUR, -HOUR, 0]], ids=["back", "to and fro"])
def test_a_training(
    dataset: Path, tmp_path: Path, empty_store: Path, faults: Faults, one_thread: None, clock: Clock,
    monkeypatch: pytest.MonkeyPatch, course: list[float],
) -> None:  # fmt: skip
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirror, "GATHER", 0.05)
    training = TRAINING.model_copy(update={"epochs": len(course)})
    run_train(dataset, tmp_path / "undisturbed", training=training)
    shutil.copy(empty_store, tmp_path)
    tracking(out=tmp_path / "tracking.json", experiment="clock")
    validated, saved = 0, []
    real = stage.validate

    def validate(*words: Any) -> dict[str, float]:
        nonlocal validated
        clock.ahead = course[validated]
        validated += 1
        return real(*words)

    with monkeypatch.context() as patch, faults.tried("clock set", "train") as fault:
        patch.setattr(stage, "validate", validate)
        patch.setattr(stage.Checkpoints, "save", lambda self, steps, state: saved.append(steps))
        run_train(dataset, tmp_path / "disturbed", training=training, tracking=tmp_path / "tracking.json")
        assert saved == [line["step"] for line in lines(tmp_path / "disturbed") if "validation_loss" in line]  # no more
        weights = [tmp_path / name / "weights.safetensors" for name in ("undisturbed", "disturbed")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert without_times(tmp_path / "undisturbed") == without_times(tmp_path / "disturbed")
        # The seconds that it took are not the clock's.
        facts = json.loads((tmp_path / "disturbed/model.json").read_text())
        assert 0 <= facts["seconds"] < HOUR
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.get_experiment_by_name("clock")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        for curve in ("loss", "validation_tanimoto"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, curve)]
            assert sorted(steps) == [line["step"] for line in lines(tmp_path / "disturbed") if curve in line]
            shown = run.data.metrics[curve]
            assert shown == [line[curve] for line in lines(tmp_path / "disturbed") if curve in line][-1]
        fault.lost(0, "steps")


def test_render_keeps_off_a_file_that_somebody_writes(tmp_path: Path, faults: Faults, clock: Clock) -> None:
    store = PictureStore(tmp_path, "style", 0, 1)
    with faults.tried("clock set", "render"):
        left = tmp_path / "style/00000-of-00001-killed.part"
        with store.new_file() as first, h5py.File(first.part, "w"):
            left.write_bytes(b"of a killed job")
            for ahead, kept in ((-24 * HOUR, True), (24 * HOUR, False)):
                clock.ahead = ahead
                with store.new_file() as second:
                    assert first.part.exists()
                    assert left.exists() is kept
                    second.digest = None
        assert list((tmp_path / "style").iterdir()) == []


@pytest.mark.usefixtures("drawn_here")
def test_render(kept: Path, tmp_path: Path, faults: Faults, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = make_dataset(kept, tmp_path / "undisturbed", size=20)
    real = PictureStore.find

    def find(*words: Any) -> Any:
        clock.ahead -= HOUR
        return real(*words)

    with faults.tried("clock set", "render"):
        monkeypatch.setattr(PictureStore, "find", find)
        disturbed = make_dataset(kept, tmp_path / "disturbed", size=20)
        assert clock.ahead == -HOUR
        for name in ("shards/0.parquet", "render.csv", "images.h5", "tokens.json"):
            assert (undisturbed / name).read_bytes() == (disturbed / name).read_bytes()


def test_download(
    server: Server, tmp_path: Path, faults: Faults, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "__kwdefaults__", {"attempts": 5, "longest_wait": 0.01})
    data = random.Random(0).randbytes(300_000)
    server.files = {"/c.gz": data}

    def set_back(handler: Any) -> None:
        clock.ahead -= HOUR
        server.cut_after = 100_000
        handler.do_GET()

    with faults.tried("clock set", "download"):
        server.answers["/c.gz"] = [set_back]
        download(kind="pubchem", out=tmp_path / "c.gz", url=f"{server.url}/c.gz")
        assert clock.ahead == -HOUR
        assert (tmp_path / "c.gz").read_bytes() == data
        assert server.requests[-1] == ("/c.gz", "bytes=100000-")


def test_dates_of_the_future_become_those_of_now(tmp_path: Path, faults: Faults) -> None:
    now = time.time()
    dates = {"folder/made": now - HOUR, "folder/of-tomorrow": now + 24 * HOUR, "of-it": now + 25 * HOUR}
    (tmp_path / "folder").mkdir()
    for name, date in dates.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (date, date))
    with faults.tried("clock set", "snakemake"):
        assert sorted(not_in_future(tmp_path)) == [tmp_path / "folder/of-tomorrow", tmp_path / "of-it"]
        found = {name: (tmp_path / name).stat().st_mtime for name in dates}
        assert found["folder/made"] == pytest.approx(now - HOUR)
        assert now <= found["folder/of-tomorrow"] == found["of-it"] <= time.time()
        assert not_in_future(tmp_path) == []
