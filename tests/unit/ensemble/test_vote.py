"""The stage that lets models decide together, on small files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ocsrflow.chem.similarity import tanimoto
from ocsrflow.ensemble.vote import pair_matrix, vote
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json

METHODS = ["pairs", "medoid", "votes", "rescored", "redrawn"]


def member(
    folder: Path, name: str, candidates: list[list[str]], *, cids: list[int] | None = None, ids: list[str] | None = None
) -> tuple[Path, Path]:
    """Predictions of a model and its facts; what it reads is the first of its candidates."""
    cids = cids or list(range(1, len(candidates) + 1))
    pd.DataFrame(
        {
            "cid": cids,
            "id": ids or [str(cid) for cid in cids],
            "reference": "CCO",
            "prediction": [texts[0] for texts in candidates],
            "log_probability": -0.5,
            "candidates": candidates,
        }
    ).to_parquet(folder / f"{name}.parquet", index=False)
    facts = {"name": name, "kind": "model", "key": name, "seconds_per_image": 0.25, "device": "CPU"}
    write_json(folder / f"{name}.json", facts)
    return folder / f"{name}.parquet", folder / f"{name}.json"


def redrawn(folder: Path, name: str, distances: list[list[float]]) -> tuple[Path, Path]:
    out = folder / f"{name}.redrawn.parquet"
    pd.DataFrame({"cid": range(1, len(distances) + 1), "distances": distances}).to_parquet(out, index=False)
    write_json(out.with_suffix(".json"), {"name": name, "seconds_per_image": 2.0})
    return out, out.with_suffix(".json")


def likelihoods(folder: Path, names: list[str], rows: list[dict[str, list[float]]]) -> tuple[Path, Path]:
    """Of each picture, by candidate, one of each model."""
    out = folder / "likelihoods.parquet"
    pd.DataFrame(
        {
            "cid": range(1, len(rows) + 1),
            "candidates": [list(row) for row in rows],
            "likelihoods": [list(row.values()) for row in rows],
        }
    ).to_parquet(out, index=False)
    write_json(out.with_suffix(".json"), {"members": names, "seconds_per_image": [1.0, 0.5, 2.5][: len(names)]})
    return out, out.with_suffix(".json")


def split(files: list[tuple[Path, Path]]) -> tuple[list[Path], list[Path]]:
    tables, facts = zip(*files, strict=True)
    return list(tables), list(facts)


def decide(folder: Path, members: list[tuple[Path, Path]], **more: Any) -> pd.DataFrame:
    tables, facts = split(members)
    vote(predictions=tables, member_facts=facts, name="e", folder=folder / "out", **more)
    return pd.read_parquet(folder / "out" / "e.parquet")


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Any]:
    """Three models, what they think of each other's candidates and how those look; two pictures."""
    files = [
        member(tmp_path, "a", [["CCN", "CCO"], ["C(C", "CC("]]),
        member(tmp_path, "b", [["CCN", "CCC"], ["CCN"]]),
        member(tmp_path, "c", [["CCC", "CCS"], ["C(C"]]),
    ]
    tables, facts = split(files)
    drawn, drawn_facts = split(
        [
            redrawn(tmp_path, "a", [[0.9, 0.4], [math.nan, math.nan]]),
            redrawn(tmp_path, "b", [[0.9, 0.5], [0.25]]),
            redrawn(tmp_path, "c", [[0.5, 0.1], [math.nan]]),
        ]
    )
    one = {"CCN": [-1.0, -1.0, -9.0], "CCO": [-2.0, -2.0, -2.0], "CCC": [-3.0, -3.0, -0.5], "CCS": [-3.0, -4.0, -0.25]}
    likely, likely_facts = likelihoods(
        tmp_path,
        ["c", "a", "b"],
        [{text: [values[2], values[0], values[1]] for text, values in one.items()}, {"CCN": [-1.0, -2.0, -3.0]}],
    )
    return {
        "predictions": tables,
        "member_facts": facts,
        "redrawn": drawn,
        "redrawn_facts": drawn_facts,
        "likelihoods": likely,
        "likelihood_facts": likely_facts,
        "name": "e",
        "folder": tmp_path / "out",
        "methods": METHODS,
    }


