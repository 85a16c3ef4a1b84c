"""Trained models in MLflow's registry: each can be loaded with ``mlflow.pyfunc.load_model`` and served."""

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .closure import HOME, files
from .files import read_json, sha256
from .runs import KEY, Run
from .settings.reading import Reading
from .store import patiently
from .temporary import temporary_folder

# isort: split
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

CODE = files("served")
# What the package needs to read pictures; versions are those at hand.
NEEDED = (
    "torch", "torchvision", "timm", "safetensors", "rdkit", "numpy", "pandas", "pyarrow", "pillow", "h5py",
    "hdf5plugin", "pyspng", "scipy", "zstandard", "pebble", "scikit-learn", "pydantic", "cyclopts", "tqdm",
)  # fmt: skip
ANSWER = (("string", "smiles"), ("double", "confidence"), ("double", "log_probability"), ("string", "error"))
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "picture")]),
    outputs=Schema([ColSpec(kind, name) for kind, name in ANSWER]),
)
DESCRIPTION = (
    "Reads pictures of molecules, one molecule each. Input: a column `picture` with the bytes of PNG, JPEG, TIFF, GIF, "
    "WebP or BMP files (base64 in JSON). Output: `smiles`; `confidence`, the probability that it is exactly right; "
    "`log_probability`; `error`, the reason where a picture cannot be read."
)


def register(opened: Run, results: Path, name: str, prediction: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Log a trained model to its run and register it, where this very model is not registered yet.

    Parameters
    ----------
    opened
        The run of the model's training.
    results
        Folder of results, with the model and, where there is one, its calibration.
    name
        Name of the model.
    prediction
        How it reads, as the section of that name in the configuration; what is not there is left to the defaults.

    Returns
    -------
    ``registered`` (its name in the registry), ``version`` there, ``model_id`` (of MLflow's logged model).
    """
    # MLflow refuses slashes and colons, and looks for a name in a text with quotes.
    registered = re.sub(r"[^\w -]", "-", opened.experiment) + f".{name}"
    with _files(results, name) as folder:
        key = _key(folder)
        for found in opened.client.search_model_versions(f"name = '{registered}'"):
            if found.tags.get(KEY) == key and found.run_id == opened.run_id:
                model_id = str(found.source).removeprefix("models:/")  # which a search leaves out
                return {"registered": registered, "version": str(found.version), "model_id": model_id}
        return _log(opened, folder, registered, key, name, prediction or {})


def _log(opened: Run, folder: Path, registered: str, key: str, name: str, config: Mapping[str, Any]) -> dict[str, str]:
    mlflow.set_tracking_uri(opened.client.tracking_uri)
    facts = read_json(folder / "models" / name / "model.json")
    reading = Reading(**{key: config[key] for key in Reading.model_fields if key in config}).model_dump()
    with warnings.catch_warnings(), patiently(), mlflow.start_run(run_id=opened.run_id):
        warnings.simplefilter("ignore")  # of the input example that there is none: any picture would do
        logged: Any = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"results": folder.resolve().as_uri()},
            code_paths=[str(Path(__file__).parent)],
            signature=SIGNATURE,
            pip_requirements=["mlflow", *(f"{package}=={version(package)}" for package in NEEDED)],
            registered_model_name=registered,
            model_config=reading,
            params={"encoder": facts["network"]["encoder"], "dim": facts["network"]["dim"]},
            metadata={"name": name, "key": facts["key"], "dataset": facts["dataset"]},
        )
    client = opened.client
    client.update_registered_model(registered, DESCRIPTION)
    number = str(logged.registered_model_version)
    client.set_model_version_tag(registered, number, KEY, key)
    score = f"{facts['validation_tanimoto']:.4f}"
    client.set_model_version_tag(registered, number, "validation_tanimoto", score)
    return {"registered": registered, "version": number, "model_id": str(logged.model_id)}


@contextmanager
def _files(results: Path, name: str) -> Iterator[Path]:
    """A folder of results with this model alone, as :func:`ocsrflow.lineup.find_models` reads one."""
    with temporary_folder("model") as temporary:
        folder = temporary / "results"
        for part in (f"models/{name}/weights.safetensors", f"models/{name}/model.json", f"calibration/{name}.json"):
            if (results / part).is_file():
                (folder / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(results / part, folder / part)
        yield folder


def _key(folder: Path) -> str:
    """Twelve hexadecimal digits of what the model is made of: its files, and the code that reads with it."""
    own = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    told = [(str(path), sha256(home / path)) for home, paths in ((folder, own), (HOME, CODE)) for path in paths]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]
