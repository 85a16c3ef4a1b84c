"""Stage ``report``: one self-contained page with everything that came out, and its figures as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..chem.paired_tests import Tested, paired_mean, same_pictures
from ..pictures.packed_file import Packed, describe
from ..runtime.files import read_json, write_json, write_text
from . import figures, published, reproduction
from .costs import costs
from .gallery import gallery as cards_of
from .html import png_uri, template, text_uri
from .report_figures import (
    length_figures,
    reader_figures,
    robustness_figure,
    speed_figures,
    stage_figure,
    training_figures,
    trust_figures,
)
from .summary import in_numbers

# What the ensembles' methods do, for the reader of the report.
METHODS = {
    "pairs": "the slides' pair rule",
    "medoid": "largest sum of similarities",
    "votes": "votes by probability",
    "rescored": "candidates of all, by their mean log-probability",
    "redrawn": "candidate whose drawing fits best",
    "oracle": "best member of each picture: the ceiling of choosing among the members' answers",
}


@dataclass(frozen=True)
class Overlay:
    """A picture with the attention of a model."""

    image: str  # data URI
    text: str
    exact: bool
    tanimoto: float


def report(
    *,
    out: Path,
    drawings: Path,
    summary: Path,
    results: Path,
    title: str,
    note: str = "",
    gallery: int = 24,
    test_sets: list[str],
    scores: list[Path],
    images: list[Path],
    predictions: list[Path],
    models: list[Path],
    metrics: list[Path],
    corpora: list[Path],
    samples: list[Path],
    data: list[Path],
    rejects: list[Path],
    drawn_scores: list[Path] | None = None,
    robustness: list[str] | None = None,
    choices: list[Path] | None = None,
    speed_training: list[Path] | None = None,
    speed_prediction: list[Path] | None = None,
    attention: list[Path] | None = None,
) -> None:
    """Write the report.

    Parameters
    ----------
    out
        HTML file; it needs no other file and no network, and has no script.
    drawings
        Folder for its figures: each as SVG, and what it draws as CSV.
    summary
        JSON file: which single model and which ensemble are the report's headline, and their scores.
    results
        Folder of results. What Snakemake wrote of the run (``experiment.yaml``, ``workflow.json``), what ``filter``
        remembers of its sources and the benchmark files of all jobs are looked for there.
    title, note
        What stands on top.
    gallery
        Predictions shown in the gallery.
    test_sets
        Test sets as NAME=DATASET; the first is the main one.
    scores, images
        What the stage ``score`` wrote, in the same order.
    predictions
        What the stages ``predict``, ``vote``, ``constant`` and ``osra`` wrote, in the same order.
    models, metrics
        What the stage ``train`` wrote, in the same order.
    corpora
        Length histograms of the sources (.../SOURCE/lengths.csv).
    samples
        Length counts of the data sets (.../DATASET/lengths.csv).
    data
        All packed data sets.
    rejects
        Tables of rejects of sources, data sets, benchmarks and drawings.
    drawn_scores
        What the stage ``score`` wrote of the named drawings.
    robustness
        Names of the test sets in the table of robustness, in its order: the first test set, drawings, benchmarks.
    choices
        What the stage ``choose`` wrote: the members of each ensemble.
    speed_training, speed_prediction
        What the stages of these names wrote.
    attention
        What the stage ``attend`` wrote, .../MODEL.parquet.
    """
    scored = [read_json(path) for path in scores]
    descriptions = [read_json(path) for path in models]
    described = {facts["name"]: facts for facts in descriptions}
    tables: list[dict[str, Any]] = [
        {
            "name": name,
            "dataset": dataset,
            "rows": _rows([s for s in scored if s["test_set"] == name], described),
        }
        for name, dataset in (pair.split("=", 1) for pair in test_sets)
    ]
    for table in tables:
        table["best"] = _best(table["rows"], "model", "ensemble")
    main = tables[0]
    best = main["best"]
    headline = _headline(main["rows"])
    at = next(i for i, s in enumerate(scored) if s["test_set"] == main["name"] and s["name"] == best["name"])
    packed = {path.parent.name: path for path in data}
    trained = [read_json(path) for path in speed_training or []]
    read = [read_json(path) for path in speed_prediction or []]
    run = reproduction.read_run(results)
    robust = _robust(robustness or [], [*scored, *(read_json(path) for path in drawn_scores or [])])
    stages = costs(results / "benchmarks", _gpu_seconds(descriptions, trained))
    shown = {
        **length_figures(corpora, samples, run),
        **training_figures({path.parent.name: pd.read_json(path, lines=True) for path in metrics}),
        **reader_figures(scored, images, main),
        **robustness_figure(robust),
        **trust_figures(main["rows"], headline["model"]),
        **speed_figures(trained, read),
        **stage_figure(stages),
    }
    files = {s["name"]: path for s, path in zip(scored, images, strict=True) if s["test_set"] == main["name"]}
    html = template("report.html").render(
        title=title,
        note=note,
        tables=tables,
        headline=headline,
        gains=_gains(main["rows"], headline, files),
        trusted=_trusted(main["rows"], files),
        best=best,
        published=published,
        figures=shown,
        methods=METHODS,
        robust=robust,
        choices=[read_json(path) for path in choices or []],
        groups=best["groups"],
        cards=cards_of(
            gallery, pd.read_parquet(predictions[at]), pd.read_parquet(images[at]), Packed(packed[main["dataset"]])
        ),
        overlays=_overlays(attention or [], headline["model"]["name"]),
        rejects=_rejects(rejects),
        speed_training=trained,
        speed_prediction=read,
        models=descriptions,
        stages=stages.to_dict("records"),
        run=run,
        sources=reproduction.sources(results, [path.parent.name for path in corpora]),
        datasets=[describe(path) for path in data],
        weights=reproduction.weights(models, descriptions),
        versions=reproduction.versions(),
        machine=reproduction.machine(),
        text_uri=text_uri,
    )
    figures.save(shown, drawings)
    write_json(summary, in_numbers(headline))
    write_text(out, html)
    print(f"the report is {out}")


def _rows(scored: list[dict[str, Any]], described: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table of scores: what was read, with the model's description where it is one."""
    rows = []
    for facts in scored:
        model = described.get(facts["name"])
        ours = (model["network"]["encoder"], model["network"]["dim"], model["dataset"]) if model else None
        theirs = next((m for m in published.MODELS if (m.encoder, m.dim, m.dataset) == ours), None)
        rows.append({**facts, "model": model, "published": theirs})
    return rows


