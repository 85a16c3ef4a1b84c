"""Stage ``calibrate``: learn on validation pictures how far a reader's predictions are to be trusted.

The confidence is the probability that a prediction is exactly right: a logistic regression (Platt 1999) on what is
known of a prediction without its reference. Every feature is made such that more of it is better, and one that is found
to say the opposite is left out: a picture that looks worse in every respect never gets the higher confidence, however
far it is from those learnt on.

Members that were chosen on the same pictures agree on them a little more than on others, so an ensemble's confidences
may be a little too high; the calibration curves of the test sets show it.
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..chem.scores import wilson
from ..chem.similarity import parse_all, parsed_similarity
from ..prediction.prediction_tables import with_distances
from ..runtime.errors import UserError
from ..runtime.files import write_json

Floats = NDArray[np.float64]
Row = dict[str, Any]

# The worst values of the columns, which unknown ones are taken for too.
WORST = {"log_probability": -100.0, "agreement": 0.0, "distance": 1.0}
PENALTY = 0.1  # on the squares of the coefficients
# A picture of no molecule, as it looks at best: chosen mild, since what is worse gets still less confidence.
NO_MOLECULE = {"log_probability": -10.0, "agreement": 0.3, "distance": 0.5}


@dataclass(frozen=True)
class Calibration:
    """What was learnt of a reader: a weighted sum of standardised features, put through the logistic function."""

    features: list[str]  # columns of the predictions
    means: list[float]
    scales: list[float]  # standard deviations
    coefficients: list[float]  # all positive
    highest: list[float]  # feature seen: what is better still is taken for that
    intercept: float
    pictures: int  # learnt on
    exact_share: float  # of them that were exactly right

    def to_json(self) -> Row:
        """As values of JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Row) -> "Calibration":
        """From what :meth:`to_json` made, among other keys.

        Raises
        ------
        UserError
            Where a key is missing, or a value cannot be.
        """
        try:
            made = cls(**{field.name: value[field.name] for field in fields(cls)})
            columns = np.array([made.means, made.scales, made.coefficients, made.highest], float)
            numbers = [*columns.flat, float(made.intercept)]
            whole = columns.shape == (4, len(made.features)) and set(made.features) <= WORST.keys()
            if not whole or not np.isfinite(numbers).all() or not all(scale > 0 for scale in made.scales):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError("not a calibration; make it again with the stage calibrate") from None
        return made


def fit(rows: pd.DataFrame, exact: NDArray[np.bool_]) -> Calibration:
    """Learn how often predictions are exactly right.

    Two pictures are made up besides those given, as in Laplace's rule of succession: one that looks as they do on
    average and is right, and one of no molecule, which is wrong. So a handful of pictures, or only right ones, will do.

    Parameters
    ----------
    rows
        Predictions with references: valid, complete (if known), and as far as there are any log_probability (natural
        logarithm), agreement in [0, 1] and distance in [0, 1].
    exact
        Whether each is exactly right (pictures,).
    """
    # Here, since scikit-learn takes a second to import, and confidences are computed without it.
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    valid = _usable(rows)
    used = [name for name in WORST if name in rows and rows.loc[valid, name].notna().any()]
    right = [*exact[valid].tolist(), True, False]
    share = float(exact.mean()) if len(exact) else 0.0
    while used:
        features = _features(rows[valid], used)
        means, scales = features.mean(axis=0), features.std(axis=0)
        scales[scales < 1e-9] = 1.0  # all the same, but for rounding
        nothing = _features(pd.DataFrame([NO_MOLECULE]), used)
        model = LogisticRegression(C=1 / PENALTY).fit((np.vstack([features, means, nothing]) - means) / scales, right)
        coefficients = model.coef_[0].tolist()
        worst = int(np.argmin(coefficients))
        if coefficients[worst] > 0:
            intercept = float(model.intercept_[0])
            highest = features.max(axis=0).tolist()
            return Calibration(
                used, means.tolist(), scales.tolist(), coefficients, highest, intercept, len(rows), share
            )
        del used[worst]
    odds = sum(right) / (len(right) - sum(right))
    return Calibration([], [], [], [], [], math.log(odds), len(rows), share)


def confidence(rows: pd.DataFrame, calibration: Calibration) -> Floats:
    """Probability that each prediction is exactly right, in [0, 1]; 0 where RDKit does not parse it, or it was cut off.

    Parameters
    ----------
    rows
        Predictions: valid, complete (if known), and the columns that the calibration was learnt with.
    calibration
        Learnt from the same reader's predictions of other pictures.

    Raises
    ------
    UserError
        Where a column is missing.
    """
    for name in calibration.features:
        if name not in rows:
            raise UserError(f"the calibration was learnt with {name}, which these predictions lack; calibrate again")
    features = np.minimum(_features(rows, calibration.features), calibration.highest)
    standardised = (features - np.array(calibration.means)) / np.array(calibration.scales)
    logits = calibration.intercept + standardised @ np.array(calibration.coefficients)
    # The logistic function, by a function that does not overflow.
    return np.where(_usable(rows), (1 + np.tanh(logits / 2)) / 2, 0.0)


