"""The talk's own figures, for the report to show beside ours.

Source: slides of the 3rd place (KISTI/UNIST) in the 2020 LG/DACON contest "molecule image to SMILES".
"""

from dataclasses import dataclass


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
SHORT = 106_595_711  # molecules of PubChem of at most 100 characters, about 95 % of all
