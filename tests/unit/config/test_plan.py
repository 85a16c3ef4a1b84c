"""What rules take from the configuration: names, inputs, options."""

import re
from types import SimpleNamespace

import yaml
from ocsrflow.config import experiment
from ocsrflow.config.planning import Plan, given, one_of, option
from support.checkout import CONFIG, REPOSITORY


def toy_plan() -> Plan:
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | yaml.safe_load((REPOSITORY / CONFIG).read_text())
    return Plan(experiment.load(raw))


def test_names_are_matched_as_they_are_and_no_names_match_nothing() -> None:
    assert re.fullmatch(one_of(["both", "both.redrawn"]), "both.redrawn")
    assert not re.fullmatch(one_of(["both.redrawn"]), "both-redrawn")
    assert not re.fullmatch(one_of([]), "")


def test_options_are_there_for_what_is_there() -> None:
    assert option("--size", 3) == ["--size", "3"]
    assert option("--size", None) == option("--files", []) == []
    files = {"redrawn": "a.parquet", "redrawn_facts": ["a.json", "b.json"], "calibration": []}
    made = given("redrawn", "redrawn_facts", "calibration", "more")(SimpleNamespace(), files)
    assert made == ["--redrawn", "a.parquet", "--redrawn-facts", "a.json", "b.json"]


def test_every_result_becomes_one_run_models_first_and_the_report_last() -> None:
    recorded = toy_plan().recorded()
    kinds = [what.partition("/")[0] for what in recorded]
    assert kinds == sorted(kinds, key=["models", "speed", "scores", "report"].index)
    # Two test sets, seven readers; in the drawing the two models, the pair rule and OSRA.
    assert {kind: kinds.count(kind) for kind in kinds} == {"models": 2, "speed": 2, "scores": 2 * 7 + 4, "report": 1}
    assert recorded["scores/foreign/both.redrawn"] == ["foreign"]
    assert recorded["scores/large/osra"] == ["large"]
    assert recorded["report"] == ["short", "foreign"]
