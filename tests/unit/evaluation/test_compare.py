"""Two runs compared: what changed, how sure that is, and what is said of bad input."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from ocsrflow.chem.paired_tests import holm, mcnemar, same_pictures, sign_flip
from ocsrflow.chem.scores import bootstrap, wilson
from ocsrflow.evaluation.compare import compare
from ocsrflow.evaluation.comparison import changes
from ocsrflow.runtime.errors import UserError
from scipy.stats import norm  # type: ignore[import-untyped]

SETTINGS = {
    "experiment": "tiny",
    "models": [{"name": "one", "training": {"batch": 32}}, {"name": "two", "training": {"batch": 8}}],
    "test_sets": ["t"],
}


def table(tanimoto: list[float], first: int = 0) -> pd.DataFrame:
    """Rows of the stage score; a Tanimoto of 1 is an exact match."""
    cids = range(first, first + len(tanimoto))
    return pd.DataFrame(
        {
            "cid": cids,
            "id": [str(cid) for cid in cids],
            "reference": ["C" * (cid + 1) for cid in cids],
            "tanimoto": tanimoto,
            "exact": np.array(tanimoto) == 1.0,
            "valid": True,
        }
    )


def put(folder: Path, reader: str, rows: pd.DataFrame, test_set: str = "t", **facts: Any) -> Path:
    """The two files that the stage score writes about a reader."""
    scores = {
        "tanimoto": bootstrap(rows["tanimoto"].to_numpy(float)),
        "exact": wilson(int(rows["exact"].sum()), len(rows)),
        "exact_inchi": wilson(int(rows["exact"].sum()), len(rows)),
        "validity": wilson(int(rows["valid"].sum()), len(rows)),
    }
    found = {"name": reader, "test_set": test_set, "seconds_per_image": 0.02, "device": "CPU, 2 threads", **facts}
    path = folder / "scores" / test_set / f"{reader}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**found, "scores": {name: asdict(score) for name, score in scores.items()}}))
    rows.to_parquet(path.with_suffix(".parquet"), index=False)
    return folder


def put_missing(folder: Path, reader: str) -> None:
    path = folder / "scores" / "t" / f"{reader}.json"
    path.write_text(json.dumps({"name": reader, "missing": "it is not installed", "test_set": "t", "images": 0}))
    pd.DataFrame(columns=["cid", "id", "reference", "tanimoto", "exact", "valid"]).to_parquet(
        path.with_suffix(".parquet")
    )


def settle(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "experiment.yaml").write_text(yaml.safe_dump(settings))


A = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
B = [0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]  # McNemar: 1 against 7


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    a, b = put(tmp_path / "a", "one", table(A)), put(tmp_path / "b", "one", table(B), seconds_per_image=0.01)
    settle(a, SETTINGS)
    settle(b, SETTINGS)
    return a, b


def found(capsys: pytest.CaptureFixture[str], a: Path, b: Path) -> dict[str, Any]:
    compare(a, b, json=True)
    own: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    return own


def printed(capsys: pytest.CaptureFixture[str], a: Path, b: Path) -> list[str]:
    compare(a, b)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 120 for line in lines if not line.startswith(("A: ", "B: ")))
    return lines


def cells(lines: list[str], title: str, reader: str) -> list[str]:
    """The cells of a reader's line in one of the tables."""
    heads = [at for at, line in enumerate(lines) if line.startswith(f"  {title}  ")]
    (line,) = [line for line in lines[heads[0] : heads[0] + 8] if line.startswith(f"  {reader} ")][:1]
    return [cell.strip() for cell in line.strip().split("  ") if cell.strip()][1:]


# Statistics


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(1, 7, 0.0703125), (7, 1, 0.0703125), (0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 32), (0, 10, 2 / 1024)],
)
def test_mcnemar_is_the_binomial_of_the_discordant_pairs(only_a: int, only_b: int, p: float) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False])
    assert mcnemar(a, b) == pytest.approx(p)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2 / 32),
        ([-0.1, -0.2, -0.3, -0.4, -0.5], 2 / 32),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0], 2 / 32),  # a zero says nothing
        ([-0.1, 0.2, 0.3], 4 / 8),  # of the eight sums, 0.6 and 0.4 are as large, and as many as small
        ([0.5], 1.0),
        ([0.5, -0.5], 1.0),
        ([0.0, 0.0], 1.0),
        ([], 1.0),
    ],
)
def test_every_sign_is_tried_where_pictures_are_few(differences: list[float], p: float) -> None:
    assert sign_flip(np.array(differences, dtype=float)) == pytest.approx(p)


def test_random_signs_agree_with_the_normal_limit_and_are_the_same_every_time() -> None:
    differences = np.random.default_rng(1).normal(0.05, 0.5, 300)
    z = abs(differences.sum()) / np.sqrt((differences**2).sum())
    p = sign_flip(differences)
    assert p == pytest.approx(2 * norm.sf(z), abs=0.015)
    assert sign_flip(differences) == p
    assert sign_flip(-differences) == pytest.approx(p, abs=0.02)
    assert sign_flip(np.full(40, 0.1)) == pytest.approx(2 / 10_000)  # the least there can be


