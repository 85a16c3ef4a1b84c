"""The report in a few numbers: as JSON, which MLflow gets too, and as the last words in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = {"model": "best single model", "pairs": "pair rule", "constant": "constant answer"}


def in_numbers(headline: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the headline's readers, and their scores as READER.SCORE.

    Parameters
    ----------
    headline
        Rows of the report's main table by what they stand for: model, pairs, ensemble, constant; None where the
        experiment has no such reader.
    """
    readers = {name: row for name, row in headline.items() if name in (*WORDS, "ensemble") and row}
    final: dict[str, float] = {}
    for name, row in readers.items():
        for score, value in row["scores"].items():
            final |= {f"{name}.{score}": value["value"]}
        final[f"{name}.seconds_per_image"] = row["seconds_per_image"]
    return {"readers": {name: row["name"] for name, row in readers.items()}, "scores": final}


def in_words(summary: Mapping[str, Any], results: Path) -> str:
    """What a finished run says in the terminal: three scores, where the report is and how to read a picture.

    Parameters
    ----------
    summary
        What :func:`in_numbers` returned.
    results
        Folder of the results.
    """
    readers, scores = summary["readers"], summary["scores"]
    width = max(len(readers[reader]) for reader in WORDS if reader in readers)
    model = f"{results}/models/{readers['model']}"
    lines = ["Held-out molecules, mean Tanimoto similarity (share exactly right):"]
    for reader, words in WORDS.items():
        if reader in readers:
            tanimoto, exact = scores[f"{reader}.tanimoto"], scores[f"{reader}.exact"]
            lines.append(f"  {words:17}  {readers[reader]:{width}}  {tanimoto:.4f}  ({exact:.1%})")
    return "\n".join(
        [
            *lines,
            f"The report:       {results}/report/index.html",
            f"MLflow:           make ui RESULTS={results}",
            f"Read a picture:   .venv/bin/ocsrflow read PICTURE -o out.csv --models {model}",
        ]
    )
