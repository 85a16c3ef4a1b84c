"""From finished files to MLflow: what is sent, what is not sent again, and what goes to another store."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json
from ocsrflow.tracking.live_curves import LiveCurves
from ocsrflow.tracking.mlflow_runs import Identity, Run
from ocsrflow.tracking.mlflow_store import read_store
from ocsrflow.tracking.record import record, record_results
from ocsrflow.tracking.tracking import close, tracking
from support.checkout import REPOSITORY
from support.data import make_scores


def client_of(results: Path) -> tuple[MlflowClient, str]:
    store = read_store(results / "tracking.json")
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(store.experiment)
    assert experiment is not None
    return client, experiment.experiment_id


def runs_of(results: Path) -> dict[str, MlflowRun]:
    client, experiment = client_of(results)
    found = client.search_runs([experiment])
    runs = {str(run.info.run_name): run for run in found}
    assert len(runs) == len(found)
    return runs


def begun(results: Path, config: str = "0123456789ab", version: str = "f" * 40) -> None:
    """As if Snakemake had begun a run."""
    write_json(results / "workflow.json", {"config_hash": config, "version": version})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Results with one reader's scores, and an MLflow store without an experiment."""
    home = tmp_path_factory.mktemp("scored")
    make_scores(home, "one", ["CCO", "CCC", "C1CC"])
    shutil.copy(empty_store, home / "mlflow.db")
    return home


def copy(scored: Path, home: Path, experiment: str = "tiny", uri: str = "") -> Path:
    """The same in a folder of a test's own, with an experiment."""
    shutil.copytree(scored, home)
    tracking(out=home / "tracking.json", experiment=experiment, uri=uri)
    begun(home)
    return home


@pytest.fixture
def results(scored: Path, tmp_path: Path) -> Path:
    """Results of a test's own."""
    return copy(scored, tmp_path / "results")


def send(results: Path, *what: str, everything: bool = False) -> list[str]:
    """Record some results; the ids of their runs."""
    names = what or ("scores/test/one",)
    record_results(results, dict.fromkeys(names, ()), results / "runs.json", everything=everything)
    found: dict[str, str] = read_json(results / "runs.json")
    assert list(found) == list(names)
    return [found[name] for name in names]


def send_anew(results: Path) -> None:
    """In another process: this one's MLflow keeps the files of a store open."""
    code = "import sys, test_record; test_record.send(test_record.Path(sys.argv[1]))"
    places = [REPOSITORY / "workflow", REPOSITORY / "tests", REPOSITORY / "tests/unit/tracking"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    subprocess.run([sys.executable, "-c", code, results], check=True, env=env)


def writes(results: Path) -> dict[str, Any]:
    """All that changes in MLflow's store when something is sent: rows by table, and files with their dates."""
    with sqlite3.connect(results / "mlflow.db") as store:
        tables = {table: store.execute(f"SELECT * FROM {table}").fetchall() for table in ("runs", "metrics", "tags")}
    kept = results / "mlflow-artifacts"
    return tables | {"files": {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path.is_file()}}


def test_what_has_not_changed_is_not_sent_again(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_scores(results, "two", ["CCO", "CCC", "CCC"])
    both = ("scores/test/one", "scores/test/two")
    first = send(results, *both)
    assert "MLflow has 2 results, 2 of them are new or have changed" in capsys.readouterr().out
    before = writes(results)
    assert send(results, *both) == first
    assert writes(results) == before
    # One of them has changed, in a time alone: its own run gets the new value, the other's is left alone.
    path = results / "scores/test/two.json"
    write_json(path, read_json(path) | {"seconds_per_image": 0.25})
    capsys.readouterr()
    assert send(results, *both) == first
    assert "MLflow has 2 results, 1 of them are new or have changed" in capsys.readouterr().out
    after = writes(results)

    def of_the_other(found: dict[str, Any]) -> list[Any]:
        rows = [row for table in ("runs", "metrics", "tags") for row in found[table] if first[0] in row]
        return rows + [(path, date) for path, date in found["files"].items() if first[0] in str(path)]

    assert of_the_other(after) == of_the_other(before)
    assert len(of_the_other(after)) > 20
    client, _ = client_of(results)
    assert client.get_run(first[1]).data.metrics["seconds_per_image"] == 0.25
    assert len(client.get_metric_history(first[1], "tanimoto")) == 1
    # Files of runs that were lost are sent again when that is asked for.
    shutil.rmtree(results / "mlflow-artifacts")
    send(results, *both)
    assert not (results / "mlflow-artifacts").exists()
    send(results, *both, everything=True)
    assert len(list((results / "mlflow-artifacts").rglob("*.parquet"))) == 4


def test_a_run_that_was_cut_off_half_way_is_completed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "file", cut_off)
        with pytest.raises(KeyboardInterrupt):
            send(results)
    (run_id,) = send(results)
    client, _ = client_of(results)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id)] == ["predictions", "scores"]


