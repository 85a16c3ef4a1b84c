"""The choice of an ensemble's members, against the pair rule itself and all subsets."""

import inspect
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsrflow.chem.similarity import tanimoto
from ocsrflow.ensemble import choose as stage
from ocsrflow.ensemble.choose import Answers, choose, pair_winners, try_subsets
from ocsrflow.ensemble.voting_methods import pair_rule, pair_vote
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json

TEXTS = ["CCO", "CCCO", "CCN", "CCCCO", "C(C", "CC=O", "CCS"]


def models(folder: Path, texts: dict[str, list[str]], references: list[str]) -> dict[str, Any]:
    for name, predictions in texts.items():
        table = pd.DataFrame({"cid": range(len(predictions)), "reference": references, "prediction": predictions})
        table.to_parquet(folder / f"{name}.parquet", index=False)
        write_json(folder / f"{name}.json", {"name": name})
    return {
        "predictions": [folder / f"{name}.parquet" for name in texts],
        "member_facts": [folder / f"{name}.json" for name in texts],
        "name": "e",
        "out": folder / "choice.json",
    }


def some(count: int, pictures: int, seed: int = 0) -> tuple[dict[str, list[str]], list[str]]:
    """Models of growing skill, and the references."""
    random = np.random.default_rng(seed)
    references = random.choice([text for text in TEXTS if text != "C(C"], pictures).tolist()
    texts = {
        f"m{i}": [r if random.random() < 0.2 + 0.06 * i else str(random.choice(TEXTS)) for r in references]
        for i in range(count)
    }
    return texts, references


def plain_score(members: tuple[str, ...], texts: dict[str, list[str]], references: list[str]) -> float:
    rows = list(zip(*(texts[name] for name in members), strict=True))
    taken = [row[pair_rule(list(row)).winner] for row in rows]
    return float(np.mean([tanimoto(a, b) for a, b in zip(taken, references, strict=True)]))


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_rule_for_all_pictures_is_the_rule_for_each(members: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    similarity = random.choice([0.0, 0.3, 0.6, 0.9, 1.0], (30, members, members), p=[0.2, 0.2, 0.2, 0.2, 0.2])
    similarity = np.maximum(similarity, similarity.transpose(0, 2, 1))
    valid = random.random((30, members)) < 0.7
    similarity *= valid[:, :, None] & valid[:, None, :]
    expected = [
        pair_vote(matrix, np.flatnonzero(row).tolist()).winner
        for matrix, row in zip(similarity.tolist(), valid, strict=True)
    ]
    assert pair_winners(similarity, valid).tolist() == expected


def test_the_best_subset_is_that_of_all(tmp_path: Path) -> None:
    texts, references = some(4, 60)
    choose(**models(tmp_path, texts, references), selection="best")
    found = read_json(tmp_path / "choice.json")
    own = {name: plain_score((name,), texts, references) for name in texts}
    assert found["scores"] == pytest.approx(own)
    order = sorted(texts, key=lambda name: -own[name])
    subsets = [s for size in (2, 3, 4) for s in itertools.combinations(order, size)]
    scores = {subset: plain_score(subset, texts, references) for subset in subsets}
    assert tuple(found["members"]) == max(subsets, key=lambda s: round(scores[s], 12))
    assert {tuple(row["members"]): row["tanimoto"] for row in found["tried"]} == pytest.approx(scores)
    assert (found["ensemble"], found["selection"], found["images"]) == ("e", "best", 60)


def test_the_largest_subset_is_kept_to(tmp_path: Path) -> None:
    texts, references = some(4, 20)
    choose(**models(tmp_path, texts, references), selection="best", largest=2)
    found = read_json(tmp_path / "choice.json")
    assert len(found["members"]) == 2
    assert len(found["tried"]) == 6


def test_as_listed(tmp_path: Path) -> None:
    texts, references = some(3, 20)
    choose(**models(tmp_path, texts, references))
    found = read_json(tmp_path / "choice.json")
    assert found["members"] == ["m0", "m1", "m2"]
    expected = plain_score(("m0", "m1", "m2"), texts, references)
    assert found["tried"] == [{"members": ["m0", "m1", "m2"], "tanimoto": pytest.approx(expected)}]


def test_members_come_by_their_scores_and_equal_subsets_by_size(tmp_path: Path) -> None:
    texts = {"bad": ["CCN", "CCN"], "good": ["CCO", "CCCO"], "too": ["CCO", "CCCO"]}
    choose(**models(tmp_path, texts, ["CCO", "CCCO"]), selection="best")
    found = read_json(tmp_path / "choice.json")
    # With the bad one it is no worse, since the two that are equal win.
    assert found["members"] == ["good", "too"]
    assert [row["tanimoto"] for row in found["tried"][:2]] == [1.0, 1.0]


def test_references_that_rdkit_does_not_parse_do_not_count(tmp_path: Path) -> None:
    given_ = models(tmp_path, {"a": ["CCO", "CCN"], "b": ["CCO", "CCO"]}, ["CCO", "xx"])
    choose(**given_)
    found = read_json(tmp_path / "choice.json")
    assert (found["images"], found["scores"]) == (1, {"a": 1.0, "b": 1.0})
    with pytest.raises(UserError, match="has no reference that RDKit parses"):
        choose(**models(tmp_path, {"a": ["CCO"], "b": ["CCO"]}, ["xx"]))


def test_a_single_model_is_no_ensemble(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two members or more"):
        choose(**models(tmp_path, {"a": ["CCO"]}, ["CCO"]), selection="best")
    with pytest.raises(UserError, match="two members or more"):
        choose(**models(tmp_path, {"a": ["CCO"], "b": ["CCO"]}, ["CCO"]), selection="best", largest=1)


def of_many(count: int, seed: int) -> Answers:
    """Made-up similarities of many models."""
    random = np.random.default_rng(seed)
    similarity = random.random((50, count, count)).round(1)
    similarity = np.maximum(similarity, similarity.transpose(0, 2, 1))
    return Answers(similarity, np.ones((50, count), bool), random.random((50, count)))


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_of_many_models_the_best_pair_is_joined_one_by_one(seed: int) -> None:
    tried = try_subsets(of_many(10, seed), 4)
    by_size = [{s: v for s, v in tried.items() if len(s) == size} for size in (2, 3, 4)]
    assert [len(of_size) for of_size in by_size] == [45, 8, 7]
    best = [set(max(of_size, key=lambda s: of_size[s])) for of_size in by_size]
    assert best[0] < best[1]
    assert best[1] < best[2]


def test_test_pictures_are_not_known_to_the_choice() -> None:
    # Predictions of one set of pictures go in, the selection's, and nothing else that could hold a reference.
    paths = [name for name, p in inspect.signature(stage.choose).parameters.items() if "Path" in str(p.annotation)]
    assert paths == ["predictions", "member_facts", "out"]
