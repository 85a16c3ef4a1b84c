"""The page of a search: it stands alone, has all trials, and whatever is in it is text."""

import json
from pathlib import Path
from typing import Any

import pytest
from ocsrflow.config.searches import Search
from ocsrflow.report.search_figures import positions
from ocsrflow.report.search_page import search_page
from support.pages import Page

EVIL = "<script>alert(1)</script>"
SEARCH = {
    "name": "rates",
    "model": "shuffle",
    "space": {
        "training.encoder_lr": {"log": [1e-4, 1e-2]},
        "network.dim": [16, 32],
        "training.schedule": ["constant", "cosine"],
        "training.augmentation.blur": {"uniform": [0, 2]},
    },
    "trials": 6,
    "rungs": [1, 2],
}


def facts(score: float = 0.1, **changed: Any) -> dict[str, Any]:
    """What the stage search_table would write of six trials, of which the last failed."""
    trials = []
    for number in range(6):
        failed = number == 5
        values = {
            "training.encoder_lr": 1e-4 * 10 ** (number / 3),
            "network.dim": 16 + 16 * (number % 2),
            "training.schedule": ("constant", "cosine")[number // 3],
            "training.augmentation.blur": number / 3,
        }
        rung = int(number < 2)
        found = {at: score * (6 - number) * at for at in range(1, rung + 2)}
        curve = [{"epoch": at, "validation_tanimoto": own, "validation_loss": 2.0} for at, own in found.items()]
        trials.append(
            {
                "trial": number, "rung": rung, "epochs": rung + 1, "values": values, "curve": [] if failed else curve,
                "state": "failed" if failed else "finished" if rung else "dropped",
                "failed": f"out of memory {EVIL}" if failed else "", "seconds": 60.0, "device": "H<100>",
                "score": None if failed else score * (6 - number) * (rung + 1),
                "first_score": None if failed else score * (6 - number),
            }
        )  # fmt: skip
    search = Search.model_validate(SEARCH | changed).model_dump(mode="json")
    entry = f"- name: rates-best # {EVIL}\n"
    return {
        "search": search, "best": 0, "entry": entry, "dataset": "short", "seconds": 360.0, "gpu_hours": 0.1,
        "trials": trials,
    }  # fmt: skip


def written(folder: Path, found: dict[str, Any]) -> Page:
    (folder / "search.json").write_text(json.dumps(found))
    search_page(folder / "search.json", out=folder / "page.html")
    return Page(folder / "page.html")


def test_the_page_stands_alone_and_has_all_trials(tmp_path: Path) -> None:
    page = written(tmp_path, facts())
    assert [page.all(tag) for tag in ("script", "link", "iframe")] == [[], [], []]
    assert f"out of memory {EVIL}" in page.text
    assert f"# {EVIL}" in page.text
    for said in ("1 failed", "0.10 GPU hours", "8 epochs of training in place of the 12", "H<100>"):
        assert said in page.text
    titles = ["Rung by rung", "Settings and score of all trials", "Importance", *SEARCH["space"]]
    assert all(title in page.text for title in titles)


@pytest.mark.parametrize("score", [0.0, 0.1])
def test_importance_is_left_out_where_it_cannot_be_told(tmp_path: Path, score: float) -> None:
    """Where no trial reads anything yet, all scores are alike."""
    page = written(tmp_path, facts(score))
    assert ("loss of R²" in page.text) == bool(score)
    assert ("trials too much alike" in page.text) == (not score)


def test_a_search_of_one_rung_and_one_trial_has_a_page(tmp_path: Path) -> None:
    found = facts(rungs=[1], trials=1)
    found["trials"] = [found["trials"][0] | {"rung": 0, "epochs": 1}]
    assert "settings of shuffle tried" in written(tmp_path, found).text


def test_values_lie_between_their_ends() -> None:
    search = Search.model_validate(SEARCH)
    values = {"training.encoder_lr": 1e-3, "network.dim": 32, "training.schedule": "constant"}
    found = positions(search, values | {"training.augmentation.blur": 0.5})
    assert found == pytest.approx(
        {"training.encoder_lr": 0.5, "network.dim": 1, "training.schedule": 0, "training.augmentation.blur": 0.25}
    )
