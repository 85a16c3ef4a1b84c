"""The MLflow store lies where the results are, whatever characters are in the path."""

from pathlib import Path

import pytest
from ocsrflow.runtime.errors import UserError
from ocsrflow.tracking.mlflow_runs import Identity, Run, ensure
from ocsrflow.tracking.mlflow_store import read_store, sqlite_path, sqlite_uri, write_store

FOLDER = "a{b}%20c %7E d'e#f?é\"g <x>;h&i"


@pytest.mark.parametrize("absolute", [False, True])
def test_a_store_and_its_files_lie_in_their_folder(
    tmp_path: Path, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / FOLDER
    results = "absolute" if absolute else "relative"  # MLflow keeps a store open by its address
    (home / results).mkdir(parents=True)
    monkeypatch.chdir(home)
    where = (home if absolute else Path()) / results / "tracking.json"
    write_store(where, "", "experiment")
    ensure(read_store(where))
    run = Run(where, Identity("model", "model:a", "model:a:0", "a"), {})
    (home / "note.txt").write_text("hello")
    run.client.log_artifact(run.run_id, "note.txt", "notes")
    assert [file.path for file in run.client.list_artifacts(run.run_id, "notes")] == ["notes/note.txt"]
    assert Path(run.client.download_artifacts(run.run_id, "notes/note.txt")).read_text() == "hello"
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER}
    assert {path.name for path in home.iterdir()} == {results, "note.txt"}
    assert (home / results / "mlflow.db").is_file()
    assert len(list((home / results / "mlflow-artifacts").rglob("note.txt"))) == 1


def test_the_address_of_a_store_leads_back_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("results/mlflow.db", "/a b/c%20d#e.db"):
        assert sqlite_path(sqlite_uri(Path(path))) == Path(path)
    with pytest.raises(UserError, match=r"'\?' in its path"):
        sqlite_uri(tmp_path / "a?" / "mlflow.db")
    (tmp_path / "a?").mkdir()
    monkeypatch.chdir(tmp_path / "a?")
    assert sqlite_uri(tmp_path / "a?" / "mlflow.db") == "sqlite:///mlflow.db"
    assert sqlite_path("postgresql://x/y") is None
    assert sqlite_path("http://127.0.0.1:5000") is None
