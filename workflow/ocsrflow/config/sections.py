"""The sections of the configuration that no stage takes whole: rules hand their keys over one by one."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from .base import Settings
from .network import Network
from .paths import GivenPath
from .reading import Reading
from .styles import Styles
from .training import Training

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*$",
        max_length=80,  # two of them and an ending are the name of a file, which may have 255
        description="A name for files and wildcards: letters, digits, '_' and '-'.",
    ),
]


def _no_password(address: str | None) -> str | None:
    """The configuration is shown in the report and kept in MLflow."""
    if address is not None and urlsplit(address).password is not None:
        raise ValueError(
            "an address without a password, which the report would show; for MLflow set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (for a PostgreSQL store PGPASSWORD) in the environment"
        )
    return address


class _Source(Settings):
    name: Name
    max_length: int = Field(
        100, ge=1, le=2000, description="Longest SMILES kept, in characters; longer ones are rejected."
    )


class PubChemSource(_Source):
    """PubChem's CID-SMILES file, downloaded."""

    kind: Literal["pubchem"]
    url: str = Field(description="Address of the gzip-compressed CID<TAB>SMILES file.")
    md5_url: str | None = Field(None, description="Address of its published md5; null to go without.")

    @field_validator("url", "md5_url")
    @classmethod
    def _secure(cls, value: str | None) -> str | None:
        if value is not None:
            _no_password(value)
            parts = urlsplit(value)
            if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
                raise ValueError("an https:// address (http:// is for localhost only)")
        return value


class FileSource(_Source):
    """A local file of CID<TAB>SMILES lines."""

    kind: Literal["file"]
    path: GivenPath = Field(description="Path of the file, plain or gzip-compressed (.gz).")


class EmbeddedSource(_Source):
    """The 4,999 NCI molecules that come with RDKit: no download, no file."""

    kind: Literal["nci"]


class PublicSource(_Source):
    """The 283,036 public molecules that come with this repository: no download, see workflow/resources/README.md."""

    kind: Literal["public"]


class PicturesSource(_Source):
    """Supplied pictures: a CSV of file names and SMILES, and a folder or zip of PNGs (the contest's form)."""

    kind: Literal["pictures"]
    csv: GivenPath = Field(description="CSV with a header line.")
    pictures: GivenPath = Field(description="Folder or zip archive that holds the pictures.")
    file_column: str = Field("file_name", description="Column of the CSV with the picture's file name.")
    smiles_column: str = Field("SMILES", description="Column of the CSV with the SMILES.")


Source = Annotated[
    PubChemSource | FileSource | EmbeddedSource | PublicSource | PicturesSource, Field(discriminator="kind")
]


class Dataset(Settings):
    """Molecules sampled from a source, their pictures and their tokens."""

    name: Name
    source: str = Field(description="Name of the source it is sampled from.")
    max_length: int | None = Field(
        None, ge=1, description="Longest SMILES, in characters; null for the source's own limit."
    )
    per_length: int | None = Field(
        None,
        ge=1,
        description="So many molecules of each SMILES length (a uniform distribution); "
        "null keeps the source's own distribution.",
    )
    size: int | None = Field(
        None,
        ge=1,
        description="Molecules in the data set, all splits together, sampled from those; null for all.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the sample.")
    drawings: int = Field(
        1,
        ge=1,
        le=1000,
        description="Drawings of each training molecule, where depiction.styles gives each one a style of its own.",
    )
    shards: int | None = Field(
        None,
        ge=1,
        description="Jobs that its drawing is divided into; null for as many as rendering.shard_size gives.",
    )


class Model(Settings):
    """One trained model: network and training start from the top-level sections of the same names."""

    name: Name
    dataset: str = Field(description="Name of the data set it learns from.")
    network: Network
    training: Training
    gpus: int = Field(1, ge=0, description="GPUs for the training, one process each; 0 trains on the CPU.")

    @model_validator(mode="after")
    def _something_is_trained(self) -> "Model":
        if self.training.epochs == 0 and self.network.parent is None:
            raise ValueError(
                "training.epochs: 0 is for a parent's weights, as they are or with training.risk: give its folder as "
                "network.pretrained, or 1 epoch or more"
            )
        return self


