"""Texts and figures that the report prints as they stand: captions of its figures, and the talk's own figures.

The captions are the same in the report, in its SVG files and in Snakemake's report. The talk's figures stand beside
ours; their source: slides of the 3rd place (KISTI/UNIST) in the 2020 LG/DACON contest "molecule image to SMILES".
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class TalkModel:
    """A row of the talk's table of models."""

    encoder: str
    pretrained: str
    dim: int
    dataset: str
    score: float  # best public Tanimoto similarity
    seconds: float  # per image, one GPU


MODELS = (
    TalkModel("wide_resnet101_2", "imagenet", 512, "ours2", 0.9729, 0.0853),
    TalkModel("wide_resnet101_2", "imagenet", 512, "ours1", 0.9625, 0.0861),
    TalkModel("resnet152", "imagenet", 512, "contest", 0.9622, 0.0947),
    TalkModel("resnet152", "imagenet", 256, "contest", 0.9512, 0.1035),
    TalkModel("resnext101_32x8d", "imagenet", 256, "ours1", 0.9677, 0.0972),
)
SINGLE = (0.9729, 0.0934)  # best score, mean seconds per image
ENSEMBLE = (0.9961, 0.1992)  # public score of five models, seconds per image
IN_TURN = sum(model.seconds for model in MODELS)  # seconds per image of the five, added up; not on the slides
WINNER = 0.9986  # the contest's best score


@dataclass(frozen=True)
class TalkDataset:
    """A row of the talk's table of training data."""

    name: str
    samples: int
    drawn: str  # how


DATASETS = (
    TalkDataset("contest", 700_000, "the contest's own, at most 70 characters"),
    TalkDataset("ours1", 1_290_000, "35,000 of each length up to 100, then a random draw"),
    TalkDataset("ours2", 1_548_000, "35,000 of each length up to 100, then a random draw"),
)


class Caption(NamedTuple):
    """What stands over a figure, and under it."""

    title: str
    text: str


# By the name of the figure's file, up to its first dot; behind it stands what the figure is of.
CAPTIONS = {
    "lengths-source": Caption(
        "Source and what the filter keeps",
        "Molecules of each SMILES length, in characters, in each source and among those that the filter keeps, on a "
        "logarithmic axis.",
    ),
    "lengths-sampled": Caption(
        "Sampled", "Molecules of each SMILES length, in characters, drawn for each data set, before the splits."
    ),
    "validation": Caption(
        "Validation score", "Mean Tanimoto similarity of greedy readings of validation pictures during training."
    ),
    "loss": Caption("Training loss", "Mean cross-entropy, in nats a token, of the last steps."),
    "methods": Caption(
        "Readers compared",
        "Mean Tanimoto similarity with its 95 % bootstrap interval: single models, ensembles by each method, the "
        "ceiling of choosing among the members' answers, and baselines.",
    ),
    "robustness": Caption(
        "Robustness",
        "Mean Tanimoto similarity of each reader on the first test set as it is, on the same molecules in each named "
        "drawing, and on each benchmark; of the ensembles by the pair rule. The CSV file beside the figure has exact "
        "matches and 95 % intervals, too.",
    ),
    "by-length": Caption(
        "Score by length",
        "Mean Tanimoto similarity by length of the reference, in bins of equally many pictures; of the ensembles by "
        "the pair rule, and by what was best on validation pictures.",
    ),
    "agreement": Caption(
        "Agreement of the members",
        "Mean Tanimoto similarity between the predictions of every two members, where RDKit parses both.",
    ),
    "trust-confidence": Caption(
        "Confidence",
        "How often an answer is exactly right, against the confidence that it comes with, which was calibrated on "
        "validation pictures. The distance of the drawing is part of it, with what stands there. Points are "
        "tenths of the pictures with 95 % intervals; in brackets the area under the ROC curve.",
    ),
    "trust-agreement": Caption(
        "Agreement",
        "How often an answer is exactly right, against its mean Tanimoto similarity with the answers of all members.",
    ),
    "trust-log_probability": Caption(
        "Log-probability",
        "How often an answer is exactly right, against the natural logarithm of its probability, mean over the "
        "members.",
    ),
    "trust-distance": Caption(
        "Distance of the drawing",
        "How often an answer is exactly right, against how badly a drawing of it fits the picture; 0 is the same "
        "picture, as a right answer's mostly is where the run's own renderer drew the test pictures too. Pictures from "
        "elsewhere fit less well.",
    ),
    "speed-training": Caption(
        "Training with one process and with several",
        "Images per second of all processes together. Dashed: as many times those of one process.",
    ),
    "speed-prediction": Caption(
        "Single models and the ensemble",
        "Seconds per image: each member alone, all of them one after the other in one process, and side by side in "
        "parallel processes, with quartiles where they were measured.",
    ),
    "stages": Caption("Run time of each stage", "Wall time of all jobs of a stage, added up, in minutes."),
}


def caption_of(figure: str) -> Caption:
    """The caption of a figure by its name; what it is of stands behind the title."""
    name, *of = figure.split(".", 1)
    title, text = CAPTIONS[name]
    return Caption(f"{title}: {of[0].replace('.', ' on ')}" if of else title, text)