def test_holm_adjusts_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_picture_whose_reference_changed_is_another_one() -> None:
    a, b = table([0.1, 0.2, 0.3]), table([0.4, 0.5, 0.6], first=1)
    b.loc[0, "reference"] = "O"
    assert list(same_pictures(a, b)["cid"]) == [2]
    assert list(same_pictures(a, b.drop(columns="reference"))["cid"]) == [1, 2]


# Configuration


def test_settings_are_addressed_by_name_and_reported_in_one_line_each() -> None:
    a = {
        "models": [{"name": "one", "batch": 32}, {"name": "two", "batch": 8}],
        "steps": [{"x": 1}, {"x": 2}],
        "on": True,
    }
    b = {"models": [{"name": "two", "batch": 8}, {"name": "one", "batch": 64}, {"name": "new"}], "steps": [{"x": 1}]}
    assert [change.line() for change in changes(a, {**b, "on": 1, "more": None})] == [
        'models: order ["one", "two"] → ["two", "one"]',
        "models.one.batch: 32 → 64",
        'models.new: added, {"name": "new"}',
        'steps.1: removed, {"x": 2}',
        "on: true → 1",
        "more: added, null",
    ]
    assert list(changes({"x": float("nan"), "y": [1, {"z": []}]}, {"y": [1, {"z": []}], "x": float("nan")})) == []


def test_long_values_are_cut_to_where_they_differ() -> None:
    (change,) = changes({"key": ["x" * 500, "same"]}, {"key": ["x" * 500, "other"]})
    assert len(change.line()) <= 120
    before, after = change.line().split(" → ")
    assert "same" in before
    assert "other" in after
    (change,) = changes({}, {"key": "first line\n" + "x" * 500})
    assert change.line().startswith("key: added, first line\\nxxx")
    assert len(change.line()) <= 120


# Results folders