class TestSet(Settings):
    """Molecules that every model reads; the first test set is the report's main one."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    name: Name
    dataset: str = Field(description="Name of the data set whose split is read.")
    split: Literal["validation", "test"] = Field("test", description="Which split of it.")
    size: int | None = Field(None, ge=1, description="At most so many pictures; null for all.")


class Selection(Settings):
    """Validation pictures by which members of ensembles are chosen and confidences are calibrated; never test ones."""

    dataset: str | None = Field(
        None, description="Data set whose validation split is read; null for that of the first test set."
    )
    size: int | None = Field(2000, ge=1, description="At most so many pictures; null for all.")


class Benchmark(Settings):
    """A folder of pictures from elsewhere with their SMILES: one more test set."""

    name: Name
    images: GivenPath = Field(description="Folder or zip archive of pictures.")
    references: GivenPath = Field(description="CSV with a header line.")
    id_column: str = Field("id", description="Column of the CSV with the picture's file name, with or without suffix.")
    smiles_column: str = Field("smiles", description="Column of the CSV with the SMILES.")


class NamedDrawing(Settings):
    """The molecules of the first test set in a style of their own: one more test set, for the table of robustness."""

    name: Name
    style: Styles = Field(
        default_factory=Styles, description="What differs from RDKit's own style at 300 × 300 pixels."
    )


class Ensemble(Settings):
    """Models that answer together, and OSRA with them where it is listed."""

    name: Name
    models: list[str] = Field(
        min_length=2,
        description="Names of its models; ties go to the earlier one. osra may be among them, if it is one of the "
        "baselines.",
    )
    selection: Literal["listed", "best"] = Field(
        "listed",
        description="Which of them vote: all as listed, or those whose pair rule has the highest mean Tanimoto "
        "similarity on the selection's validation pictures.",
    )
    largest: int | None = Field(None, ge=2, description="At most so many members, where the best are selected.")


class Prediction(Reading):
    """How trained models read pictures."""

    batch: int = Field(256, ge=1, description="Pictures decoded together.")
    timed_images: int = Field(
        100, ge=1, description="Pictures read one at a time, after a warm-up, for the seconds per image."
    )


class Rendering(Settings):
    """How the drawing is divided."""

    shard_size: int = Field(100_000, ge=1, description="Pictures drawn by one job, at most about so many.")
    time_limit: float = Field(
        10.0, gt=0, description="Seconds after which the drawing of one molecule is given up; a spare one replaces it."
    )


class Checkpoints(Settings):
    """How a training is saved; it does not change what comes out."""

    minutes: float = Field(
        10.0, ge=0, description="Minutes between two checkpoints of a training; one is saved after each validation too."
    )


class Speed(Settings):
    """What is measured of the speed: trainings on one process and on several, ensembles in turn and side by side."""

    training: list[str] = Field(
        default=[], description="Names of the models whose training speed is measured, for a short time each."
    )
    processes: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        default=[1, 2, 4],
        min_length=1,
        description="Numbers of processes that share such a training, ascending; on GPUs, one GPU each. "
        "What a machine is too small for is left out.",
    )
    steps: int = Field(
        30,
        ge=1,
        description="Training steps that are timed for each number of processes; a machine that needs more than a "
        "minute for them does fewer.",
    )
    ensembles: list[str] | None = Field(
        None,
        description="Names of the ensembles whose members read one after the other and side by side; null for all.",
    )
    prediction_gpus: int = Field(
        1,
        ge=0,
        description="GPUs that the members of an ensemble share when they read side by side, as many of them as there "
        "are; 0 for the CPU, where ensembles of models with gpus 0 always read.",
    )

    @field_validator("processes")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if sorted(set(value)) != value:
            raise ValueError("ascending numbers are expected, each once")
        return value


class Tracking(Settings):
    """Where MLflow records the runs."""

    experiment: str = Field("ocsrflow", min_length=1, description="Name of the MLflow experiment.")
    uri: str | None = Field(
        None, description="MLflow tracking server; null for an SQLite file under the results folder."
    )

    _secret = field_validator("uri")(_no_password)


class Report(Settings):
    """What the report says and shows."""

    title: str = Field("ocsrflow", min_length=1, description="Title of the report.")
    note: str = Field("", description="A remark under the title.")
    gallery: int = Field(24, ge=0, description="Predictions shown in the gallery.")
    attention: int = Field(3, ge=0, description="Predictions shown with where the best single model looked.")
