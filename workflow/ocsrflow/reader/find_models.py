"""Which trained models are meant by some paths, and where what was learnt about them lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..config.experiment import OSRA
from ..config.methods import MethodName
from ..ensemble.voting_methods import METHODS
from ..runtime.errors import UserError
from ..runtime.files import read_json


@dataclass(frozen=True)
class TrainedModels:
    """Which trained models answer together, and where their calibrations lie."""

    folders: list[Path]  # of the models, in the order that decides ties
    ensemble: str | None  # its name, where it is one of the workflow's

    def together(self, method: str) -> Path | None:
        """The calibration of exactly these models and this method, where the workflow made one."""
        if len(self.folders) == 1:
            return self.alone()[0]
        if self.ensemble is None:
            return None
        name = self.ensemble if method == "pairs" else f"{self.ensemble}.{method}"
        path = self.folders[0].parent.parent / "calibration" / f"{name}.json"
        return path if path.is_file() else None

    def alone(self) -> list[Path | None]:
        """The calibration of each model alone, where there is one."""
        paths = [folder.parent.parent / "calibration" / f"{folder.name}.json" for folder in self.folders]
        return [path if path.is_file() else None for path in paths]

    def method(self) -> MethodName:
        """``rescored`` if its confidences were calibrated, or else the first method whose were."""
        calibrated = (method for method in ("rescored", *METHODS) if self.together(method))
        return cast(MethodName, next(calibrated, "rescored"))


def find_models(paths: Sequence[Path]) -> TrainedModels:
    """The models that some paths mean.

    Parameters
    ----------
    paths
        Folders of trained models; or one file of an ensemble's members, ``results/ensembles/NAME.json``; or one folder
        of results, which means its only ensemble, or else its only model.

    Raises
    ------
    UserError
        Where a path is none of these, or means more than one thing.
    """
    paths = [path.absolute() for path in paths]  # their parents are looked at
    if len(paths) == 1 and not _is_model(paths[0]):
        path = paths[0]
        if (path / "models").is_dir():
            ensembles = sorted((path / "ensembles").glob("*.json"))
            models = sorted(folder for folder in (path / "models").iterdir() if _is_model(folder))
            found = ensembles or models
            if len(found) != 1:
                listed = ", ".join(map(str, found)) or "none is there"
                raise UserError(f"{path}: which of its models? Give one of these with --models: {listed}")
            path = found[0]
        if path.suffix == ".json" and path.is_file():
            members = _members(path)
            if OSRA in members:
                raise UserError(f"{path}: osra is a member; give its models, each with --models, and --with osra")
            return TrainedModels(_models([path.parent.parent / "models" / member for member in members]), path.stem)
        paths = [path]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("--models names a model twice; each votes once")
    return TrainedModels(_models(paths), _ensemble_of(paths))


def _ensemble_of(folders: Sequence[Path]) -> str | None:
    """The ensemble of the workflow with exactly these members."""
    results = folders[0].parent.parent
    if len(folders) < 2 or any(folder.parent.parent != results for folder in folders):
        return None
    names = {folder.name for folder in folders}
    ensembles = sorted((results / "ensembles").glob("*.json"))
    return next((path.stem for path in ensembles if set(_members(path)) == names), None)


def _members(path: Path) -> list[str]:
    """The names of models in an ensemble's file; none of them is a path."""
    ensemble = read_json(path)
    members = ensemble.get("members") if isinstance(ensemble, dict) else None
    if not isinstance(members, list) or not members or not all(map(_is_name, members)):
        raise UserError(f"{path}: not the members of an ensemble, which lie in RESULTS/ensembles/")
    return members


def _is_name(member: object) -> bool:
    return isinstance(member, str) and member not in ("", ".", "..") and not {"/", "\0"} & set(member)


def _is_model(path: Path) -> bool:
    return (path / "model.json").is_file() and (path / "weights.safetensors").is_file()


def _models(folders: Sequence[Path]) -> list[Path]:
    for folder in folders:
        if not _is_model(folder):
            raise UserError(
                f"{folder}: no trained model (model.json and weights.safetensors); give RESULTS/models/NAME, "
                "RESULTS/ensembles/NAME.json or a folder of results"
            )
    return list(folders)
