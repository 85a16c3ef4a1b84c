"""The report's figures, from what the stages wrote; :mod:`ocsrflow.report.figures` draws each kind."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from . import figures
from .figures import Drawing
from .published import caption_of

# What an answer may be trusted by, and what its axis is called.
SIGNS = {
    "confidence": "confidence",
    "agreement": "agreement",
    "log_probability": "log-probability",
    "distance": "distance of the drawing",
}
KINDS = {"model": "single model", "ensemble": "ensemble", "ceiling": "ceiling", "baseline": "baseline"}
LONGEST_SHOWN = 150  # characters: a tail of a few very long molecules would hide the rest


def length_figures(corpora: list[Path], samples: list[Path], run: dict[str, Any]) -> dict[str, Drawing]:
    """Histograms of source, filtered and sampled; the filter keeps all that is not longer than a source's limit."""
    limits = {source["name"]: source["max_length"] for source in run.get("config", {}).get("sources", [])}
    source: dict[str, pd.DataFrame] = {}
    for path in corpora:
        name, table = path.parent.name, pd.read_csv(path)
        source[f"{name}: source"] = table[table["length"] <= LONGEST_SHOWN]
        if name in limits:
            source[f"{name}: filtered"] = table[table["length"] <= limits[name]]
    drawn = {path.parent.name: pd.read_csv(path).rename(columns={"got": "count"}) for path in samples}
    return {
        "lengths-source": figures.lengths(source, *caption_of("lengths-source"), log=True),
        "lengths-sampled": figures.lengths(drawn, *caption_of("lengths-sampled")),
    }


def training_figures(curves: dict[str, pd.DataFrame]) -> dict[str, Drawing]:
    """Learning curves of all models together."""
    columns = (
        ("validation", "validation_tanimoto", "Tanimoto similarity"),
        ("loss", "loss", "cross-entropy [nats a token]"),
    )
    return {name: figures.curves(curves, column, label, *caption_of(name)) for name, column, label in columns}


def reader_figures(scored: list[dict[str, Any]], images: list[Path], main: dict[str, Any]) -> dict[str, Drawing]:
    """The readers of the main test set compared, by length too, and how far members agree."""
    of_main = [row for row in main["rows"] if "scores" in row]
    ordered = sorted(of_main, key=lambda row: -row["scores"]["tanimoto"]["value"])
    points = [{"name": row["name"], "kind": KINDS[row["kind"]], **row["scores"]["tanimoto"]} for row in ordered]
    parts = []
    for facts, image in zip(scored, images, strict=True):
        alone = facts["kind"] in ("model", "baseline") or facts.get("method") == "pairs"
        if facts["test_set"] == main["name"] and "scores" in facts and (alone or facts["name"] == main["best"]["name"]):
            rows = pd.read_parquet(image, columns=["reference", "tanimoto"])
            parts.append(rows.assign(length=rows["reference"].str.len(), name=facts["name"]))
    return {
        "methods": figures.intervals(
            pd.DataFrame(points)[["name", "kind", "value", "low", "high"]], "mean Tanimoto", *caption_of("methods")
        ),
        "by-length": figures.by_length(pd.concat(parts, ignore_index=True), *caption_of("by-length")),
        **dict(_agreement(s) for s in scored if s["kind"] == "ensemble" and s["method"] == "pairs"),
    }


def _agreement(facts: dict[str, Any]) -> tuple[str, Drawing]:
    name = f"agreement.{facts['name']}.{facts['test_set']}"
    return name, figures.pairs(facts["members"], facts["pairs"], *caption_of(name))


def robustness_figure(robust: list[dict[str, Any]]) -> dict[str, Drawing]:
    """The table of robustness as a heat map; nothing where it is empty."""
    rows = [
        {
            "reader": reader,
            "test_set": column["name"],
            "pictures": facts["images"],
            **{
                key: facts["scores"][score][end]
                for score in ("tanimoto", "exact")
                for key, end in ((score, "value"), (f"{score}_low", "low"), (f"{score}_high", "high"))
            },
        }
        for column in robust
        for reader, facts in column["readers"].items()
    ]
    return {"robustness": figures.robustness(pd.DataFrame(rows), *caption_of("robustness"))} if rows else {}


def trust_figures(rows: list[dict[str, Any]], best: dict[str, Any] | None) -> dict[str, Drawing]:
    """How each sign of trust goes with being right: of the best single model, and of the ensembles."""
    shown = [*filter(None, [best]), *(row for row in rows if row["kind"] == "ensemble")]
    drawings = {}
    for sign, label in SIGNS.items():
        points = [
            {"name": _with_area(row, sign), "mean": point["mean"], "exact": point["exact"]["value"]}
            | {end: point["exact"][end] for end in ("low", "high")}
            for row in shown
            for point in row["trust"].get(sign, {}).get("curve", [])
        ]
        if points:
            name, table = f"trust-{sign}", pd.DataFrame(points)
            drawings[name] = figures.trust(table, label, *caption_of(name), share=sign == "confidence")
    return drawings


def _with_area(row: dict[str, Any], sign: str) -> str:
    area = row["trust"][sign]["auroc"]
    return row["name"] if area is None else f"{row['name']} ({area:.2f})"


def speed_figures(trained: list[dict[str, Any]], read: list[dict[str, Any]]) -> dict[str, Drawing]:
    """The training speeds, where there is more than one of a model; and the ensembles'."""
    drawings = {}
    measured = [
        {"name": facts["name"], "processes": row["processes"], "images_per_second": row["images_per_second"]}
        for facts in trained
        for row in facts["rows"]
        if "device" in row
    ]
    rows = pd.DataFrame(measured)
    if measured and rows["name"].value_counts().max() > 1:
        drawings["speed-training"] = figures.scaling(rows, *caption_of("speed-training"))
    for study in read:
        name = f"speed-prediction.{study['name']}"
        table = pd.DataFrame(_ways(study))
        drawings[name] = figures.intervals(table, "seconds per image", *caption_of(name))
    return drawings


def _ways(study: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for member in study["members"]:
        value = member["seconds_per_image"]
        yield {"name": member["name"], "kind": "alone", "value": value, "low": value, "high": value}
    for key, name in (("one_after_the_other", "all, one after the other"), ("side_by_side", "all, side by side")):
        times = study[key]
        yield {"name": name, "kind": "together", "value": times["seconds_per_image"]} | {
            end: times[end] for end in ("low", "high")
        }


def stage_figure(stages: pd.DataFrame) -> dict[str, Drawing]:
    """What each stage took; nothing where no benchmark files are there."""
    if stages.empty:
        return {}
    labels = ("", "minutes, all jobs added up")
    names, minutes = stages["stage"].tolist(), stages["minutes"].tolist()
    return {"stages": figures.bars(names, minutes, labels, *caption_of("stages"), lying=True)}