def test_a_server_that_is_away_is_one_line_and_the_same_command_sends_later(results: Path) -> None:
    (results / "tracking.json").rename(results / "away.json")
    (results / "tracking.json").write_text(json.dumps({"uri": "http://127.0.0.1:9", "experiment": "tiny"}))
    with pytest.raises(UserError, match=r"MLflow cannot be used at http://127\.0\.0\.1:9") as caught:
        send(results)
    assert "\n" not in str(caught.value)
    assert not (results / "runs.json").exists()
    (results / "away.json").replace(results / "tracking.json")
    send(results)
    assert "one on test" in runs_of(results)


def test_a_deleted_experiment_comes_back(results: Path) -> None:
    client, experiment = client_of(results)
    client.delete_experiment(experiment)
    send(results)
    assert "one on test" in runs_of(results)


def test_results_that_were_copied_leave_the_others_alone_and_a_lost_store_is_made_again(
    results: Path, tmp_path: Path
) -> None:
    send(results)
    before = runs_of(results)
    copy = shutil.copytree(results, tmp_path / "copy")
    kept = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"was copied or moved.*; remove .*/copy/mlflow\.db"):
        send(copy)
    (copy / "mlflow.db").unlink()
    send_anew(copy)
    after = runs_of(copy)
    assert set(after) == set(before) == {"one on test", "workflow 012345 at fffffff"}
    assert after["one on test"].data.metrics == before["one on test"].data.metrics
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == kept


