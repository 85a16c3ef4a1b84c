"""Stage ``report``: one self-contained page with everything that came out."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import figures, talk
from .chemistry import parse
from .cli import run
from .files import read_json, write_text
from .images import draw
from .packed import Packed
from .pages import data_uri, template
from .settings.depiction import Depiction

VERSIONS = ("snakemake", "torch", "torchvision", "timm", "rdkit", "h5py", "pandas", "seaborn", "mlflow")


# What the ensembles' methods do, for the reader of the report.
METHODS = {
    "pairs": "the slides' pair rule",
    "medoid": "largest sum of similarities",
    "votes": "votes by probability",
    "rescored": "candidates of all, by their mean log-probability",
    "redrawn": "candidate whose drawing fits best",
    "oracle": "best member of each picture: the ceiling of choosing among the members' answers",
}

SIGNS = {
    "confidence": (
        "confidence",
        "How often an answer is exactly right, against the confidence that it comes with, which was calibrated on "
        "validation pictures. Points are tenths of the pictures with 95 % intervals; in brackets the area under the "
        "ROC curve.",
    ),
    "agreement": ("agreement", "Mean Tanimoto similarity of the answer with the answers of all members."),
    "log_probability": ("log-probability", "Natural logarithm of the answer's probability, mean over the members."),
    "distance": (
        "distance of the drawing",
        "How badly a drawing of the answer fits the picture; 0 is the same picture, as a right answer's mostly is "
        "where the run's own renderer drew the test pictures too. Pictures from elsewhere fit less well.",
    ),
}


@dataclass(frozen=True)
class Card:
    """One prediction of the gallery."""

    cid: int
    verdict: str  # right, wrong or invalid
    picture: str  # data URI
    drawn: str  # data URI of the prediction drawn again; empty where RDKit cannot
    reference: str
    prediction: str
    tanimoto: float


def report(
    *,
    out: Path,
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
    choices: list[Path] | None = None,
    speed_training: list[Path] | None = None,
    speed_prediction: list[Path] | None = None,
) -> None:
    """Write the report.

    Parameters
    ----------
    out
        HTML file; it needs no other file and no network.
    title, note
        What stands on top.
    gallery
        Predictions shown in the gallery.
    test_sets
        Test sets as NAME=DATASET; the first is the main one.
    scores, images
        What the stage ``score`` wrote, in the same order.
    predictions
        What the stages ``predict``, ``ensemble``, ``constant`` and ``osra`` wrote, in the same order.
    models, metrics
        What the stage ``train`` wrote, in the same order.
    corpora
        Length histograms of the sources (.../SOURCE/lengths.csv).
    samples
        Length counts of the data sets (.../DATASET/lengths.csv).
    data
        Packed data sets that the test sets are taken from.
    rejects
        Tables of rejects of sources and data sets.
    choices
        What the stage ``choose`` wrote: the members of each ensemble.
    speed_training, speed_prediction
        What the stages of these names wrote.
    """
    scored = [read_json(path) for path in scores]
    described = {facts["name"]: facts for facts in map(read_json, models)}
    main = test_sets[0].split("=")[0]
    tables: list[dict[str, Any]] = [
        {
            "name": name,
            "dataset": dataset,
            "rows": _rows([s for s in scored if s["test_set"] == name], described),
        }
        for name, dataset in (pair.split("=", 1) for pair in test_sets)
    ]
    curves = {path.parent.name: pd.read_json(path, lines=True) for path in metrics}
    best = _best(tables[0]["rows"], "model", "ensemble")
    assert best is not None  # there is a model
    at = next(i for i, s in enumerate(scored) if s["test_set"] == main and s["name"] == best["name"])
    packed = {path.parent.name: path for path in data}
    trained = [read_json(path) for path in speed_training or []]
    html = template("report.html").render(
        title=title,
        note=note,
        tables=tables,
        summary=_summary(tables[0]["rows"]),
        best=best,
        talk=talk,
        lengths=_length_figures(corpora, samples),
        curves=[
            figures.curves(curves, *labels)
            for labels in (
                (
                    "validation_tanimoto",
                    "Tanimoto similarity",
                    "Validation score",
                    "Mean Tanimoto similarity of greedy readings of validation pictures.",
                ),
                (
                    "loss",
                    "cross-entropy [nats a token]",
                    "Training loss",
                    "Mean cross-entropy of the last steps.",
                ),
            )
        ],
        pairs=[
            figures.pairs(
                s["members"],
                s["pairs"],
                f"Agreement in {s['name']} on {s['test_set']}",
                "Mean Tanimoto similarity between the predictions of every two members, where both are valid.",
            )
            for s in scored
            if s["kind"] == "ensemble" and s["method"] == "pairs"
        ],
        methods=METHODS,
        choices=[read_json(path) for path in choices or []],
        trust=_trust(tables[0]["rows"]),
        groups=best["groups"],
        by_length=_by_length(scored, images, predictions, main),
        gallery=_gallery(
            gallery,
            pd.read_parquet(predictions[at]),
            pd.read_parquet(images[at]),
            Packed(packed[tables[0]["dataset"]]),
        ),
        rejects=_rejects(rejects),
        speed_training=trained,
        speed_prediction=[read_json(path) for path in speed_prediction or []],
        scaling=_scaling(trained),
        models=list(described.values()),
        versions={name: version(name) for name in VERSIONS},
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    )
    write_text(out, html)
    print(f"the report is {out}")


def _rows(scored: list[dict[str, Any]], described: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table of scores: what was read, with the model's description where it is one."""
    rows = []
    for facts in scored:
        model = described.get(facts["name"])
        ours = (model["network"]["encoder"], model["network"]["dim"], model["dataset"]) if model else None
        theirs = next((m for m in talk.MODELS if (m.encoder, m.dim, m.dataset) == ours), None)
        rows.append({**facts, "model": model, "talk": theirs})
    return rows