def _usable(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each prediction can be right at all: RDKit parses it, and it was not cut off at the greatest length."""
    usable = rows["valid"].to_numpy(bool)
    return usable & rows["complete"].to_numpy(bool) if "complete" in rows else usable


def _features(rows: pd.DataFrame, names: list[str]) -> Floats:
    """What the columns say, made such that more of it is better and that differences matter alike, (rows, names)."""
    made = [_feature(name, rows[name].to_numpy(float)) for name in names]
    return np.stack(made, axis=1) if made else np.empty((len(rows), 0))


def _feature(name: str, values: Floats) -> Floats:
    values = np.where(np.isnan(values), WORST[name], values)
    if name == "log_probability":
        values = np.clip(values, WORST[name], -1e-6)
        return values - np.log(-np.expm1(values))  # the logit, which is what is wanted of a model that knows itself
    # Most agree wholly and fit exactly, so it matters how near a value is to that. What is nearer than the terms added
    # is about the same: members that all answer one, drawings of the same molecule. The second term and PENALTY were
    # chosen by cross-validation on the demo's 107 validation pictures: log loss 0.25 with 0.01 and 1, 0.12 with these.
    return -np.log(1 - values + 0.02) if name == "agreement" else -np.log(values + 0.0003)


def reliability(values: Floats, exact: NDArray[np.bool_], similarity: Floats, bins: int = 10) -> list[Row]:
    """How often predictions are right, by what they are trusted for: a calibration curve.

    Parameters
    ----------
    values
        What is thought to go with being right, (pictures,); those without one are left out.
    exact
        Whether each prediction is exactly right, (pictures,).
    similarity
        Its Tanimoto similarity with the reference, (pictures,).
    bins
        Parts of about equally many pictures, at most; pictures of equal value stay together.

    Returns
    -------
    Of each part, the lowest values first: ``low``, ``high`` and ``mean`` value, ``images``, the share of ``exact`` ones
    (``value`` with its Wilson 95 % interval, ``low`` and ``high``), and the mean ``tanimoto``.
    """
    table = pd.DataFrame({"value": values, "exact": exact, "similarity": similarity})
    table = table[np.isfinite(table["value"])]
    # Equal values share a rank, the middle one of theirs.
    part = ((table["value"].rank() - 0.5) / max(len(table), 1) * bins).astype(int)
    return [
        {
            "low": float(group["value"].min()),
            "high": float(group["value"].max()),
            "mean": float(group["value"].mean()),
            "images": len(group),
            "exact": asdict(wilson(int(group["exact"].sum()), len(group))),
            "tanimoto": float(group["similarity"].mean()),
        }
        for _, group in table.groupby(part)
    ]


def auroc(values: Floats, exact: NDArray[np.bool_]) -> float | None:
    """Probability that a prediction that is right has a higher value than one that is not (area under the ROC curve).

    None where all are right, or none is. Pictures without a value (NaN) are left out.
    """
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    present = ~np.isnan(values)
    ranks, right = pd.Series(values[present]).rank(), exact[present]  # ranks, since infinite values are refused
    return float(roc_auc_score(right, ranks)) if 0 < right.sum() < len(right) else None


def calibrate(predictions: Path, *, out: Path, redrawn: Path | None = None, processes: int = 1) -> None:
    """Learn the probability that a prediction is exactly right.

    Parameters
    ----------
    predictions
        Parquet file of the stages ``predict`` or ``vote``, on validation pictures.
    out
        JSON file: the :class:`Calibration`; and ``tanimoto``, the mean Tanimoto similarity on these
        pictures, by which readers are compared without a look at test pictures.
    redrawn
        Parquet file of the stage ``redraw`` for a single model; the predictions of an ensemble have their distances.
    processes
        Processes that parse texts.

    Raises
    ------
    UserError
        Where the files are not of the same pictures, or RDKit parses no reference.
    """
    rows = with_distances(pd.read_parquet(predictions), redrawn)
    texts = [*rows["prediction"], *rows["reference"]]
    molecules = parse_all(texts, processes=processes, what="texts parsed")
    rows = rows[[molecules[text] is not None for text in rows["reference"]]]
    if not len(rows):
        raise UserError(f"{predictions}: has no reference that RDKit parses; there is nothing to calibrate on")
    rows = rows.assign(valid=[molecules[text] is not None for text in rows["prediction"]])
    pairs = [(molecules[a], molecules[b]) for a, b in zip(rows["prediction"], rows["reference"], strict=True)]
    exact = np.array([a is not None and b is not None and a.canonical == b.canonical for a, b in pairs])
    calibration = fit(rows, exact)
    mean = float(np.mean([parsed_similarity(a, b) for a, b in pairs]))
    write_json(out, {**calibration.to_json(), "tanimoto": mean})
    area = auroc(confidence(rows, calibration), exact)
    by = ", ".join(calibration.features) or "their share alone"
    curve = "" if area is None else f", area under the ROC curve on them {area:.3f}"
    print(f"{len(rows)} pictures, {exact.mean():.4f} exactly right, by {by}{curve}")
