"""The command that scores anybody's predictions: its table, its JSON, and what it says of bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from ocsrflow.chem.scores import EXACT, evaluate
from ocsrflow.evaluation.evaluate import metrics
from ocsrflow.runtime.errors import UserError
from support.data import GOLD, nci


def write(path: Path, rows: dict[str, str], header: str = "id,smiles", bom: bool = False) -> Path:
    lines = [header, *(f"{key},{text}" for key, text in rows.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if bom else "utf-8")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocsrflow", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_json_has_every_score_and_nothing_holds_it_up(tmp_path: Path) -> None:
    right = dict(enumerate(nci(60), start=1))
    references = {str(key): text for key, text in right.items()} | {
        "gold": "CCO",
        "long": "CCN",
        "NA": "CC=C",
        "no": "",
        "slow": GOLD,
    }
    predictions = dict(reversed(references.items()))  # in another order
    predictions |= {"1": "C(C", "2": "", "3": "NA", "gold": GOLD, "long": "C(" * 5000, "no": "C", "slow": "C"}
    done = run(
        write(tmp_path / "p.csv", {f" {key} ": f" {text}" for key, text in predictions.items()}, bom=True),
        write(tmp_path / "r.csv", references),
        "--json",
        "--processes",
        2,
        "--seconds",
        1,
    )
    assert done.returncode == 0
    found = json.loads(done.stdout)
    ids = [key for key in references if key not in ("gold", "no", "slow")]
    plain = evaluate(["C(C", *(predictions[key] for key in ids)], ["CCO", *(references[key] for key in ids)])
    assert set(plain.scores) == {"tanimoto", *EXACT, "validity", "perfect"}
    for name, score in plain.scores.items():
        assert found[name] == pytest.approx(score.value)
        if name != "tanimoto":  # the bootstrap draws in the order of the rows
            assert found["intervals"][name] == [score.low, score.high]
    low, high = found["intervals"]["tanimoto"]
    assert low < found["tanimoto"] < high
    counts = {name: found[name] for name in ("pairs", "invalid_predictions", "dropped_references", "dropped_ids")}
    assert counts == {
        "pairs": 63,
        "invalid_predictions": 5,
        "dropped_references": 2,
        "dropped_ids": ["no", "slow"],
    }
    assert set(found["groups"]) == {"length", "stereo", "rings", "elements"}
    assert sum(row["images"] for row in found["groups"]["rings"]) == 63
    row = found["groups"]["elements"][0]
    assert set(row) == {"group", "images", "tanimoto", "exact", "validity", "intervals"}
    assert row["intervals"]["exact"][0] < row["exact"] < row["intervals"]["exact"][1]
    prediction, reference = [line for line in done.stderr.splitlines() if "given up" in line]
    assert "p.csv: id gold: counted as invalid" in prediction
    assert "r.csv: id slow: dropped" in reference


def test_the_table_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = {"a": "CCO", "b": "c1ccccc1", "c": "C(C"}
    metrics(write(tmp_path / "p.csv", references), write(tmp_path / "r.csv", references), processes=1)
    out, err = capsys.readouterr()
    first, _, heads, tanimoto, *_ = out.splitlines()
    assert first == "pairs: 2, invalid predictions among them: 0, dropped references: 1 (c)"
    assert heads.split() == ["score", "value", "95", "%", "interval"]
    assert tanimoto.split() == ["tanimoto", "1.0000", "1.0000", "to", "1.0000"]
    assert "\nrings " in out
    assert err == ""


def test_no_scores_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "p.csv", {"1": ""})
    metrics(path, path, json=True, processes=1)
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: math.nan)
    assert found["tanimoto"] is None
    assert found["intervals"]["exact"] == [None, None]
    metrics(path, path, processes=1)
    assert "dropped references: 1 (1)" in capsys.readouterr().out


GOOD = "id,smiles\n1,C\n2,CC\n3,CCC\n"
BAD = {
    "": "empty",
    "\n\n": "empty",
    "id,smiles\n": "no rows",
    "id,SMILES\n1,C\n": "no column called smiles, separated by commas; its first line is 'id,SMILES'",
    "cid\tsmiles\n1\tC\n": "no column called id, separated by commas; its first line is 'cid\\\\tsmiles'",
    "id,smiles,smiles\n1,C,C\n": "two columns called smiles",
    "id,smiles\n1,C\n2\n": "line 3: 1 cells under 2 columns",
    "id,smiles\n1,C,C\n": "line 2: 3 cells under 2 columns",
    'id,smiles\n1,"C\n': "not a CSV file in UTF-8",
    "id,smiles\n1,C\n2,C\n1,C\n 2,C\n": r"2 ids more than once \(1, 2\)",
    "id,smiles\n1,C\n2,C\n4,C\n5,C\n": r"2 only in .*p.csv \(4, 5\), 1 only in .*r.csv \(3\)$",
    "id,smiles\n01,C\n2,CC\n3,CCC\n": r"1 only in .*p.csv \(01\), 1 only in .*r.csv \(1\)$",
}


def test_empty_rows_and_cells_of_any_length_are_no_reason_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, references = tmp_path / "p.csv", tmp_path / "r.csv"
    predictions.write_text(f"id,smiles\n1,CCO\n,\n2,{'C(' * 100_000}\n,\n")
    references.write_text("id,smiles\n1,CCO\n2,CC\n")
    metrics(predictions, references, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], found["exact"], found["validity"]) == (2, 0.5, 0.5)


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_bad_input_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    predictions, references = tmp_path / "p.csv", tmp_path / "r.csv"
    predictions.write_text(text)
    references.write_text(GOOD)
    with pytest.raises(UserError, match=message) as caught:
        metrics(predictions, references)
    assert "\n" not in str(caught.value)
    assert "p.csv" in str(caught.value)


@pytest.mark.parametrize("data", [b"id,smiles\n1,\xff\xfe\n", b"PAR1\x00\x15\x04\x80", "id,smiles\n".encode("utf-16")])
def test_what_is_not_utf_8_is_reported(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        metrics(path, path)


def test_the_command_leaves_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.csv").write_text(GOOD)
    Path("p.csv").write_text(GOOD + "4,C\n")
    done = run("p.csv", "r.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ocsrflow evaluate: error: p.csv and r.csv need the same ids: 1 only in p.csv (4)\n"
    with pytest.raises(UserError, match="--processes 0: give a number above 0"):
        metrics(Path("r.csv"), Path("r.csv"), processes=0)
