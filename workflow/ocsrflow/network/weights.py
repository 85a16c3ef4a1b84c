"""Stage ``weights``: ImageNet weights of an encoder, fetched once, so that compute nodes need no network."""

import re
import shutil
from pathlib import Path

import timm
from torchvision.models import WeightsEnum

from ..runtime.errors import UserError
from ..runtime.files import finish, sha256, whole
from ..runtime.http import fetch
from .encoders import RECIPES


def published(encoder: str) -> tuple[str, str]:
    """Where an encoder's ImageNet weights are published: address and file name."""
    weights = RECIPES[encoder].weights
    if isinstance(weights, WeightsEnum):
        return weights.url, weights.url.rsplit("/", 1)[-1]
    published_by_timm = timm.get_pretrained_cfg(str(weights))
    assert published_by_timm is not None
    url = str(published_by_timm.url)
    return url, url.rsplit("/", 1)[-1]


def weights(encoder: str, *, out: Path, folder: Path) -> None:
    """Bring an encoder's ImageNet weights to ``out``.

    Parameters
    ----------
    encoder
        Name of the encoder.
    out
        Where they go, as published (a PyTorch file).
    folder
        Looked into first: a file put there by hand spares the network.

    Raises
    ------
    UserError
        Where the weights are neither there nor to be fetched, or do not have the published SHA-256.
    """
    url, name = published(encoder)
    supplied = folder / name
    if supplied.is_file():
        _check(supplied, encoder, f"replace {supplied}")
        with whole(out) as part:
            shutil.copyfile(supplied, part)
        return
    arrived = out.with_name(name + ".arrived")
    try:
        fetch(url, arrived, attempts=3, longest_wait=5.0)
    except UserError as error:
        raise UserError(
            f"no ImageNet weights for {encoder}: {error}. Without network, put {name} (from {url}) "
            f"into the folder {folder}/ and run again, or set pretrained: none"
        ) from None
    _check(arrived, encoder, "run again")
    finish(arrived, out)


def _check(path: Path, encoder: str, mend: str) -> None:
    """PyTorch's published weights have the first digits of their SHA-256 in the file's name; timm's need not."""
    digits = re.search(r"-([0-9a-f]{8,})\.", published(encoder)[1])
    if digits is None or not isinstance(RECIPES[encoder].weights, WeightsEnum):
        return
    found = sha256(path)
    if not found.startswith(digits[1]):
        if path.name.endswith(".arrived"):
            path.unlink()
        raise UserError(f"{path} is damaged: its SHA-256 should start with {digits[1]}; {mend}")