def test_every_method_has_its_own_files(three: dict[str, Any]) -> None:
    vote(**three)
    folder = three["folder"]
    taken = {}
    for method in [*METHODS, "oracle"]:
        reader = "e" if method == "pairs" else f"e.{method}"
        rows, facts = pd.read_parquet(folder / f"{reader}.parquet"), read_json(folder / f"{reader}.json")
        assert list(rows) == [
            "cid",
            "id",
            "reference",
            "complete",
            "prediction",
            "agreement",
            "log_probability",
            "distance",
            "valid",
            "winner",
        ]
        assert rows["cid"].tolist() == [1, 2]
        assert rows["prediction"][1] == "CCN"
        assert rows["winner"][1] == "b"
        assert rows["valid"].all()
        assert (facts["name"], facts["ensemble"], facts["method"]) == (reader, "e", method)
        assert facts["kind"] == ("ceiling" if method == "oracle" else "ensemble")
        assert facts["members"] == ["a", "b", "c"]
        assert facts["wins"] == {name: int((rows["winner"] == name).sum()) for name in "abc"}
        taken[method] = (rows["prediction"][0], rows["winner"][0])
    assert taken == {
        "pairs": ("CCN", "a"),
        "medoid": ("CCN", "a"),
        "votes": ("CCN", "a"),
        "rescored": ("CCO", ""),  # -2, against -11/3, -6.5/3 and -7.25/3
        "redrawn": ("CCS", ""),
        "oracle": ("CCN", "a") if tanimoto("CCN", "CCO") >= tanimoto("CCC", "CCO") else ("CCC", "c"),
    }
    assert len({read_json(path)["key"] for path in folder.glob("*.json")}) == 6


def test_time_is_that_of_all_that_a_method_needs(three: dict[str, Any]) -> None:
    vote(**three)
    expected = {"e": 0.75, "e.votes": 0.75, "e.rescored": 4.75, "e.redrawn": 4.75 + 3 * 2.0, "e.oracle": 0.75}
    for reader, seconds in expected.items():
        facts = read_json(three["folder"] / f"{reader}.json")
        assert facts["seconds_per_image"] == pytest.approx(seconds + facts["seconds_per_vote"])
        assert (facts["seconds_per_vote"] > 0) == (reader != "e.oracle")


def test_who_is_not_chosen_has_no_say(three: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "choice.json", {"members": ["b", "a"]})
    vote(**three, choice=tmp_path / "choice.json")
    rows = {method: pd.read_parquet(three["folder"] / f"e.{method}.parquet") for method in ("rescored", "redrawn")}
    facts = read_json(three["folder"] / "e.redrawn.json")
    assert facts["members"] == ["b", "a"]
    assert facts["seconds_per_image"] == pytest.approx(0.5 + (2.5 + 0.5) + 4.0 + facts["seconds_per_vote"])
    # CCS was c's proposal only; and c's likelihood of CCN counts no more.
    assert rows["redrawn"]["prediction"][0] == "CCO"
    assert rows["rescored"][["prediction", "winner", "log_probability"]].iloc[0].tolist() == ["CCN", "b", -1.0]
    assert rows["rescored"]["log_probability"][1] == pytest.approx((-2.0 - 3.0) / 2)
    assert rows["rescored"]["distance"].tolist() == [0.9, 0.25]


def test_a_program_without_probabilities_is_a_member(three: dict[str, Any], tmp_path: Path) -> None:
    """OSRA's answers are no model's: what models think of them counts, it thinks nothing of theirs."""
    table, facts = three["predictions"][2], three["member_facts"][2]
    pd.read_parquet(table).assign(log_probability=math.nan, complete=True).to_parquet(table, index=False)
    write_json(facts, read_json(facts) | {"kind": "baseline"})
    two = {text: [-1.0, -2.0] for text in ("CCN", "CCO", "CCC", "CCS")} | {"CCS": [-0.5, -0.5]}
    likely, likely_facts = likelihoods(tmp_path, ["a", "b"], [two, {"CCN": [-2.0, -3.0]}])
    vote(**three | {"likelihoods": likely, "likelihood_facts": likely_facts})
    names = {method: "e" if method == "pairs" else f"e.{method}" for method in METHODS}
    rows = {method: pd.read_parquet(three["folder"] / f"{name}.parquet") for method, name in names.items()}
    assert rows["pairs"]["prediction"].tolist() == ["CCN", "CCN"]
    assert rows["votes"]["prediction"].tolist() == ["CCN", "CCN"]
    assert rows["rescored"][["prediction", "log_probability"]].iloc[0].tolist() == ["CCS", -0.5]
    assert rows["redrawn"]["prediction"][0] == "CCS"  # its own proposal
    assert read_json(three["folder"] / "e.json")["members"] == ["a", "b", "c"]