def test_every_score_is_compared_and_tested_on_the_same_pictures(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    settings = yaml.safe_load((b / "experiment.yaml").read_text())
    settings["models"][0]["training"]["batch"] = 64
    settle(b, settings)
    (b / "workflow.json").write_text('{"commit": "0123456789abcdef", "config_hash": "fedcba", "started": "2026-01-02"}')
    own = found(capsys, a, b)
    assert own["configuration"] == [{"key": "models.one.training.batch", "change": "changed", "a": 32, "b": 64}]
    (score,) = own["scores"]
    assert (score["images"], score["common"]) == ([10, 10], 10)
    exact, tanimoto = score["tests"]["exact"], score["tests"]["tanimoto"]
    assert exact["p"] == pytest.approx(0.0703125)
    assert (exact["a"], exact["b"], exact["differing"]) == (0.1, 0.7, 8)
    assert tanimoto["difference"]["value"] == pytest.approx(0.34)
    assert 0 < tanimoto["difference"]["low"] < 0.34 < tanimoto["difference"]["high"] <= 0.5
    assert tanimoto["p"] == pytest.approx(4 / 256)  # only the flip of the least difference is as extreme
    assert tanimoto["p_holm"] == pytest.approx(8 / 256)
    assert exact["p_holm"] == pytest.approx(0.0703125)
    lines = printed(capsys, a, b)
    assert lines[2] == "   started 2026-01-02, commit 0123456789ab, configuration fedcba"
    assert "  models.one.training.batch: 32 → 64" in lines
    assert "Scores on t: the same 10 pictures" in lines
    assert cells(lines, "Tanimoto", "one")[2:] == [*cells(lines, "Tanimoto", "one")[2:3], "0.0156", "0.0312"]
    assert cells(lines, "Tanimoto", "one")[2].startswith("+0.3400 [+0.")
    assert cells(lines, "exact match", "one")[3:] == ["0.0703", "0.0703"]
    assert cells(lines, "validity", "one") == ["1.0000 [0.7225–1.0000]"] * 2
    assert cells(lines, "seconds per image", "one") == ["0.0200", "0.0100", "× 0.50"]
    assert cells(lines, "other scores, A → B", "one") == ["0.1000 → 0.7000"]
    assert lines[-1].startswith("test. p (Holm) is adjusted for 2 tests")


def test_the_same_twice_is_no_difference(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = printed(capsys, folders[0], folders[0])
        (score,) = found(capsys, folders[0], folders[0])["scores"]
    assert "  nothing changed" in lines
    for title in ("Tanimoto", "exact match"):
        assert cells(lines, title, "one")[2:] == ["no difference", "1.0000", "1.0000"]
    for test in score["tests"].values():
        assert (test["p"], test["p_holm"], test["differing"]) == (1.0, 1.0, 0)
        assert test["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_holm_counts_only_what_differs(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in folders:
        put(folder, "cached", table(A))
    own = found(capsys, *folders)
    assert own["adjusted_for"] == 2
    assert [score["tests"]["exact"]["p_holm"] for score in own["scores"]] == pytest.approx([1.0, 0.0703125])


def test_other_pictures_are_left_out_of_the_tests(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    put(a, "other", table([0.5] * 4))
    put(b, "other", table([0.6] * 4, first=2))
    put(a, "none", table([0.5] * 4))
    put(b, "none", table([0.6] * 4, first=100))
    scores = {score["reader"]: score for score in found(capsys, a, b)["scores"]}
    assert (scores["other"]["images"], scores["other"]["common"]) == ([4, 4], 2)
    assert scores["other"]["tests"]["tanimoto"]["p"] == pytest.approx(0.5)
    assert scores["none"]["tests"] == {}
    lines = printed(capsys, a, b)
    assert "  none: 0 pictures in both, of A's 4 and B's 4: no test" in lines
    assert "  other: 2 pictures in both, of A's 4 and B's 4; differences and tests are on these" in lines
    assert cells(lines, "Tanimoto", "other")[2:] == []
    assert cells(lines, "Tanimoto", "  2 in both")[:2] == ["0.5000", "0.6000"]
    assert cells(lines, "Tanimoto", "  0 in both") == ["not tested"]


def test_what_is_in_one_only_or_was_not_measured_is_listed(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    (b / "experiment.yaml").unlink()
    put(a, "osra", table(A))
    put_missing(b, "osra")
    put(a, "old", table(A))
    put(b, "one", table(A), test_set="new")
    lines = printed(capsys, a, b)
    assert "  not compared: there is no experiment.yaml in B" in lines
    notes = ["only in A: t/old", "only in B: new/one", "t/osra: not measured in B (it is not installed)"]
    assert [line for line in lines if line in notes] == notes


def test_older_scores_and_empty_ones_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, empty = table(A).drop(columns="reference"), table([])
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, rows in ((a, table(A)), (b, old)):
        put(folder, "one", rows)
        put(folder, "empty", empty, seconds_per_image=None)
    scores = {score["reader"]: score for score in found(capsys, a, b)["scores"]}
    assert scores["one"]["common"] == 10
    assert scores["empty"]["scores"]["tanimoto"] == [{"value": None, "low": None, "high": None}] * 2
    assert cells(printed(capsys, a, b), "exact match", "empty") == ["–", "–"]


def bad_folder(a: Path, b: Path, what: str) -> None:
    """Spoil B."""
    score = b / "scores" / "t" / "one.json"
    match what:
        case "empty":
            shutil.rmtree(b / "scores")
        case "lacks pictures":
            score.with_suffix(".parquet").unlink()
        case "cut pictures":
            score.with_suffix(".parquet").write_bytes(score.with_suffix(".parquet").read_bytes()[:500])
        case "no column":
            table(B).drop(columns="exact").to_parquet(score.with_suffix(".parquet"))
        case "twice":
            pd.concat([table(B), table(B)]).to_parquet(score.with_suffix(".parquet"))
        case "json":
            score.write_text('{"scores": ')
        case "no scores":
            score.write_text("{}")
        case "no number":
            score.write_text(score.read_text().replace('"value": 0.7', '"value": "high"'))
        case "yaml":
            (b / "experiment.yaml").write_text("models: [\n")
        case "workflow":
            (b / "workflow.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", r"b: not a results folder, there is no scores/TEST_SET/READER.json; run the workflow"),
        ("lacks pictures", r"one.parquet: missing, beside .*one.json; run the workflow again"),
        ("cut pictures", r"one.parquet: damaged or unreadable \(.*\); remove it and run the workflow again"),
        ("no column", r"one.parquet: damaged, it lacks exact; remove it"),
        ("twice", r"one.parquet: damaged, a picture is there twice"),
        ("json", r"one.json: damaged or unreadable \(.*\); remove it"),
        ("no scores", r"one.json: damaged, it lacks scores"),
        ("no number", r"one.json: damaged, a score lacks its value or interval"),
        ("yaml", r"experiment.yaml: damaged or unreadable \(.*\); remove it"),
        ("workflow", r"workflow.json: damaged or unreadable"),
    ],
)
def test_bad_folders_are_reported_in_one_line(folders: tuple[Path, Path], what: str, message: str) -> None:
    bad_folder(*folders, what)
    with pytest.raises(UserError, match=message) as caught:
        compare(*folders)
    assert "\n" not in str(caught.value)


def test_the_command_leaves_with_0_or_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocsrflow", "compare", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"A: results folder {folders[0]}\n")
    done = subprocess.run([*command[:-1], "0" * 32], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ocsrflow compare: error: {'0' * 32}: not a results folder")
    assert done.stderr.count("\n") == 1
