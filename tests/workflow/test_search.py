"""A search of seconds, run once: what it leaves, what would run again after each kind of change, and that it may be
killed."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient
from ocsrflow.config import experiment
from support.checkout import CONFIG, copy_checkout, snakemake
from support.faults import FULL, Faults
from support.processes import described
from support.toy import move_store
from support.waiting import wait_until

SEARCH = "tests/workflow/search.yaml"
# Threads that wait for one another take minutes on a busy machine.
OPTIONS = ("--cores", "2", "--max-threads", "1", "--configfile", CONFIG, SEARCH)
RATES = Path("results/searches/rates")
KILLS = 6 if FULL else 2


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the search has run."""
    folder = copy_checkout(tmp_path_factory.mktemp("searched"))
    snakemake(folder, "search", *OPTIONS)
    return folder


@pytest.fixture
def copied(searched: Path, tmp_path: Path) -> Path:
    """A copy in which everything may be changed."""
    folder = shutil.copytree(searched, tmp_path / "copy", symlinks=True)
    move_store(folder / "results/mlflow.db", str(searched), str(folder))
    return folder


def change(folder: Path, **keys: Any) -> None:
    """Change keys of the search; those of its space with ``space``."""
    config = yaml.safe_load((folder / SEARCH).read_text())
    config["searches"][0] |= keys
    (folder / SEARCH).write_text(yaml.safe_dump(config))


@pytest.fixture
def changed(searched: Path) -> Iterator[Path]:
    """The same checkout, whose configuration is put back after the test."""
    before = (searched / SEARCH).read_bytes()
    yield searched
    (searched / SEARCH).write_bytes(before)


def planned(folder: Path, *options: str) -> set[str]:
    """Jobs that a dry run lists, by their messages."""
    text = snakemake(folder, "search", "-n", *OPTIONS, *options).stdout
    jobs = {message.partition(" (gpu=")[0] for message in re.findall(r"^Job \d+: (.*)$", text, flags=re.MULTILINE)}
    assert jobs or "Nothing to be done" in text
    return jobs


