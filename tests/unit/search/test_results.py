"""Trials in their order: who goes on, what the table says, and what is reported where all failed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ocsrflow.config.searches import Search
from ocsrflow.runtime.errors import UserError
from ocsrflow.search.promote import promote
from ocsrflow.search.results import Result, ranked
from ocsrflow.search.search_table import search_table

SEARCH = Search.model_validate(
    {
        "name": "rates",
        "model": "a",
        "space": {"training.encoder_lr": [0.1, 0.2]},
        "trials": 4,
        "rungs": [1, 2],
        "keep": 0.5,
    }
)
ENTRY = {"name": "a", "dataset": "short", "network": {"encoder": "resnet18"}, "training": {"epochs": 2}}


def result(trial: int, *scores: float, rung: int = 0, **more: Any) -> Result:
    """A trial with the similarity of each of its validations, and a loss that falls with its number."""
    curve = [
        {"epoch": at, "step": 3 * at, "time": 1.0, "validation_tanimoto": score, "validation_loss": 1.0 - trial / 100}
        for at, score in enumerate(scores, 1)
    ]
    values = {"training.encoder_lr": (trial + 1) / 10}
    return Result("rates", rung, trial, rung + 1, values, curve, seconds=10.0 * (rung + 1), **more)


def write(folder: Path, *results: Result, rung: int = 0) -> Path:
    for place, own in enumerate(results):
        own.write(folder / f"rung-{rung}" / f"{place}.json")
    return folder


def test_the_best_validation_counts_then_the_loss_then_the_number() -> None:
    trials = [result(0, 0.2), result(1, 0.5, 0.1), result(2, 0.2), result(3, failed="out of memory"), result(4, 0.4)]
    assert [own.trial for own in ranked(trials, "validation_tanimoto")] == [1, 4, 2, 0, 3]
    assert [own.trial for own in ranked(trials, "validation_loss")] == [4, 2, 1, 0, 3]


def test_failed_trials_never_go_on(tmp_path: Path) -> None:
    trials = [result(0, failed="x"), result(1, failed="y"), result(2, 0.1), result(3, failed="z")]
    folder = write(tmp_path, *trials)
    promote(folder, rung=0, places=4, kept=2, metric="validation_tanimoto", out=tmp_path / "rung-0.json")
    assert json.loads((tmp_path / "rung-0.json").read_text()) == [2]


def test_where_all_failed_one_line_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path, *(result(trial, failed="out of GPU memory") for trial in range(3)))
    with pytest.raises(UserError, match="search rates: all 3 trials of rung 0 failed, the first one so: out of GPU"):
        promote(folder, rung=0, places=3, kept=1, metric="validation_loss", out=tmp_path / "rung-0.json")
    assert not (tmp_path / "rung-0.json").exists()


def test_the_table_has_all_trials_and_the_best_one_is_a_models_entry(tmp_path: Path) -> None:
    write(tmp_path, result(0, failed="no number"), result(1, 0.3), result(2, 0.4), result(3, 0.1))
    write(tmp_path, result(2, 0.4, 0.5, rung=1), result(1, rung=1, failed="out of memory"), rung=1)
    table, best, out = (tmp_path / name for name in ("table.csv", "best.yaml", "search.json"))
    search_table(tmp_path, search=SEARCH, entry=json.dumps(ENTRY), table=table, best=best, out=out, gpus=2)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["trial"], row["state"], row["rung"], row["seconds"], row["reason"]) for row in rows] == [
        ("2", "finished", "1", "20.0", ""),
        ("3", "dropped", "0", "10.0", ""),
        ("1", "failed", "1", "30.0", "out of memory"),  # ten seconds of the first rung, twenty until it failed
        ("0", "failed", "0", "10.0", "no number"),
    ]
    assert rows[0]["validation_tanimoto"] == "0.5"
    assert rows[2]["validation_tanimoto"] == ""
    (entry,) = yaml.safe_load(best.read_text())
    training = {"epochs": 2, "encoder_lr": pytest.approx(0.3)}
    assert entry == ENTRY | {"name": "rates-best", "training": training}
    facts = json.loads(out.read_text())
    assert (facts["best"], facts["seconds"]) == (2, 70.0)
    assert facts["gpu_hours"] == pytest.approx(140 / 3600, abs=0.001)
    assert [row["first_score"] for row in facts["trials"]] == [0.4, 0.1, 0.3, None]
