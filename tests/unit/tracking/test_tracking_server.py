"""MLflow's own server over PostgreSQL: many runs at once, an outage, a model served over HTTP."""

import base64
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json
from ocsrflow.tracking.mlflow_runs import Run
from ocsrflow.tracking.record import record_results
from ocsrflow.tracking.tracking import close, tracking
from PIL import Image
from support.data import make_model, make_scores
from support.needs import need
from support.runs import STEPS, log_one
from support.servers import MlflowServer, end_server, free_port, start_server
from support.waiting import PATIENCE

AT_ONCE = 4


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a database of our own, which PostgreSQL does not let root run."""
    programs = Path(need("initdb")).parent
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="ocsrflow-pg-") as folder:  # not below a folder that is root's alone
        who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
        if root:
            shutil.chown(folder, "postgres", "postgres")
        port, data = free_port(), f"{folder}/data"
        run = {"check": True, "capture_output": True, "cwd": folder}
        subprocess.run([*who, programs / "initdb", "-D", data, "-U", "ocsrflow", "-A", "trust", "--no-sync"], **run)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = ["-l", f"{folder}/log", "-w"]
        subprocess.run([*who, programs / "pg_ctl", "-D", data, "-o", options, *log, "start"], **run)
        try:
            yield f"postgresql+psycopg2://ocsrflow@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*who, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **run)


@pytest.fixture(scope="module")
def mlflow_server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), postgres)
    server.start(workers=2)
    yield server
    server.kill()


@pytest.fixture
def results(mlflow_server: MlflowServer, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder of results whose runs go to the server, to an experiment of the test's own."""
    name = request.node.name
    tracking(out=tmp_path / "tracking.json", experiment=name, uri=mlflow_server.uri)
    write_json(tmp_path / "workflow.json", {"config_hash": "0123456789ab", "version": "f" * 40})
    return tmp_path


def runs_of(results: Path) -> list[MlflowRun]:
    store = read_json(results / "tracking.json")
    client = MlflowClient(store["uri"])
    experiment = client.get_experiment_by_name(store["experiment"])
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_runs_at_once_are_all_there(results: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=log_one, args=(results / "tracking.json", n)) for n in range(AT_ONCE)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    runs = {str(run.info.run_name): run for run in runs_of(results)}
    assert len(runs) == len(runs_of(results)) == 2 * AT_ONCE + 1
    (parent,) = [run for run in runs.values() if run.data.tags["ocsrflow.kind"] == "workflow"]
    client = MlflowClient(read_json(results / "tracking.json")["uri"])
    for number in range(AT_ONCE):
        training, answers = runs[f"model{number}"], runs[f"scores of {number}"]
        for curve in ("loss", "images_per_second"):
            history = client.get_metric_history(training.info.run_id, curve)
            assert sorted(point.step for point in history) == list(range(STEPS))
        assert training.data.params == {"number": str(number)}
        assert answers.data.metrics == {"tanimoto": number / 10}
        assert training.info.status == answers.info.status == "FINISHED"
        assert training.data.tags["mlflow.parentRunId"] == parent.info.run_id
        (file,) = client.list_artifacts(answers.info.run_id, "predictions")
        assert Path(client.download_artifacts(answers.info.run_id, file.path)).read_text().endswith("C" * number + "\n")
    default = client.get_experiment_by_name("Default")
    assert default is None or not client.search_runs([default.experiment_id])
    close(results)
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"


def test_what_an_outage_left_behind_is_sent_by_the_same_command(
    results: Path, mlflow_server: MlflowServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in ("one", "two"):
        make_scores(results, reader, ["CCO", "CCC", "C1CC"])
    recorded: dict[str, list[str]] = {"scores/test/one": [], "scores/test/two": []}
    out = results / "runs.json"
    final = Run.final

    def killed_before_the_second(self: Run, *words: Any, **named: Any) -> None:
        if self.client.get_run(self.run_id).info.run_name == "two on test":
            mlflow_server.kill()
        final(self, *words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "final", killed_before_the_second)
        with pytest.raises(UserError, match=r"MLflow does not take the runs: .*; nothing is lost: ") as caught:
            record_results(results, recorded, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    with pytest.raises(UserError, match="MLflow cannot be used at http://127"):
        record_results(results, recorded, out)
    mlflow_server.start(workers=2)
    capsys.readouterr()
    record_results(results, recorded, out)
    assert "MLflow has 2 results, 1 of them are new or have changed" in capsys.readouterr().out
    names = sorted(str(run.info.run_name) for run in runs_of(results))
    assert names == ["one on test", "two on test", "workflow 012345 at fffffff"]
    (two,) = [run for run in runs_of(results) if run.info.run_name == "two on test"]
    assert two.info.status == "FINISHED"
    assert two.data.metrics["exact"] == pytest.approx(1 / 3)
    # Other answers are another run, which names the one before.
    make_scores(results, "two", ["CCO", "CCN", "C1CC"])
    record_results(results, recorded, out)
    (new,) = [run for run in runs_of(results) if run.info.run_id == read_json(out)["scores/test/two"]]
    assert new.data.tags["ocsrflow.previous"] == two.info.run_id


def test_a_registered_model_is_served_over_http(results: Path, dataset: Path, mlflow_server: MlflowServer) -> None:
    folder = make_model(dataset, results / "models/tiny", seed=3)
    facts = read_json(folder / "model.json") | {"dataset": "short", "data": "d", "parameters": 1, "seconds": 1.0}
    facts |= {"training_pictures": 2, "processes": 1, "device": "CPU", "validation_tanimoto": 0.5}
    write_json(folder / "model.json", facts)
    (folder / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "time": 1.0, "loss": 2.0}\n')
    shutil.copytree(dataset, results / "datasets/short")
    for everything in (False, True):
        record_results(results, {"models/tiny": ["short"]}, results / "runs.json", everything=everything)
    client = MlflowClient(mlflow_server.uri)
    (version,) = client.search_model_versions(f"run_id = '{read_json(results / 'runs.json')['models/tiny']}'")
    assert version.version == "1"
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", f"models:/{version.name}/1", "--port", str(port)]
    command = [sys.executable, "-m", *command, "--env-manager", "local", "--workers", "1"]
    where = {"env": {"MLFLOW_TRACKING_URI": mlflow_server.uri}, "cwd": results}
    server = start_server(command, f"http://127.0.0.1:{port}/ping", results / "serve.log", **where)
    try:
        picture = io.BytesIO()
        packed = Packed(dataset / "images.h5")
        Image.fromarray(packed.picture(0).squeeze(2)).save(picture, "PNG")
        rows = [[base64.b64encode(data).decode()] for data in (picture.getvalue(), b"none")]
        asked = json.dumps({"dataframe_split": {"columns": ["picture"], "data": rows}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", asked, {"Content-Type": "application/json"}
        )
        answers = json.load(urllib.request.urlopen(request, timeout=PATIENCE))["predictions"]
    finally:
        end_server(server)
    assert isinstance(answers[0]["smiles"], str)
    assert 0 <= answers[0]["confidence"] <= 1
    assert (answers[0]["note"], answers[0]["error"]) == ("", "")
    assert answers[1]["smiles"] == ""
    assert answers[1]["error"].startswith("not a picture of a known kind")