def test_a_member_that_is_not_installed_is_named(three: dict[str, Any]) -> None:
    facts = three["member_facts"][2]
    write_json(facts, read_json(facts) | {"missing": "c is not installed: apt install c"})
    with pytest.raises(UserError, match="c is to answer together with others, but c is not installed: apt install c"):
        vote(**three)


def test_a_choice_of_models_that_are_not_there_is_refused(three: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "choice.json", {"members": ["b", "d"]})
    with pytest.raises(UserError, match=r"choice\.json: d is not among the models given \(a, b, c\)"):
        vote(**three, choice=tmp_path / "choice.json")


@pytest.mark.parametrize(
    ("method", "without", "needed"),
    [
        ("rescored", "likelihoods", "needs --likelihoods"),
        ("redrawn", "likelihoods", "needs --likelihoods"),
        ("redrawn", "redrawn", "needs --redrawn"),
    ],
)
def test_what_a_method_needs_is_asked_for(three: dict[str, Any], method: str, without: str, needed: str) -> None:
    with pytest.raises(UserError, match=f"the method {method} {needed}"):
        vote(**{**three, "methods": [method], without: None})
    assert not three["folder"].exists()


def test_without_a_pool_the_plain_methods_do(three: dict[str, Any]) -> None:
    vote(**{name: three[name] for name in ("predictions", "member_facts", "name", "folder")})
    rows = pd.read_parquet(three["folder"] / "e.parquet")
    assert rows["distance"].isna().all()
    assert rows["log_probability"].tolist() == [-0.5, -0.5]
    assert sorted(path.name for path in three["folder"].iterdir()) == [
        "e.json",
        "e.oracle.json",
        "e.oracle.parquet",
        "e.parquet",
    ]


def test_distances_alone_are_handed_on(three: dict[str, Any]) -> None:
    vote(**{**three, "methods": ["pairs"], "likelihoods": None, "likelihood_facts": None})
    rows = pd.read_parquet(three["folder"] / "e.parquet")
    assert rows["distance"].tolist() == [0.9, 0.25]
    assert rows["log_probability"].tolist() == [-0.5, -0.5]


def test_likelihoods_of_other_models_are_refused(three: dict[str, Any]) -> None:
    write_json(three["likelihood_facts"], {"members": ["a", "b"], "seconds_per_image": [1.0, 1.0]})
    with pytest.raises(UserError, match="has no likelihoods of c; make it again"):
        vote(**three)


def test_distances_of_other_candidates_are_refused(three: dict[str, Any], tmp_path: Path) -> None:
    redrawn(tmp_path, "b", [[0.9], [0.25]])
    with pytest.raises(UserError, match=r"b\.redrawn\.parquet: not the distances of the candidates"):
        vote(**three)


def test_predictions_of_other_pictures_are_refused(tmp_path: Path) -> None:
    one = member(tmp_path, "a", [["C"], ["C"]], cids=[1, 2])
    with pytest.raises(UserError, match="CID 2 is in one only"):
        decide(tmp_path, [one, member(tmp_path, "b", [["C"], ["C"]], cids=[1, 3])])
    with pytest.raises(UserError, match="the order differs"):
        decide(tmp_path, [one, member(tmp_path, "b", [["C"], ["C"]], cids=[2, 1])])
    with pytest.raises(UserError, match=r"picture 2 is in one only"):
        decide(tmp_path, [one, member(tmp_path, "b", [["C"], ["C"]], cids=[1, 2], ids=["1", "x.png"])])


def test_the_pictures_order_does_not_matter(tmp_path: Path) -> None:
    texts = {"a": ["CCO", "CCCN", "C(C", "c1ccccc1"], "b": ["CCN", "CCCN", "CCC", "C1CCCCC1"]}
    texts["c"] = ["CCO", "CCN", "CCCC", "c1ccncc1"]
    straight = decide(tmp_path, [member(tmp_path, n, [[t] for t in of]) for n, of in texts.items()])
    cids = [4, 3, 2, 1]
    turned = decide(tmp_path, [member(tmp_path, n, [[t] for t in of[::-1]], cids=cids) for n, of in texts.items()])
    pd.testing.assert_frame_equal(straight, turned[::-1].reset_index(drop=True))


def test_the_pair_matrix_leaves_invalid_predictions_out() -> None:
    similarity = np.array([[[1.0, 0.4], [0.4, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
    valid = np.array([[True, True], [True, False]])
    assert pair_matrix(similarity, valid).tolist() == [[1.0, 0.4], [0.4, 1.0]]
    assert pair_matrix(similarity[1:], valid[1:]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
