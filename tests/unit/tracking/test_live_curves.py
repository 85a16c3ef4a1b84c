"""A training's curves in MLflow: every point once. Killed servers are in tests/faults."""

import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocsrflow.tracking import live_curves as module
from ocsrflow.tracking.live_curves import LiveCurves
from ocsrflow.tracking.tracking import tracking
from support.training import lines, run_train
from support.waiting import PATIENCE


def test_mlflow_has_every_point_once_after_a_second_start(
    dataset: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    where = tmp_path / "tracking.json"
    shutil.copy(empty_store, tmp_path)
    tracking(out=where, experiment="tiny")
    run_train(dataset, tmp_path, tracking=where)
    for checkpoint in sorted(tmp_path.glob("checkpoints/*/step-*.pt"))[1:]:
        checkpoint.unlink()  # as if it had been killed before the last epoch was saved
    run_train(dataset, tmp_path, tracking=where)
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.encoder_lr"] == "0.002"
    assert run.data.params["network.encoder"] == "shufflenet_v2_x0_5"
    logged = [line for line in lines(tmp_path) if "validation_tanimoto" in line]
    history = client.get_metric_history(run.info.run_id, "validation_tanimoto")
    assert [point.step for point in history] == [line["step"] for line in logged]


def test_a_new_store_gets_the_curves_of_a_finished_training(
    dataset: Path, finished: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "new").mkdir()
    shutil.copy(empty_store, tmp_path / "new")
    tracking(out=tmp_path / "new/tracking.json", experiment="tiny")
    run_train(dataset, tmp_path, tracking=tmp_path / "new/tracking.json")
    client = MlflowClient("sqlite:///new/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    for curve in ("loss", "validation_tanimoto"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, curve)]
        assert steps == [line["step"] for line in lines(tmp_path) if curve in line]
        assert len(steps) == 2


def test_mlflow_away_does_not_stop_a_training(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "tracking.json"
    where.write_text('{"uri": "http://127.0.0.1:9", "experiment": "away"}')
    run_train(dataset, tmp_path, tracking=where)
    assert capsys.readouterr().err.count("MLflow does not take the run") == 1


def test_curves_without_a_store_send_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    curves = LiveCurves(None, key="k", name="n", parameters={})
    curves.point({"loss": 1.0}, 1)
    assert threading.active_count() == threads
    curves.close("FINISHED")
    assert capsys.readouterr() == ("", "")


def test_curves_wait_until_there_is_a_store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(module, "RETRY", 0.2)
    monkeypatch.setattr(module, "GATHER", 0.05)
    where = tmp_path / "tracking.json"
    curves = LiveCurves(where, key="k", name="n", parameters={"a": 1})
    for step in range(3):
        curves.point({"loss": 1.0}, step)
    time.sleep(1.0)
    shutil.copy(empty_store, tmp_path)
    tracking(out=where, experiment="late")
    curves.close("FINISHED", patience=PATIENCE)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("late")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2]


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            release.wait(PATIENCE)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    release.set()
    server.shutdown()


def test_a_server_that_never_answers_neither_slows_nor_stops(
    tmp_path: Path, hanging_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "tracking.json"
    where.write_text(json.dumps({"uri": hanging_server, "experiment": "slow"}))
    curves = LiveCurves(where, key="k", name="slow one", parameters={"a": 1})
    began = time.thread_time()  # of this thread alone: the other one imports MLflow
    for step in range(10_000):
        curves.point({"loss": 1.0}, step)
    assert time.thread_time() - began < 5  # half a millisecond a point
    curves.close("FINISHED", patience=0.5)
    assert "MLflow does not take the run: no answer in time; 10000 points of slow one" in capsys.readouterr().err
