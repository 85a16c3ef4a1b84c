"""The pair rule, against cases worked by hand."""

from pathlib import Path

import pandas as pd
import pytest
from ocsrflow.ensemble import ensemble, pair_matrix, pair_points, vote
from ocsrflow.errors import UserError
from ocsrflow.files import read_json, write_json
from ocsrflow.metrics import tanimoto


def test_the_slides_totals() -> None:
    # Pair(1,2) > Pair(1,3) > Pair(2,3)
    assert pair_points({(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.7}, 3) == (5, 4, 3)


def test_four_members_by_hand() -> None:
    ranked = {(2, 3): 0.9, (0, 3): 0.8, (1, 3): 0.7, (0, 1): 0.6, (0, 2): 0.5, (1, 2): 0.4}
    # 6 to 2 and 3; 5 to 0 and 3; 4 to 1 and 3; 3 to 0 and 1; 2 to 0 and 2; 1 to 1 and 2
    assert pair_points(ranked, 4) == (5 + 3 + 2, 4 + 3 + 1, 6 + 2 + 1, 6 + 5 + 4)


def test_nothing_valid_gives_the_first_members_text() -> None:
    assert vote(["C(C", "xx", ""]).winner == 0


def test_one_valid_prediction_wins() -> None:
    found = vote(["C(C", "xx", "CCO"])
    assert (found.winner, found.agreement) == (2, 0.0)


def test_a_perfect_pair_wins_without_a_vote() -> None:
    found = vote(["CCCCCCN", "OCC", "CCO"])
    assert found.winner == 1
    assert found.points == (0, 0, 0)


def test_the_most_points_win_and_invalid_ones_get_none() -> None:
    texts = ["CCCCO", "C(C", "CCCCCO", "CCCCN"]
    found = vote(texts)
    similarity = {(i, j): tanimoto(texts[i], texts[j]) for i, j in ((0, 2), (0, 3), (2, 3))}
    assert similarity[0, 2] > similarity[0, 3] > similarity[2, 3]
    assert found.points == (5, 0, 4, 3)
    assert found.winner == 0
    assert found.agreement == pytest.approx(sum(similarity.values()) / 6)


def test_ties_go_to_the_earlier_member() -> None:
    # Two valid predictions have one pair, and one point each.
    assert vote(["CCO", "CCN"]).winner == 0
    assert vote(["CCN", "CCO"]).winner == 0


def member(folder: Path, name: str, texts: list[str], cids: list[int]) -> tuple[Path, Path]:
    rows = pd.DataFrame({"cid": cids, "reference": "CCO", "prediction": texts})
    rows.to_parquet(folder / f"{name}.parquet", index=False)
    facts = {"name": name, "key": name, "seconds_per_image": 0.25, "device": "CPU"}
    write_json(folder / f"{name}.json", facts)
    return folder / f"{name}.parquet", folder / f"{name}.json"


def run_ensemble(folder: Path, members: list[tuple[Path, Path]]) -> pd.DataFrame:
    tables, facts = (list(column) for column in zip(*members, strict=True))
    out = folder / "e.parquet"
    ensemble(predictions=tables, member_facts=facts, name="e", out=out, facts=folder / "e.json")
    return pd.read_parquet(out)


def test_the_stage_votes_picture_by_picture(tmp_path: Path) -> None:
    members = [
        member(tmp_path, "a", ["CCO", "C(C"], [1, 2]),
        member(tmp_path, "b", ["CCO", "CCN"], [1, 2]),
        member(tmp_path, "c", ["CCN", "C(C"], [1, 2]),
    ]
    rows = run_ensemble(tmp_path, members)
    assert rows["prediction"].tolist() == ["CCO", "CCN"]
    assert rows["winner"].tolist() == ["a", "b"]
    facts = read_json(tmp_path / "e.json")
    assert facts["seconds_per_image"] == pytest.approx(0.75, abs=0.05)
    assert facts["pairs"][0][1] == 1.0
    assert facts["pairs"][0][2] == pytest.approx(tanimoto("CCO", "CCN"))


def test_predictions_of_other_pictures_are_refused(tmp_path: Path) -> None:
    members = [member(tmp_path, "a", ["C", "C"], [1, 2]), member(tmp_path, "b", ["C", "C"], [1, 3])]
    with pytest.raises(UserError, match="CID 2 is in one only"):
        run_ensemble(tmp_path, members)


def test_the_pair_matrix_leaves_invalid_predictions_out() -> None:
    tables = [pd.DataFrame({"prediction": texts}) for texts in (["CC", "CC"], ["CC", "C(C"])]
    assert pair_matrix(tables).tolist() == [[1.0, 1.0], [1.0, 1.0]]
