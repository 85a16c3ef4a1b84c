"""Stage ``report``: one self-contained page with everything that came out, and its figures as files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..chem.paired_tests import Tested, paired_mean, same_pictures
from ..pictures.packed_file import Packed, describe
from ..runtime.files import read_json, write_json, write_text
from . import figures, published, reproduction
from .costs import costs
from .figures import Drawing
from .gallery import gallery as cards_of
from .html import png_uri, template, text_uri
from .published import caption_of

# What the ensembles' methods do, for the reader of the report.
METHODS = {
    "pairs": "the slides' pair rule",
    "medoid": "largest sum of similarities",
    "votes": "votes by probability",
    "rescored": "candidates of all, by their mean log-probability",
    "redrawn": "candidate whose drawing fits best",
    "oracle": "best member of each picture: the ceiling of choosing among the members' answers",
}
# What an answer may be trusted by, and what its axis is called.
SIGNS = {
    "confidence": "confidence",
    "agreement": "agreement",
    "log_probability": "log-probability",
    "distance": "distance of the drawing",
}
KINDS = {"model": "single model", "ensemble": "ensemble", "ceiling": "ceiling", "baseline": "baseline"}
LONGEST_SHOWN = 150  # characters: a tail of a few very long molecules would hide the rest


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
    made = reproduction.of_run(results)
    robust = _robust(robustness or [], [*scored, *(read_json(path) for path in drawn_scores or [])])
    stages = costs(results / "benchmarks", _gpu_seconds(descriptions, trained))
    shown = {
        **_of_lengths(corpora, samples, made),
        **_of_training({path.parent.name: pd.read_json(path, lines=True) for path in metrics}),
        **_of_readers(scored, images, main),
        **_of_robustness(robust),
        **_of_trust(main["rows"]),
        **_of_speed(trained, read),
        **_of_stages(stages),
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
        talk=published,
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
        made=made,
        sources=reproduction.sources(results, [path.parent.name for path in corpora]),
        datasets=[describe(path) for path in data],
        weights=reproduction.weights(models, descriptions),
        versions=reproduction.versions(),
        machine=reproduction.machine(),
        text_uri=text_uri,
    )
    figures.save(shown, drawings)
    write_json(summary, _summary(headline))
    write_text(out, html)
    print(f"the report is {out}")


def _rows(scored: list[dict[str, Any]], described: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table of scores: what was read, with the model's description where it is one."""
    rows = []
    for facts in scored:
        model = described.get(facts["name"])
        ours = (model["network"]["encoder"], model["network"]["dim"], model["dataset"]) if model else None
        theirs = next((m for m in published.MODELS if (m.encoder, m.dim, m.dataset) == ours), None)
        rows.append({**facts, "model": model, "talk": theirs})
    return rows


def _best(rows: list[dict[str, Any]], *kinds: str) -> dict[str, Any] | None:
    """The reader of some kinds that is best on validation pictures, by Tanimoto similarity: a fair choice."""
    readers = [row for row in rows if row["kind"] in kinds]
    return max(readers, key=lambda row: row["validation_tanimoto"], default=None)


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Single against ensemble, constant answer and peers."""
    return {
        "model": _best(rows, "model"),
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


def _of_robustness(robust: list[dict[str, Any]]) -> dict[str, Drawing]:
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


def _trusted(rows: list[dict[str, Any]], files: dict[str, Path]) -> list[dict[str, Any]]:
    """How good the confidences of the models and ensembles are, in numbers."""
    found = []
    for row in rows:
        sign = row.get("trust", {}).get("confidence")
        if sign and sign["images"]:
            told = pd.read_parquet(files[row["name"]], columns=["confidence", "exact"]).dropna()
            error = sum(abs(point["mean"] - point["exact"]["value"]) * point["images"] for point in sign["curve"])
            brier = float(((told["confidence"] - told["exact"]) ** 2).mean())
            shown = {"name": row["name"], "auroc": sign["auroc"], "brier": brier}
            found.append(shown | {"error": error / sign["images"]})
    return found


def _summary(headline: dict[str, Any]) -> dict[str, Any]:
    """The headline as numbers: names of the readers, and their scores as NAME.SCORE."""
    readers = {name: row for name, row in headline.items() if name in ("model", "ensemble", "constant") and row}
    final: dict[str, float] = {}
    for name, row in readers.items():
        for score, value in row["scores"].items():
            final |= {f"{name}.{score}": value["value"]}
        final[f"{name}.seconds_per_image"] = row["seconds_per_image"]
    return {"readers": {name: row["name"] for name, row in readers.items()}, "scores": final}


def _gpu_seconds(models: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> dict[str, float]:
    """What trainings and their speed studies held GPUs for; other stages hold one for a moment."""
    held = [m["seconds"] * m["processes"] for m in models if not m["device"].startswith("CPU")]
    rows = [row for study in speeds if study["on"] == "gpu" for row in study["rows"] if "device" in row]
    return {
        "train": sum(held),
        "speed_training": sum(row["processes"] * row["step_seconds"] * row.get("steps", 0) for row in rows),
    }


def _of_lengths(corpora: list[Path], samples: list[Path], made: dict[str, Any]) -> dict[str, Drawing]:
    """Histograms of source, filtered and sampled; the filter keeps all that is not longer than a source's limit."""
    limits = {source["name"]: source["max_length"] for source in made.get("config", {}).get("sources", [])}
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


def _of_training(curves: dict[str, pd.DataFrame]) -> dict[str, Drawing]:
    columns = (
        ("validation", "validation_tanimoto", "Tanimoto similarity"),
        ("loss", "loss", "cross-entropy [nats a token]"),
    )
    return {name: figures.curves(curves, column, label, *caption_of(name)) for name, column, label in columns}


def _of_readers(scored: list[dict[str, Any]], images: list[Path], main: dict[str, Any]) -> dict[str, Drawing]:
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


def _of_trust(rows: list[dict[str, Any]]) -> dict[str, Drawing]:
    """How each sign of trust goes with being right: of the best single model, and of the ensembles."""
    shown = [*filter(None, [_best(rows, "model")]), *(row for row in rows if row["kind"] == "ensemble")]
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


def _of_speed(trained: list[dict[str, Any]], read: list[dict[str, Any]]) -> dict[str, Drawing]:
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


def _of_stages(stages: pd.DataFrame) -> dict[str, Drawing]:
    if stages.empty:
        return {}
    labels = ("", "minutes, all jobs added up")
    names, minutes = stages["stage"].tolist(), stages["minutes"].tolist()
    return {"stages": figures.bars(names, minutes, labels, *caption_of("stages"), lying=True)}


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
