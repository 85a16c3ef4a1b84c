"""A trained model that a training starts from: its encoder and its decoder are taken up.

No molecule that a child is validated or tested on may have been trained on by its parent. The stage ``sample`` gives
each molecule a number in [0, 1), a hash of its canonical SMILES and ``split.seed`` and of nothing else: below ``test``
it is a test molecule, below ``test + validation`` one for validation, from there on one to train on. With the same
seed the molecules that a child holds out are thus among those that its parent held out if, and only if, the child's
``test + validation`` is not larger than the parent's, whatever corpora and data sets the two learnt from. This holds
for validation molecules too, which choose the epoch that is kept and calibrate the confidence, and it makes the
condition transitive: what a parent holds out, its own parent has not trained on either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.network import Network
from ..config.split import Split
from ..runtime.errors import UserError
from ..runtime.files import read_json, sha256


@dataclass(frozen=True)
class Parent:
    """A folder with a trained model, as the stage ``train`` leaves it."""

    folder: Path
    facts: dict[str, Any]  # of its model.json

    @classmethod
    def read(cls, folder: Path) -> "Parent":
        """Read what a folder says of a model; its weights are there, but not looked at.

        Raises
        ------
        UserError
            Where it has no weights, or no model.json, a damaged one or one of something else.
        """
        try:
            facts = read_json(folder / "model.json")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"network.pretrained: {folder} has no model.json; give imagenet, none, reference or the folder of a "
                "trained model (results/models/NAME)"
            ) from None
        if not isinstance(facts, dict) or not isinstance(facts.get("network"), dict):
            raise UserError(f"network.pretrained: {folder}/model.json is not the description of a trained model")
        found = cls(folder, facts)
        if not found.weights.is_file():
            raise UserError(f"network.pretrained: {folder} has no weights.safetensors; train its model again")
        return found

    @property
    def weights(self) -> Path:
        """File of its weights."""
        return self.folder / "weights.safetensors"

    @property
    def description(self) -> Path:
        """File with its facts."""
        return self.folder / "model.json"

    def record(self) -> dict[str, str]:
        """What its child's model.json says of it: name, key, folder and SHA-256 of its weights."""
        named = {key: str(self.facts.get(key, "")) for key in ("name", "key")}
        return {**named, "folder": str(self.folder), "weights": sha256(self.weights)}

    def check(self, network: Network, split: Split | None, vocabulary: list[str] | None = None) -> None:
        """Look whether a model may start from this one.

        Parameters
        ----------
        network
            Shape of the model.
        split
            How its molecules are split; None where that is not known.
        vocabulary
            Its tokens; None to look at the rest alone.

        Raises
        ------
        UserError
            Where the weights have another shape or other tokens, or molecules that are held out here may have been
            trained on there.
        """
        where = f"network.pretrained: the model in {self.folder}"
        for name, own in network.shape.items():
            if (theirs := self.facts["network"].get(name)) != own:
                raise UserError(
                    f"{where} has {name} {theirs}, this one {own}; give both the same, or another parent "
                    "(image_size, grid and dropout may differ)"
                )
        if vocabulary is not None and self.facts.get("vocabulary") != vocabulary:
            raise UserError(f"{where} has another vocabulary than the data set; train it again, or give another parent")
        self._check_split(where, split)

    def _check_split(self, where: str, split: Split | None) -> None:
        recorded = self.facts.get("split")
        if recorded is None:
            raise UserError(
                f"{where} does not say how its molecules were split (no 'split' in its model.json), so it may have "
                "learnt from molecules that are held out here; train it again with this version, or give another parent"
            )
        try:
            if not isinstance(recorded, dict) or recorded.keys() != Split.model_fields.keys():
                raise ValueError("seed, validation and test are expected")
            of_parent = Split.model_validate(recorded)
        except ValueError:  # pydantic's too
            raise UserError(f"{where} has a 'split' in its model.json that is none; give another parent") from None
        if split is None:
            raise UserError(
                "network.pretrained: the data set does not say how its molecules were split, so some may be held out "
                "that the parent learnt from; make it again with the stages sample and pack"
            )
        if of_parent.seed != split.seed:
            raise UserError(
                f"{where} has split.seed {of_parent.seed}, here it is {split.seed}: it learnt from molecules that are "
                f"held out here; set split.seed to {of_parent.seed}, or give another parent"
            )
        if split.held_out > of_parent.held_out:
            raise UserError(
                f"{where} held out {of_parent.held_out:g} of the molecules (split.validation + split.test), here it is "
                f"{split.held_out:g}: it learnt from molecules that are held out here; set both shares so that their "
                f"sum is {of_parent.held_out:g} or less, or give another parent"
            )


def refused(parents: Mapping[str, tuple[str, Network]], split: Split) -> list[str]:
    """One line for each model of a configuration that may not start from the trained one that it names.

    Parameters
    ----------
    parents
        Folder of the trained model, and shape of the one that is to start from it, by the key of the configuration.
    split
        The configuration's.
    """
    lines = []
    for key, (folder, network) in parents.items():
        try:
            Parent.read(Path(folder)).check(network, split)
        except UserError as error:
            lines.append(str(error).replace("network.pretrained", key, 1))
    return lines