def _best(rows: list[dict[str, Any]], *kinds: str) -> dict[str, Any] | None:
    """The reader of some kinds that is best on validation pictures, by Tanimoto similarity: a fair choice."""
    readers = [row for row in rows if row["kind"] in kinds]
    return max(readers, key=lambda row: row["validation_tanimoto"], default=None)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Single against ensemble, constant answer and peers."""
    return {
        "model": _best(rows, "model"),
        "ensemble": _best(rows, "ensemble"),
        "constant": next((row for row in rows if "answer" in row), None),
        "peers": [row for row in rows if row["kind"] == "baseline" and "answer" not in row and "scores" in row],
    }


def _trust(rows: list[dict[str, Any]]) -> list[figures.Drawing]:
    """How each sign of trust goes with being right: of the best single model, and of the ensembles."""
    shown = [*filter(None, [_best(rows, "model")]), *(row for row in rows if row["kind"] == "ensemble")]
    drawings = []
    for sign, (label, caption) in SIGNS.items():
        points = [
            {"name": _with_area(row, sign), "mean": point["mean"], "exact": point["exact"]["value"]}
            | {end: point["exact"][end] for end in ("low", "high")}
            for row in shown
            for point in row["trust"].get(sign, {}).get("curve", [])
        ]
        if points:
            table = pd.DataFrame(points)
            drawings.append(figures.trust(table, label, label.capitalize(), caption, share=sign == "confidence"))
    return drawings


def _with_area(row: dict[str, Any], sign: str) -> str:
    area = row["trust"][sign]["auroc"]
    return row["name"] if area is None else f"{row['name']} ({area:.2f})"


def _length_figures(corpora: list[Path], samples: list[Path]) -> list[figures.Drawing]:
    source = {path.parent.name: pd.read_csv(path) for path in corpora}
    drawn = {path.parent.name: pd.read_csv(path).rename(columns={"got": "count"}) for path in samples}
    # A tail of a few very long molecules would hide the rest.
    shown = {name: table[table["length"] <= 150] for name, table in source.items()}
    return [
        figures.lengths(shown, "Before sampling", "Lengths of all molecules of the sources, up to 150 characters."),
        figures.lengths(drawn, "After sampling", "Lengths of the molecules drawn for each data set."),
    ]


def _by_length(scored: list[dict[str, Any]], images: list[Path], predictions: list[Path], main: str) -> figures.Drawing:
    of_main = [facts for facts in scored if facts["test_set"] == main and "scores" in facts]
    best = _best(of_main, "model", "ensemble")
    parts = []
    for facts, image, prediction in zip(scored, images, predictions, strict=True):
        alone = facts["kind"] in ("model", "baseline") or facts.get("method") == "pairs"
        if facts in of_main and (alone or facts is best):
            rows = pd.read_parquet(image).merge(pd.read_parquet(prediction, columns=["cid", "reference"]), on="cid")
            parts.append(rows.assign(length=rows["reference"].str.len(), name=facts["name"]))
    return figures.by_length(
        pd.concat(parts, ignore_index=True),
        "Score by length",
        f"Mean Tanimoto similarity on {main}, by length of the reference; of the ensembles by the pair rule, and by "
        "what was best on validation pictures.",
    )


def _scaling(trained: list[dict[str, Any]]) -> figures.Drawing | None:
    """The training speeds, where there is more than one of a model."""
    measured = [
        {"name": facts["name"], "processes": row["processes"], "images_per_second": row["images_per_second"]}
        for facts in trained
        for row in facts["rows"]
        if "device" in row
    ]
    rows = pd.DataFrame(measured)
    if not measured or rows["name"].value_counts().max() < 2:
        return None
    return figures.scaling(
        rows,
        "Training with one process and with several",
        "Images per second of all processes together. Dashed: as many times those of one process.",
    )


def _gallery(size: int, rows: pd.DataFrame, images: pd.DataFrame, packed: Packed) -> list[Card]:
    """Right and wrong predictions, half and half where there are enough; the wrong ones from near to far."""
    rows = (
        rows[["cid", "id", "reference", "prediction"]]
        .merge(images.drop(columns="id"), on="cid")
        .sort_values("tanimoto", ascending=False, kind="stable")
    )
    right = rows[rows["exact"]]
    wrong = rows[~rows["exact"]]
    n_right = min(len(right), max(size // 2, size - len(wrong)))
    n_wrong = min(len(wrong), size - n_right)
    spread = np.linspace(0, max(0, len(wrong) - 1), n_wrong).round().astype(int)
    position = {int(cid): i for i, cid in enumerate(packed.cid)}
    cards = []
    row: Any
    for row in pd.concat([right.head(n_right), wrong.iloc[spread]]).itertuples():
        verdict = "right" if row.exact else "wrong" if row.valid else "invalid"
        cards.append(
            Card(
                int(row.cid),
                verdict,
                data_uri(packed.picture(position[int(row.cid)])),
                _drawn(str(row.prediction), packed.depiction),
                str(row.reference),
                str(row.prediction),
                float(row.tanimoto),
            )
        )
    return cards


def _drawn(smiles: str, depiction: Depiction) -> str:
    molecule = parse(smiles)
    if molecule is None:
        return ""
    try:
        return data_uri(draw(molecule, depiction))
    except ValueError:
        return ""


def _rejects(paths: list[Path]) -> list[dict[str, Any]]:
    """Rows: where, reason, count, example, dropped."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        stage = path.stem if path.parent.name == "rejects" else "filter"
        owner = path.parent.parent.name if path.parent.name == "rejects" else path.parent.name
        for row in pd.read_csv(path, keep_default_na=False).to_dict("records"):
            rows.append({"owner": owner, "stage": stage, "dropped": True} | {str(k): v for k, v in row.items()})
    return rows


if __name__ == "__main__":
    run(report)
