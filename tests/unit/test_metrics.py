"""The scores, against hand-made cases and against the definitions written out again."""

import math

import numpy as np
import pytest
from ocsrflow.metrics import bootstrap, evaluate, tanimoto, wilson


def values(predictions: list[str], references: list[str]) -> dict[str, float]:
    return {name: score.value for name, score in evaluate(predictions, references).scores.items()}


def test_tanimoto_is_rdkits_and_zero_for_what_cannot_be_parsed() -> None:
    assert tanimoto("CCO", "OCC") == 1.0
    assert 0 < tanimoto("CCO", "CCN") < 1
    assert tanimoto("CCO", "C(C") == 0.0
    assert tanimoto("", "") == 0.0


def test_the_four_exact_matches_differ_where_they_should() -> None:
    references = ["F/C=C/F", "C[C@H](N)O", "OC=CC", "CCO"]
    found = values(["F/C=C\\F", "C[C@@H](N)O", "O=CCC", "OCC"], references)
    # Right only without the bond's direction; only without stereo; only another tautomer; spelt differently.
    assert found["exact"] == 0.25
    assert found["exact_no_cis_trans"] == 0.5
    assert found["exact_no_stereo"] == 0.75
    assert found["exact_inchi"] == 0.25
    assert found["perfect"] == 0.75


def test_standard_inchi_joins_mobile_hydrogens() -> None:
    found = values(["Cc1cnc[nH]1"], ["Cc1c[nH]cn1"])
    assert found["exact_inchi"] == 1.0
    assert found["exact"] == 0.0


def test_an_invalid_prediction_is_wrong_in_everything() -> None:
    assert set(values(["C(C", ""], ["CC", "CC"]).values()) == {0.0}


def test_a_reference_that_cannot_be_parsed_is_dropped_and_counted() -> None:
    found = evaluate(["CC", "CC", "CO"], ["CC", "C(C", "CO"])
    assert found.dropped_references == 1
    assert found.used.tolist() == [0, 2]
    assert found.scores["tanimoto"].value == 1.0


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1"):
        evaluate(["C", "C"], ["C"])


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (73, 200)])
def test_wilson_solves_its_own_equation(k: int, n: int) -> None:
    score = wilson(k, n)
    z = 1.959963984540054
    for bound in (score.low, score.high):
        if 0 < bound < 0.999:
            assert abs(k / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-6)
    assert score.low <= k / n <= score.high + 1e-9


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    sample = np.random.default_rng(1).normal(0.5, 0.1, 400)
    score = bootstrap(sample)
    assert score.value == pytest.approx(sample.mean())
    assert score.high - score.low == pytest.approx(2 * 1.96 * sample.std() / 20, rel=0.1)
    assert bootstrap(sample) == score