def test_recording_works_from_anywhere(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = send(results)
    (tmp_path / "elsewhere/results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert send(Path("../results"), everything=True) == first
    assert list((tmp_path / "elsewhere").rglob("*.*")) == []


def test_a_run_names_the_one_that_ended_last_before_it(results: Path) -> None:
    path = results / "scores/test/one.json"
    ids = []
    for device in ("a", "b", "a", "c"):
        write_json(path, read_json(path) | {"device": device})
        ids += send(results)
    assert ids[0] == ids[2]
    client, _ = client_of(results)
    # The first one was right still when it came again: nothing was sent to it.
    last = client.get_run(ids[3])
    assert (last.data.params["device"], last.data.tags["ocsrflow.previous"]) == ("c", ids[1])
    assert len(set(ids)) == 3


def test_the_parent_follows_its_children(results: Path) -> None:
    send(results)
    client, experiment = client_of(results)

    def status() -> str:
        (parent,) = client.search_runs([experiment], "tags.`ocsrflow.kind` = 'workflow'")
        return str(parent.info.status)

    assert status() == "RUNNING"
    close(results, status="FAILED")
    assert status() == "FAILED"
    make_scores(results, "two", ["CCO", "CCN", "CCC"])
    send(results, "scores/test/two")
    assert status() == "RUNNING"
    close(results)
    assert status() == "FINISHED"
    begun(results, "ba9876543210")
    close(results)  # nothing was made: no run
    assert status() == "FINISHED"


def test_an_experiment_may_be_called_anything(scored: Path, tmp_path: Path) -> None:
    home = copy(scored, tmp_path / "deep/results", '../../it\'s a/b:c "hi" 50% ü')
    send(home)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results"]


def test_files_lie_with_the_results_also_where_the_database_does_not(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(scored / "mlflow.db", "all.db")
    home = copy(scored, tmp_path / "results", uri=f"sqlite:///{tmp_path}/all.db")
    send(home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.db", "results"]
    assert len(list((home / "mlflow-artifacts").rglob("one.parquet"))) == 2


def test_numbers_that_are_none_are_left_out_and_points_come_once(results: Path) -> None:
    for _ in range(3):
        run = Run(results / "tracking.json", Identity("model", "a", "a", "a"))
        run.final({"nan": float("nan"), "inf": float("inf"), "good": 1.0})
        run.close()
    client, _ = client_of(results)
    assert client.get_run(run.run_id).data.metrics == {"good": 1.0}
    assert len(client.get_metric_history(run.run_id, "good")) == 1


def test_the_job_of_a_cluster_is_a_tag(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ocsrflow.runtime.slurm_job import as_tags, of_cluster

    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert of_cluster() == {"slurm_job": "4711"}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert as_tags(of_cluster()) == {"slurm.job": "4700_3"}
    curves = LiveCurves(
        results / "tracking.json", key="k", name="m", parameters={"a": {"b": 1}}, tags=as_tags(of_cluster())
    )
    curves.close("FINISHED")
    run = runs_of(results)["m"]
    assert run.data.tags["slurm.job"] == "4700_3"
    assert run.data.params == {"a.b": "1"}


def test_speeds_are_recorded(results: Path) -> None:
    times = {"seconds_per_image": 0.2, "low": 0.1, "high": 0.3}
    members = [{"name": "first", "seconds_per_image": 0.1}, {"name": "second", "seconds_per_image": 0.15}]
    facts = {"name": "both", "key": "speed-prediction:both:1", "test_set": "test", "images": 2, "device": "CPU"}
    facts |= {"gpus": 0, "threads": 2, "members": members, "speed_up": 1.5}
    (results / "speed/prediction").mkdir(parents=True)
    write_json(results / "speed/prediction/both.json", facts | {"one_after_the_other": times, "side_by_side": times})
    send(results, "speed/prediction/both")
    run = runs_of(results)["prediction speed of both"]
    assert run.data.params["members"] == "first, second"
    assert run.data.metrics["side_by_side.seconds_per_image"] == 0.2
    assert run.data.metrics["first.seconds_per_image"] == 0.1
    rows = [{"processes": 1, "images_per_second": 5.0, "device": "CPU"}, {"processes": 2, "not_measured": "why"}]
    facts = {"name": "tiny", "key": "speed-training:tiny:1", "dataset": "d", "steps": 3, "threads": 2, "device": "CPU"}
    (results / "speed/training").mkdir()
    settings = {"network": {"dim": 4}, "training": {"batch": 8}}
    write_json(results / "speed/training/tiny.json", facts | settings | {"rows": rows})
    send(results, "speed/training/tiny")
    run = runs_of(results)["training speed of tiny"]
    assert run.data.metrics == {"1_processes.images_per_second": 5.0}
    assert run.data.params["training.batch"] == "8"


def test_a_reader_that_was_not_there_is_recorded_as_missing(results: Path) -> None:
    facts = {"name": "osra", "kind": "baseline", "missing": "osra is not installed", "seconds_per_image": None}
    write_json(results / "scores/test/osra.json", facts | {"test_set": "test", "images": 0})
    none = pd.DataFrame(columns=["cid", "id", "reference", "prediction"])
    for part in ("scores", "predictions"):
        none.to_parquet(results / part / "test/osra.parquet")
    send(results, "scores/test/osra")
    run = runs_of(results)["osra on test"]
    assert run.data.params["missing"] == "osra is not installed"
    assert run.data.metrics == {}


def test_what_is_not_finished_is_left_out_and_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results / "runs.json"
    record_results(results, {"models/none": ["d"], "scores/test/one": [], "scores/test/nobody": []}, out)
    assert list(read_json(out)) == ["scores/test/one"]
    output = capsys.readouterr()
    assert "MLflow has 1 results" in output.out
    assert "not finished: models/none (" in output.err
    assert "scores/test/nobody.json is missing)" in output.err


def test_a_folder_without_a_run_of_the_workflow_is_refused(results: Path, tmp_path: Path) -> None:
    (results / "workflow.json").unlink()
    (results / "report").mkdir()
    with pytest.raises(UserError, match=r"workflow\.json is missing"):
        send(results, "report")
    with pytest.raises(UserError, match=r"no run of the workflow wrote experiment\.yaml there"):
        record(tmp_path)
