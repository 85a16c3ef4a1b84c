"""MLflow's server is killed and started again while a model is trained."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ocsrflow.tracking import live_curves
from ocsrflow.tracking.tracking import tracking
from ocsrflow.training import trainer
from support.faults import Faults
from support.servers import MlflowServer
from support.training import TRAINING, lines, run_train, without_times
from support.waiting import wait_until


def test_the_weights_are_the_same_and_mlflow_gets_every_point_once(
    dataset: Path, tmp_path: Path, empty_store: Path, faults: Faults, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(live_curves, "RETRY", 0.2)
    monkeypatch.setattr(live_curves, "GATHER", 0.05)
    training = TRAINING.model_copy(update={"epochs": 6})
    run_train(dataset, tmp_path / "undisturbed", training=training)

    shutil.copy(empty_store, tmp_path / "server.db")
    server = MlflowServer(tmp_path)
    server.start()
    where = tmp_path / "tracking.json"
    tracking(out=where, experiment="away", uri=server.uri)
    client = MlflowClient(server.uri)

    def steps(curve: str) -> list[int]:
        experiment = client.get_experiment_by_name("away")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        return [point.step for run in runs for point in client.get_metric_history(run.info.run_id, curve)]

    validated = 0
    real = trainer.validate

    def validate(*words: Any) -> dict[str, float]:
        nonlocal validated
        validated += 1
        if validated == 2:  # it has some points and is killed as others come
            wait_until(lambda: steps("loss"), "the first points at MLflow's server", details=server.log.read_text)
            server.kill()
        elif validated == 5:
            server.start()
        return real(*words)

    monkeypatch.setattr(trainer, "validate", validate)
    with faults.tried("MLflow's server killed", "train") as fault:
        run_train(dataset, tmp_path / "disturbed", training=training, tracking=where)
        assert validated == 6  # nothing was learnt twice
        names = [tmp_path / name / "weights.safetensors" for name in ("undisturbed", "disturbed")]
        assert names[0].read_bytes() == names[1].read_bytes()
        assert without_times(tmp_path / "undisturbed") == without_times(tmp_path / "disturbed")
        for curve in ("loss", "validation_tanimoto"):
            expected = [line["step"] for line in lines(tmp_path / "disturbed") if curve in line]
            assert len(expected) == 6
            assert steps(curve) == expected
        fault.lost(0, "steps")
    server.kill()
