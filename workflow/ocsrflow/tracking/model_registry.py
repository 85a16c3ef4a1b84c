"""Trained models in MLflow's registry: each can be loaded with ``mlflow.pyfunc.load_model`` and served."""

import hashlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..config.reading import Reading
from ..runtime.code_version import HOME, code_version
from ..runtime.files import read_json, sha256
from .mlflow_runs import KEY, Run
from .mlflow_store import patiently, read_store

# isort: split
import mlflow
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema

# What the package needs to read pictures; versions are those at hand.
NEEDED = (
    "torch", "torchvision", "timm", "safetensors", "rdkit", "numpy", "pandas", "pyarrow", "pillow", "h5py",
    "hdf5plugin", "pyspng", "scipy", "zstandard", "pebble", "psutil", "scikit-learn", "pydantic", "cyclopts", "tqdm",
)  # fmt: skip
ANSWER = (
    ("string", "smiles"),
    ("double", "confidence"),
    ("double", "log_probability"),
    ("string", "note"),
    ("string", "error"),
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "picture")]),
    outputs=Schema([ColSpec(kind, name) for kind, name in ANSWER]),
)
DESCRIPTION = (
    "Reads pictures of molecules, one molecule each. Input: a column `picture` with the bytes of PNG, JPEG, TIFF, GIF, "
    "WebP or BMP files (base64 in JSON). Output: `smiles`; `confidence`, the probability that it is exactly right; "
    "`log_probability`; `note`, where a picture shows several molecules; `error`, the reason where it cannot be read."
)


def register(run: Run, results: Path, name: str, prediction: Mapping[str, Any] | None = None) -> None:
    """Log a trained model to its run and register it as EXPERIMENT.MODEL, where this very model is not there yet.

    Parameters
    ----------
    run
        The run of the model's training.
    results
        Folder of results, with the model and, where there is one, its calibration.
    name
        Name of the model.
    prediction
        How it reads, as the section of that name in the configuration; what is not there is left to the defaults.
    """
    key, named = key_of(results, name), _named(run.experiment, name)
    if not _find(run.client, named, run.run_id, key):
        _log(run, results, named, key, name, prediction or {})


def registered(results: Path, name: str, run_id: str) -> str:
    """The id of the logged model of a run that :func:`register` has registered; empty where it was removed since."""
    store = read_store(results / "tracking.json")
    client = MlflowClient(tracking_uri=store.uri)
    return _find(client, _named(store.experiment, name), run_id, key_of(results, name))


def key_of(results: Path, name: str) -> str:
    """Twelve hexadecimal digits of what a model is made of: its files, and the code that reads with it."""
    own = [part for part in _parts(name) if (results / part).is_file()]
    parts = [code_version("reader.mlflow_pyfunc"), *((part, sha256(results / part)) for part in own)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _named(experiment: str, name: str) -> str:
    """A model's name in the registry: MLflow refuses slashes and colons, and looks for a name in a text with quotes."""
    return re.sub(r"[^\w -]", "-", experiment) + f".{name}"


def _parts(name: str) -> list[str]:
    return [f"models/{name}/weights.safetensors", f"models/{name}/model.json", f"calibration/{name}.json"]


def _find(client: MlflowClient, named: str, run_id: str, key: str) -> str:
    for found in client.search_model_versions(f"name = '{named}'"):
        if found.tags.get(KEY) == key and found.run_id == run_id:
            return str(found.source).removeprefix("models:/")  # the model's id, which a search leaves out
    return ""


def _log(run: Run, results: Path, named: str, key: str, name: str, config: Mapping[str, Any]) -> None:
    mlflow.set_tracking_uri(run.client.tracking_uri)
    facts = read_json(results / "models" / name / "model.json")
    reading = Reading(**{key: config[key] for key in Reading.model_fields if key in config}).model_dump()
    with (
        _files(results, name) as folder,
        warnings.catch_warnings(),
        patiently(),
        mlflow.start_run(run_id=run.run_id),
    ):
        warnings.simplefilter("ignore")  # of the input example that there is none: any picture would do
        logged: Any = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(HOME / "reader/mlflow_pyfunc.py"),
            artifacts={"results": folder.resolve().as_uri()},
            code_paths=[str(HOME)],
            signature=SIGNATURE,
            pip_requirements=["mlflow", *(f"{package}=={version(package)}" for package in NEEDED)],
            registered_model_name=named,
            model_config=reading,
            params={"encoder": facts["network"]["encoder"], "dim": facts["network"]["dim"]},
            metadata={"name": name, "key": facts["key"], "dataset": facts["dataset"]},
        )
    client = run.client
    client.update_registered_model(named, DESCRIPTION)
    number = str(logged.registered_model_version)
    client.set_model_version_tag(named, number, KEY, key)
    score = f"{facts['validation_tanimoto']:.4f}"
    client.set_model_version_tag(named, number, "validation_tanimoto", score)


@contextmanager
def _files(results: Path, name: str) -> Iterator[Path]:
    """A folder of results with this model alone, as :func:`ocsrflow.reader.find_models.find_models` reads one."""
    with tempfile.TemporaryDirectory(prefix="ocsrflow-model-") as temporary:
        folder = Path(temporary, "results")
        for part in _parts(name):
            if (results / part).is_file():
                (folder / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(results / part, folder / part)
        yield folder
