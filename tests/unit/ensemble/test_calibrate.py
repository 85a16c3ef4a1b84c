"""Confidences, on made-up predictions whose truth is known, and the stage on small files."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsrflow.chem.scores import wilson
from ocsrflow.ensemble.calibrate import Calibration, auroc, calibrate, confidence, fit, reliability
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json

NO_MOLECULE = pd.DataFrame({"log_probability": [-60.0], "agreement": [0.2], "distance": [1.0], "valid": [True]})
PERFECT = pd.DataFrame({"log_probability": [-1e-4], "agreement": [1.0], "distance": [0.0], "valid": [True]})


def made_up(pictures: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Predictions that are right with the probability that the model gives, and look accordingly."""
    random = np.random.default_rng(seed)
    probability = random.beta(2, 0.7, pictures)
    exact = random.random(pictures) < probability
    rows = pd.DataFrame(
        {
            "log_probability": np.log(np.maximum(probability, 1e-9)),
            "agreement": np.where(exact, 1 - random.beta(1, 20, pictures), random.beta(3, 2, pictures)),
            "distance": np.where(exact, random.beta(1, 30, pictures), random.beta(2, 8, pictures)),
            "valid": True,
        }
    )
    return rows, exact


def test_a_model_that_knows_itself_is_believed() -> None:
    rows, exact = made_up(4000)
    found = confidence(rows[["log_probability", "valid"]], fit(rows[["log_probability", "valid"]], exact))
    assert np.abs(found - np.exp(rows["log_probability"])).max() < 0.05


def test_on_other_pictures_the_confidence_is_the_share_that_is_right() -> None:
    calibration = fit(*made_up(2000))
    rows, exact = made_up(4000, seed=1)
    found = confidence(rows, calibration)
    assert calibration.features == ["log_probability", "agreement", "distance"]
    for part in reliability(found, exact, np.zeros(len(rows)), bins=5):
        assert part["exact"]["low"] - 0.05 < part["mean"] < part["exact"]["high"] + 0.05
    area = auroc(found, exact)
    assert area is not None
    assert area > max(auroc(rows["log_probability"].to_numpy(), exact) or 0, 0.9)


def test_more_of_what_is_good_is_never_worse() -> None:
    calibration = fit(*made_up(500))
    assert min(calibration.coefficients) > 0
    rows, _ = made_up(50, seed=2)
    better = rows.assign(
        log_probability=rows["log_probability"] / 2,
        agreement=(1 + rows["agreement"]) / 2,
        distance=rows["distance"] / 2,
    )
    assert (confidence(better, calibration) >= confidence(rows, calibration)).all()


def test_what_says_the_opposite_is_left_out() -> None:
    rows, exact = made_up(2000)
    rows["agreement"] = 1 - rows["agreement"]
    assert fit(rows, exact).features == ["log_probability", "distance"]
    alone = fit(rows[["agreement", "valid"]], exact)
    assert alone.features == []
    assert confidence(rows, alone) == pytest.approx(np.full(2000, exact.mean()), abs=0.001)


@pytest.mark.parametrize("columns", [["log_probability"], ["log_probability", "distance"], [*NO_MOLECULE.columns[:3]]])
@pytest.mark.parametrize("kind", ["learnt", "nearly all right", "all right", "five, all right", "none right"])
def test_a_picture_of_no_molecule_gets_no_confidence(columns: list[str], kind: str) -> None:
    rows, exact = made_up(1000)
    if kind == "nearly all right":
        chosen = exact | (np.arange(1000) == int(np.argmin(exact)))
        rows, exact = rows[chosen], exact[chosen]
    elif kind == "none right":
        rows, exact = rows[~exact], exact[~exact]
    elif "all right" in kind:
        rows, exact = rows[exact], exact[exact]
        rows, exact = (rows[:5], exact[:5]) if "five" in kind else (rows, exact)
    calibration = fit(rows[[*columns, "valid"]], exact)
    nothing, perfect = (float(confidence(picture, calibration)[0]) for picture in (NO_MOLECULE, PERFECT))
    assert nothing < 0.1
    if kind in ("learnt", "nearly all right", "all right"):
        assert perfect > 0.9
    if kind == "none right":
        assert perfect < 0.2


def test_few_pictures_without_any_feature_get_their_share() -> None:
    rows = pd.DataFrame({"valid": [True, True, True]})
    found = fit(rows, np.array([True, True, False]))
    assert confidence(rows, found) == pytest.approx([3 / 5] * 3)  # Laplace's rule of succession
    nothing = fit(rows[:0], np.array([], dtype=bool))
    assert confidence(rows, nothing) == pytest.approx([1 / 2] * 3)


@settings(max_examples=25)
@given(
    st.sampled_from([-0.1, -1 / 3, -7.0, None]),
    st.sampled_from([0.2, 2 / 3, 1.0, None]),
    st.sampled_from([0.0, 0.1, 1.0, None]),
    st.integers(1, 60),
    st.floats(0, 1),
)
def test_together_they_are_as_confident_as_they_are_right(
    log_probability: float | None, agreement: float | None, distance: float | None, pictures: int, share: float
) -> None:
    # Columns may be the same everywhere; None stands for columns that differ.
    rows, _ = made_up(pictures)
    for name, value in zip(rows.columns, (log_probability, agreement, distance), strict=False):
        rows[name] = rows[name] if value is None else value
    exact = np.random.default_rng(0).random(pictures) < share
    found = confidence(rows, fit(rows, exact))
    assert abs(found.sum() - exact.sum()) < 1.1  # the two made-up pictures have one right answer


