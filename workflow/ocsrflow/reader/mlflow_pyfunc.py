"""A trained model or ensemble behind MLflow's ``pyfunc`` interface: bytes of pictures in, SMILES out.

MLflow runs this very file when it loads such a model ("models from code"): nothing is pickled.
"""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from ocsrflow.config.reading import Reading
from ocsrflow.depiction.plain import Picture
from ocsrflow.reader.ensemble_reader import EnsembleReader
from ocsrflow.reader.find_models import find_models
from ocsrflow.reader.load_pictures import load_with_note

# Hints would be taken for a schema in place of the signature that the model is logged with.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")
COLUMNS = ("smiles", "confidence", "log_probability", "note", "error")
BATCH = 64  # pictures read together


class PictureReader(PythonModel):  # type: ignore[misc]  # MLflow's classes have no types
    """Reads pictures of molecules, one molecule each."""

    def load_context(self, context: Any) -> None:
        """Load the weights, onto a GPU where there is one."""
        folder = Path(context.artifacts["results"])
        config = context.model_config or {}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = find_models([folder])
        reading = Reading(**{key: config[key] for key in Reading.model_fields if key in config})
        self.reader = EnsembleReader(trained, trained.method(), reading, device)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Read pictures.

        Parameters
        ----------
        context
            MLflow's, not used.
        model_input
            Table with a column ``picture``: bytes of PNG, JPEG, TIFF, GIF, WebP or BMP files.
        params
            None are known.

        Returns
        -------
        A row a picture: ``smiles``, ``confidence`` (probability that the SMILES is exactly right),
        ``log_probability`` (natural logarithm), ``note`` where a picture shows several molecules, else empty, and
        ``error``, the reason where a picture cannot be read, else empty.
        """
        loaded = [self._load(data) for data in model_input["picture"]]
        rows = []
        for at in range(0, len(loaded), BATCH):
            rows += self._read(loaded[at : at + BATCH])
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _load(self, data: Any) -> tuple[Picture | str, str]:
        """The picture or why it cannot be read, and the note on it."""
        try:
            return load_with_note(io.BytesIO(bytes(data)), self.reader.depiction, "picture")
        except (ValueError, TypeError) as error:
            return str(error), ""

    def _read(self, part: list[tuple[Picture | str, str]]) -> list[tuple[str, float, float, str, str]]:
        pictures = [picture.transpose(2, 0, 1) for picture, _ in part if not isinstance(picture, str)]
        answers = iter(self.reader.read(np.stack([np.ascontiguousarray(p) for p in pictures])) if pictures else [])
        rows = []
        for picture, note in part:
            if isinstance(picture, str):
                rows.append(("", 0.0, float("nan"), "", picture))
            else:
                answer = next(answers)
                rows.append((answer.decision.text, answer.confidence, answer.decision.log_probability, note, ""))
        return rows


set_model(PictureReader())
