"""The last words of a run."""

from pathlib import Path
from typing import Any

from ocsrflow.report.summary import in_numbers, in_words


def row(name: str, tanimoto: float, exact: float) -> dict[str, Any]:
    scores = {"tanimoto": {"value": tanimoto, "low": 0.0}, "exact": {"value": exact, "low": 0.0}}
    return {"name": name, "scores": scores, "seconds_per_image": 0.5}


def test_three_scores_and_what_to_do_next() -> None:
    headline = {
        "model": row("third", 0.91, 0.8),
        "pairs": row("three", 0.92345, 0.815),
        "ensemble": row("three.redrawn", 0.95, 0.9),
        "constant": row("constant", 0.12, 0.0),
        "peers": [row("osra", 0.5, 0.5)],
    }
    summary = in_numbers(headline)
    assert summary["readers"] == {
        "model": "third", "pairs": "three", "ensemble": "three.redrawn", "constant": "constant"
    }  # fmt: skip
    assert summary["scores"]["ensemble.tanimoto"] == 0.95
    assert in_words(summary, Path("results/demo")).splitlines()[1:] == [
        "  best single model  third     0.9100  (80.0%)",
        "  pair rule          three     0.9234  (81.5%)",
        "  constant answer    constant  0.1200  (0.0%)",
        "The report:       results/demo/report/index.html",
        "MLflow:           make ui RESULTS=results/demo",
        "Read a picture:   .venv/bin/ocsrflow read PICTURE -o out.csv --models results/demo/models/third",
    ]


def test_an_experiment_without_ensembles_has_its_best_model() -> None:
    summary = in_numbers(
        {"model": row("one", 0.5, 0.25), "pairs": None, "ensemble": None, "constant": None, "peers": []}
    )
    assert summary["readers"] == {"model": "one"}
    assert "one  0.5000  (25.0%)" in in_words(summary, Path("results"))