def _best(rows: list[dict[str, Any]], *kinds: str) -> dict[str, Any] | None:
    """The reader of some kinds that is best on validation pictures, by Tanimoto similarity: a fair choice."""
    readers = [row for row in rows if row["kind"] in kinds]
    return max(readers, key=lambda row: row["validation_tanimoto"], default=None)


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Single against ensemble, constant answer and peers."""
    return {
        "model": _best(rows, "model"),
        "pairs": _best([row for row in rows if row.get("method") == "pairs"], "ensemble"),
        "ensemble": _best(rows, "ensemble"),
        "constant": next((row for row in rows if "answer" in row), None),
        "peers": [row for row in rows if row["kind"] == "baseline" and "answer" not in row and "scores" in row],
    }


def _gains(
    rows: list[dict[str, Any]], headline: dict[str, Any], files: dict[str, Path]
) -> list[tuple[dict[str, Any], Tested]]:
    """What the pair rule of each ensemble, and the best ensemble, gain over the best single model."""
    best = headline["ensemble"]
    single = pd.read_parquet(files[headline["model"]["name"]])
    gains = []
    for row in rows:
        if row["kind"] == "ensemble" and (row["method"] == "pairs" or (best and row["name"] == best["name"])):
            both = same_pictures(single, pd.read_parquet(files[row["name"]]))
            values = (both[column].to_numpy(float) for column in ("tanimoto_a", "tanimoto_b"))
            gains.append((row, paired_mean(*values)))
    return gains


def _robust(names: list[str], scored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Columns of the table of robustness: each a test set with the scores of its readers by their names."""
    columns = []
    for name in names:
        rows = {s["name"]: s for s in scored if s["test_set"] == name and _is_robust(s)}
        pictures = max((row["images"] for row in rows.values()), default=0)
        columns.append({"name": name, "pictures": pictures, "readers": rows})
    return columns


def _is_robust(facts: dict[str, Any]) -> bool:
    """Whether a reader is in the table of robustness: models, ensembles by the pair rule, programs."""
    reads = facts["kind"] in ("model", "baseline") and "answer" not in facts
    return "scores" in facts and (reads or (facts["kind"] == "ensemble" and facts["method"] == "pairs"))


def _trusted(rows: list[dict[str, Any]], files: dict[str, Path]) -> list[dict[str, Any]]:
    """How good the confidences of the models and ensembles are, in numbers."""
    found = []
    for row in rows:
        sign = row.get("trust", {}).get("confidence")
        if sign and sign["images"]:
            answers = pd.read_parquet(files[row["name"]], columns=["confidence", "exact"]).dropna()
            error = sum(abs(point["mean"] - point["exact"]["value"]) * point["images"] for point in sign["curve"])
            brier = float(((answers["confidence"] - answers["exact"]) ** 2).mean())
            shown = {"name": row["name"], "auroc": sign["auroc"], "brier": brier}
            found.append(shown | {"error": error / sign["images"]})
    return found


def _gpu_seconds(models: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> dict[str, float]:
    """What trainings and their speed studies held GPUs for; other stages hold one for a moment."""
    held = [m["seconds"] * m["processes"] for m in models if not m["device"].startswith("CPU")]
    rows = [row for study in speeds if study["on"] == "gpu" for row in study["rows"] if "device" in row]
    return {
        "train": sum(held),
        "speed_training": sum(row["processes"] * row["step_seconds"] * row.get("steps", 0) for row in rows),
    }


def _overlays(paths: list[Path], model: str) -> list[Overlay]:
    """The attention of the best single model."""
    path = next((path for path in paths if path.stem == model), None)
    rows: Any = () if path is None else pd.read_parquet(path).itertuples()
    return [Overlay(png_uri(row.png), str(row.prediction), bool(row.exact), float(row.tanimoto)) for row in rows]


def _rejects(paths: list[Path]) -> list[dict[str, Any]]:
    """Rows: where, reason, count, example, dropped."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        stage = path.stem if path.parent.name == "rejects" else "filter"
        owner = path.parent.parent.name if path.parent.name == "rejects" else path.parent.name
        for row in pd.read_csv(path, keep_default_na=False).to_dict("records"):
            rows.append({"owner": owner, "stage": stage, "dropped": True} | {str(k): v for k, v in row.items()})
    return rows