def table(folder: Path) -> list[dict[str, str]]:
    """The table without what takes another time each time."""
    rows = csv.DictReader((folder / RATES / "table.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def trials(rung: int, *places: int) -> set[str]:
    return {f"Train trial {place} of rung {rung} of search rates" for place in places}


AT_THE_END = {"Write the table of search rates", "Show what search rates found", "Record search rates in MLflow"}
PROMOTED = "Choose the trials of rung 0 of search rates that go on"
ALL = {*trials(0, 0, 1, 2, 3), PROMOTED, *trials(1, 0, 1), *AT_THE_END}


def test_a_finished_search_has_nothing_to_do(searched: Path) -> None:
    assert planned(searched) == set()


def test_more_trials_train_those_alone_that_are_new_in_the_first_rung(changed: Path) -> None:
    change(changed, trials=6)
    assert planned(changed) == {*trials(0, 4, 5), PROMOTED, *trials(1, 0, 1, 2), *AT_THE_END}


def test_a_changed_bound_and_another_seed_train_all(changed: Path) -> None:
    space = yaml.safe_load((changed / SEARCH).read_text())["searches"][0]["space"]
    change(changed, space=space | {"training.encoder_lr": {"log": [1e-4, 2e-2]}})
    assert planned(changed) == ALL
    change(changed, space=dict(reversed(space.items())))  # the same one
    assert planned(changed) == AT_THE_END
    change(changed, space=space, seed=2)
    assert planned(changed) == ALL


def test_another_metric_or_share_promotes_again(changed: Path) -> None:
    change(changed, metric="validation_tanimoto")
    assert planned(changed) == ALL - trials(0, 0, 1, 2, 3)
    change(changed, metric="validation_loss", keep=0.25)
    assert planned(changed) == ALL - trials(0, 0, 1, 2, 3) - trials(1, 1)


def test_the_model_that_is_varied_decides_and_no_other(changed: Path) -> None:
    other = 'models=[{"name": "shuffle", "dataset": "short", "gpus": 0, "network": {"encoder": "shufflenet_v2_x0_5"}, '
    other += '"training": {"ema": 0.5}}]'
    options = ("--config", other, "ensembles=[]", 'speed={"training": []}')
    assert planned(changed, *options) == ALL


def test_an_edit_of_the_page_trains_nothing(copied: Path) -> None:
    page = copied / "workflow/ocsrflow/report/templates/search.html"
    page.write_text(page.read_text().replace("What was found", "What came of it"))
    assert planned(copied) == AT_THE_END - {"Write the table of search rates"}
    code = copied / "workflow/ocsrflow/search/search_table.py"
    code.write_text(code.read_text().replace("-best", "-winner"))
    assert planned(copied) == AT_THE_END


def test_a_failed_trial_is_in_the_table_and_the_best_is_a_models_entry(searched: Path) -> None:
    rows = table(searched)
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2", "3"]
    states = [row["state"] for row in rows]
    assert states == ["finished", "finished", "failed", "failed"]
    for row in rows:
        broken = float(row["training.decoder_lr"]) == 1e30
        assert row["reason"].startswith("the loss is nan at step") == broken == (row["state"] == "failed")
    losses = [float(row["validation_loss"]) for row in rows if row["state"] == "finished"]
    assert losses == sorted(losses)
    (entry,) = yaml.safe_load((searched / RATES / "best.yaml").read_text())
    assert entry["training"]["encoder_lr"] == float(rows[0]["training.encoder_lr"])
    config = yaml.safe_load((searched / CONFIG).read_text())
    model = experiment.load(config | {"models": [*config["models"], entry]}).models[-1]
    assert (model.name, model.network.dim, model.training.epochs) == ("rates-best", int(rows[0]["network.dim"]), 2)
    # The best one is the training of these very settings, by its key.
    facts = json.loads((searched / RATES / "search.json").read_text())
    assert [*searched.glob(f"results/checkpoints/rates.{rows[0]['trial']}-{facts['trials'][0]['key']}/step-*.pt")]
    assert not (searched / "results/predictions").exists()  # no test set was looked at


def test_mlflow_has_the_trials_below_the_search(searched: Path) -> None:
    client = MlflowClient(f"sqlite:///{searched}/results/mlflow.db")
    found = client.get_experiment_by_name("toy")
    assert found is not None
    runs = {str(run.info.run_name): run for run in client.search_runs([found.experiment_id])}
    parent = runs["search rates"]
    assert {name for name in runs if name.startswith("rates.")} == {f"rates.{number}" for number in range(4)}
    about = json.loads((searched / "results/workflow.json").read_text())
    workflow = next(run for run in runs.values() if run.data.tags["ocsrflow.kind"] == "workflow")
    assert parent.data.tags["mlflow.parentRunId"] == workflow.info.run_id
    assert parent.data.tags["ocsrflow.config"] == about["config_hash"]
    assert (parent.data.metrics["trials"], parent.data.metrics["failed"]) == (4, 2)
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "search")}
    assert files == {"search/table.csv", "search/best.yaml", "search/rates.html"}
    for row in table(searched):
        run = runs[f"rates.{row['trial']}"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["training.encoder_lr"] == row["training.encoder_lr"]
        assert run.data.metrics["rung"] == int(row["rung"])
        curve = client.get_metric_history(run.info.run_id, "validation_loss")
        assert len(curve) == (2 if row["state"] == "finished" else 0)
    ids = json.loads((searched / RATES / "runs.json").read_text())
    assert ids["search"] == parent.info.run_id


def test_more_trials_keep_those_that_there_are(copied: Path) -> None:
    def checkpoints() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in copied.glob("results/checkpoints/rates.*/step-*.pt")}

    before, files, ids = checkpoints(), table(copied), json.loads((copied / RATES / "runs.json").read_text())
    change(copied, trials=6)
    snakemake(copied, "search", *OPTIONS)
    after = checkpoints()
    assert before.items() <= after.items()  # of the old trials none was trained a step more
    assert len(after) > len(before)
    rows = {row["trial"]: row for row in table(copied)}
    assert len(rows) == 6
    for old in files:
        assert {**rows[old["trial"]], "rank": ""} == {**old, "rank": ""}
    now = json.loads((copied / RATES / "runs.json").read_text())
    assert ids.items() <= now.items()  # the same runs of MLflow


def test_where_all_trials_fail_it_says_so(copied: Path) -> None:
    change(copied, space={"training.decoder_lr": [1e30]}, trials=1)
    run = snakemake(copied, "search", *OPTIONS, "--show-failed-logs", check=False)
    assert run.returncode == 1
    line = "ocsrflow promote: error: search rates: all 1 trials of rung 0 failed, the first one so: the loss is nan"
    assert line in run.stdout + run.stderr


def at_work(folder: Path) -> list[psutil.Process]:
    """Whatever is at work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_killed_at_random_it_ends_with_the_same_table(searched: Path, copied: Path, faults: Faults) -> None:
    shutil.rmtree(copied / RATES)
    for folder in copied.glob("results/checkpoints/rates.*"):
        shutil.rmtree(folder)
    seed = int(os.environ.get("OCSRFLOW_TEST_SEED", time.time_ns() % 2**32))
    print(f"OCSRFLOW_TEST_SEED={seed}")
    chance = random.Random(seed)
    command = [sys.executable, "-m", "snakemake", f"{RATES}/table.csv", *OPTIONS, "--rerun-incomplete"]
    for kill in range(KILLS):
        number = (signal.SIGKILL, signal.SIGTERM)[kill % 2]
        with faults.tried(f"{number.name} of Snakemake", "trial"):
            with open(copied / "log", "wb") as log:
                process = subprocess.Popen(command, cwd=copied, stdout=log, stderr=log, start_new_session=True)
            time.sleep(chance.uniform(5, 60))
            process.send_signal(number)
            process.wait()
            what = f"the end of the jobs after {number.name}"
            wait_until(lambda: not at_work(copied), what, details=lambda: described(at_work(copied)))
            snakemake(copied, "--unlock", *OPTIONS)
    snakemake(copied, f"{RATES}/table.csv", *OPTIONS, "--rerun-incomplete")
    assert table(copied) == table(searched)
    assert (copied / RATES / "best.yaml").read_bytes() == (searched / RATES / "best.yaml").read_bytes()