def test_invalid_predictions_have_no_confidence_and_do_not_teach() -> None:
    rows, exact = made_up(300)
    broken = rows.assign(valid=False)
    calibration = fit(pd.concat([rows, broken]), np.concatenate([exact, np.zeros(300, bool)]))
    assert calibration.coefficients == fit(rows, exact).coefficients
    assert calibration.pictures == 600
    assert calibration.exact_share == pytest.approx(exact.mean() / 2)
    assert (confidence(broken, calibration) == 0).all()


def test_a_distance_that_is_unknown_is_the_worst() -> None:
    rows, exact = made_up(300)
    rows.loc[::7, "distance"] = math.nan
    calibration = fit(rows, exact)
    without = confidence(rows.assign(distance=math.nan), calibration)
    assert without == pytest.approx(confidence(rows.assign(distance=1.0), calibration))
    assert np.isfinite(without).all()
    assert "distance" not in fit(rows.assign(distance=math.nan), exact).features


def test_a_column_that_is_missing_is_named() -> None:
    calibration = fit(*made_up(100))
    with pytest.raises(UserError, match="learnt with distance, which these predictions lack"):
        confidence(PERFECT.drop(columns="distance"), calibration)


def test_a_calibration_goes_through_json() -> None:
    rows, exact = made_up(100)
    calibration = fit(rows, exact)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False)))
    assert again == calibration


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(-1e6, 0), st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=8))
def test_whatever_is_learnt_from_confidences_are_probabilities(
    pictures: list[tuple[float, float, float, bool]],
) -> None:
    rows = pd.DataFrame(pictures, columns=["log_probability", "agreement", "distance", "exact"]).assign(valid=True)
    calibration = fit(rows, rows["exact"].to_numpy(bool))
    both = confidence(pd.concat([NO_MOLECULE, PERFECT]), calibration)
    assert 0 <= both[0] <= both[1] <= 1


def test_parts_of_a_calibration_curve_by_hand() -> None:
    values = np.array([0.9, 0.1, 0.2, 1.0, 1.0, math.nan])
    exact = np.array([True, False, False, True, False, True])
    similarity = np.array([1.0, 0.2, 0.4, 1.0, 0.5, 1.0])
    low, middle, high = reliability(values, exact, similarity, bins=3)
    # Ranks 1, 2, 3, 4.5 and 4.5 of five: those below 5/3 + 0.5, below 10/3 + 0.5, and the rest.
    assert (low["low"], low["high"], low["images"]) == (0.1, 0.2, 2)
    assert low["tanimoto"] == pytest.approx(0.3)
    assert (middle["mean"], middle["images"]) == (0.9, 1)
    assert (high["low"], high["high"], high["images"]) == (1.0, 1.0, 2)
    assert high["exact"] == {"value": 0.5, "low": wilson(1, 2).low, "high": wilson(1, 2).high}
    assert reliability(values[:0], exact[:0], similarity[:0]) == []
    assert [part["images"] for part in reliability(np.ones(7), np.ones(7, bool), np.ones(7))] == [7]


@given(st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]) | st.floats(0, 1), max_size=60), st.integers(1, 12))
def test_every_picture_is_in_one_part_of_the_curve(values: list[float], bins: int) -> None:
    parts = reliability(np.array(values), np.ones(len(values), bool), np.ones(len(values)), bins)
    assert sum(part["images"] for part in parts) == len(values)
    assert len(parts) <= bins
    assert all(a["high"] < b["low"] for a, b in itertools.pairwise(parts))


def test_the_area_under_the_curve_by_hand() -> None:
    values = np.array([-math.inf, 0.5, 0.4, 0.9, math.nan])
    # Of four pairs of a right and a wrong one, three are in order.
    assert auroc(values, np.array([False, False, True, True, False])) == 0.75
    assert auroc(values, np.ones(5, bool)) is None
    assert auroc(values, np.zeros(5, bool)) is None


def test_the_stage_calibrates_a_single_model(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "cid": range(6),
            "reference": ["CCO", "CCN", "CCC", "CCS", "CCF", "not parsed"],
            "prediction": ["OCC", "CCN", "CC", "C(C", "CCF", "CC"],
            "log_probability": [-0.1, -0.2, -3.0, -9.0, -0.1, -0.1],
        }
    )
    rows.to_parquet(tmp_path / "p.parquet", index=False)
    distances = [[0.01, 0.5], [0.02], [0.5], [math.nan, 0.1], [0.0], []]
    pd.DataFrame({"cid": range(6), "distances": distances}).to_parquet(tmp_path / "r.parquet", index=False)
    calibrate(tmp_path / "p.parquet", redrawn=tmp_path / "r.parquet", out=tmp_path / "c.json")
    found = Calibration.from_json(read_json(tmp_path / "c.json"))
    assert (found.pictures, found.exact_share) == (5, 0.6)
    assert found.features == ["log_probability", "distance"]
    pd.DataFrame({"cid": [9] * 6, "distances": distances}).to_parquet(tmp_path / "r.parquet", index=False)
    with pytest.raises(UserError, match=r"r\.parquet: not of the same pictures as the predictions: CID 0 is in one"):
        calibrate(tmp_path / "p.parquet", redrawn=tmp_path / "r.parquet", out=tmp_path / "d.json")
    rows.assign(reference="xx").to_parquet(tmp_path / "p.parquet", index=False)
    with pytest.raises(UserError, match="has no reference that RDKit parses"):
        calibrate(tmp_path / "p.parquet", out=tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()
