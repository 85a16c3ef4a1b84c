"""What the steps are given: how large everything is, where, and how much time there is."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoder import SHAPES, Shape
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import REFERENCE_MODELS, Network
from ocsrflow.training.parent import Parent

Row = dict[str, Any]  # of a table, by the name of the column; "ok" says whether it is as it should be


def random_network(encoder: str, **shape: Any) -> Network:
    """A network of random weights."""
    return Network(encoder=encoder, pretrained="none", frozen_children=0, **shape)


SHIPPED = Parent.read(REFERENCE_MODELS / "resnet18-384")


def reference(image_size: int) -> Network:
    """The shipped model's shape, which has the same weights in frames of all sizes."""
    shape = {"stride": 16, "grid": image_size // 16, "dim": 384, "dropout": 0.2}
    return Network(encoder="resnet18", pretrained="reference", frozen_children=0, image_size=image_size, **shape)


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    shape: Shape  # of the decoder whose passes are compared
    molecules: int  # of the small sets
    max_length: int
    steps: int  # of the training against the CPU's, of ``step_batch`` pictures
    step_batch: int
    frame: int  # pixels of the pictures that the shipped model reads
    pictures: int  # that it reads
    clock: Namespace  # of tests/benchmarks/training.py, for the speed of a training
    encoders: tuple[str, ...]
    throughput: tuple[Network, int, int]  # network, pictures of a batch and rounds
    members: dict[str, Network]  # that read one picture after the other
    timed_images: int
    training_frame: int  # pixels of the pictures that the shipped model is trained on
    training_set: dict[str, int]  # molecules: per_length or size, drawings, shards
    batches: tuple[int, ...]  # tried from the largest
    least_steps: int  # that a training must have: else the next smaller batch
    most_epochs: int
    validation_size: int


def varied(size: int) -> Depiction:
    """Drawn as the shipped models' pictures."""
    return Depiction(size=size, palette="black_and_white", styles="varied")  # type: ignore[arg-type]


FULL = Sizes(
    shape=Shape(64, 8, 14, 2048, 512, 10, 75),
    molecules=2000,
    max_length=60,
    steps=20,
    step_batch=32,
    frame=128,
    pictures=64,
    clock=Namespace(
        batch=384, image_size=256, stride=32, grid=14, dim=512, steps=8, rounds=2, threads=8, compile=False
    ),
    encoders=("efficientnet_b0", "resnet152", "resnext101_32x8d", "wide_resnet101_2"),
    throughput=(random_network("resnet152"), 256, 2),
    members={  # the talk's five models
        "wide_resnet101_2-512-a": random_network("wide_resnet101_2"),
        "wide_resnet101_2-512-b": random_network("wide_resnet101_2"),
        "resnet152-512": random_network("resnet152"),
        "resnet152-256": random_network("resnet152", dim=256),
        "resnext101_32x8d-256": random_network("resnext101_32x8d", dim=256),
    },
    timed_images=30,
    training_frame=192,
    training_set={"per_length": 3000, "drawings": 3, "shards": 32},
    batches=(4096, 2048, 1024, 512, 256),
    least_steps=600,
    most_epochs=100,
    validation_size=1000,
)
TINY = {"image_size": 32, "stride": 8, "grid": 4, "dim": 16}
TOY = Sizes(
    shape=SHAPES["small"],
    molecules=60,
    max_length=14,
    steps=3,
    step_batch=4,
    frame=64,
    pictures=3,
    clock=Namespace(batch=4, **TINY, steps=1, rounds=1, threads=1, compile=False),
    encoders=("resnet18",),
    throughput=(random_network("resnet18", **TINY), 2, 1),
    members={name: random_network("resnet18", **TINY) for name in ("one", "two")},
    timed_images=2,
    training_frame=64,
    training_set={"size": 80, "drawings": 1, "shards": 2},
    batches=(10**6, 16),
    least_steps=1,
    most_epochs=2,
    validation_size=4,
)


@dataclass(frozen=True)
class Plan:
    """A run of the script."""

    sizes: Sizes
    device: str  # cuda, or cpu for the toy
    work: Path  # folder for what is made on the way
    out: Path  # folder for what is brought back
    draw_until: float  # time.time() at which drawing ends
    deadline: float  # and at which everything does
    cores: int

    @property
    def drawings(self) -> Path:
        """Pictures as the shipped model reads them."""
        return self.work / "drawings/images.h5"

    @property
    def plain(self) -> Path:
        """Pictures as in the talk: colour, 300 pixels."""
        return self.work / "plain/images.h5"
