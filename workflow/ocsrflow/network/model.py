"""The network: a convolutional encoder, and a decoder that writes SMILES tokens (:mod:`ocsrflow.network.decoder`)."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config.network import Network
from ..config.precision import Precision
from ..runtime.errors import UserError, brief, of_the_system
from ..runtime.files import read_json
from .decoder import Decoder
from .encoders import RECIPES, build_trunk
from .precision import Resolved, autocast, resolve


class Encoder(nn.Module):
    """Pictures to a feature grid."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, state: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        recipe = RECIPES[network.encoder]
        self.trunk, self.channels = build_trunk(network.encoder, network.stride, state)
        self.image_size, self.grid = network.image_size, network.grid
        self.frozen = network.frozen_children
        self.precision: Resolved = "float32"
        if self.frozen >= len(self.trunk):
            raise ValueError(
                f"{network.encoder} has {len(self.trunk)} children here, so frozen_children {self.frozen} would "
                f"freeze it whole; set it to {len(self.trunk) - 1} or less"
            )
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1) * 255, persistent=False)
        for child in self._frozen_children():
            child.requires_grad_(False)
        if state is None:
            # Some encoders average their statistics over hundreds of steps, which suits published weights; random
            # ones move too fast for that.
            for layer in self.trunk.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = 0.1

    def _frozen_children(self) -> list[nn.Module]:
        return list(self.trunk)[: self.frozen]

    def train(self, mode: bool = True) -> "Encoder":
        """Training mode, but for the frozen children, whose statistics stay those that they came with."""
        super().train(mode)
        for child in self._frozen_children():
            child.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode.

        Parameters
        ----------
        pictures
            (batch, channels, height, width) uint8, RGB or grey, any size.

        Returns
        -------
        (batch, cells, encoder channels), on the device of the pictures; float32 on a CPU. The cells are the encoder's
        own where it has grid² or fewer (the decoder spreads them, see :class:`Decoder`), else grid² averages of them.
        """
        x = pictures.float()
        if x.shape[-1] != self.image_size or x.shape[-2] != self.image_size:
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean) / self.std  # a grey channel becomes three here
        with autocast(self.precision, x.device):
            x = self.trunk(x.contiguous(memory_format=torch.channels_last))
            if x.shape[-1] > self.grid:
                x = F.adaptive_avg_pool2d(x, self.grid)
        if x.device.type == "cpu":
            x = x.float()  # the decoder computes in float32 there
        return x.flatten(2).transpose(1, 2)


class EncoderDecoder(nn.Module):
    """Encoder and decoder together."""

    def __init__(self, network: Network, vocabulary: int, state: dict[str, Tensor] | None = None) -> None:
        """Build the network.

        Parameters
        ----------
        network
            Its shape.
        vocabulary
            Number of tokens.
        state
            ImageNet weights of the encoder's whole classifier; None for random ones.

        Raises
        ------
        ValueError
            Where the weights do not fit the encoder.
        """
        super().__init__()
        self.encoder = Encoder(network, state)
        self.decoder = Decoder(self.encoder.channels, network.dim, vocabulary, network.dropout, network.grid)

    def set_precision(self, asked: Precision, device: torch.device) -> Resolved:
        """Compute in this precision from now on; what it is on a device."""
        self.encoder.precision = resolve(asked, self.encoder, device)
        return self.encoder.precision

    def autocast(self) -> AbstractContextManager[object]:
        """A block in which the decoder computes in the network's precision; the encoder does so by itself."""
        device = self.encoder.mean.device
        return nullcontext() if device.type == "cpu" else autocast(self.encoder.precision, device)

    def forward(self, pictures: Tensor, tokens: Tensor, steps: list[int], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced losses of a batch, as sums, so that several processes can add theirs up.

        Parameters
        ----------
        pictures
            (batch, channels, height, width) uint8.
        tokens, steps
            As in :meth:`Decoder.forward`.
        targets
            (sum of steps,) int64, the token that follows, in the order of a ``PackedSequence``.

        Returns
        -------
        Cross-entropy in nats summed over tokens, and the doubly stochastic term summed over pictures.
        """
        scores, penalty = self.decoder(self.encoder(pictures), tokens, steps)
        return F.cross_entropy(scores.float(), targets, reduction="sum"), penalty


def imagenet(network: Network, weights: Path | None) -> dict[str, Tensor] | None:
    """The published weights that a network starts from; None where it starts from random ones.

    Raises
    ------
    UserError
        Where there is no such file, or it is not one of weights.
    """
    if network.pretrained != "imagenet":
        return None
    if weights is None:
        raise UserError("network.pretrained is imagenet: give the file of ImageNet weights with --weights")
    try:
        state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001  (the reader raises many kinds)
        raise UserError(f"{weights}: no PyTorch weights file ({brief(error)}); remove it and run again") from None
    return state


def copy_weights(model: EncoderDecoder, description: Path, weights: Path) -> None:
    """Give a network, on the CPU, all weights of a trained one of its shape.

    Raises
    ------
    UserError
        As :func:`load_model`, and where a weight is not finite.
    """
    trained, _ = load_model(description, weights, torch.device("cpu"))
    state = trained.state_dict()
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise UserError(f"{weights}: damaged, some weights are not finite; give another parent")
    model.load_state_dict(state)


def load_model(description: Path, weights: Path, device: torch.device) -> tuple[EncoderDecoder, dict[str, Any]]:
    """A trained model and its description, ready to read.

    Raises
    ------
    UserError
        Where the description or the weights are damaged, or do not fit together.
    """
    facts = read_json(description)
    try:
        network = Network(**facts["network"])
        name, vocabulary, longest = facts["name"], facts["vocabulary"], facts["training"]["decode_length"]
        if not (isinstance(name, str) and isinstance(vocabulary, list) and isinstance(longest, int) and longest > 0):
            raise ValueError("a name, a vocabulary or a decode_length that cannot be")
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{description}: not the description of a trained model ({reason}); train it again") from None
    try:
        model = EncoderDecoder(network, len(vocabulary))
        model.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001  (the reader raises many kinds)
        if trouble := of_the_system(error, weights):
            raise trouble from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{weights}: damaged, or not the weights of {description} ({reason})") from None
    return model.to(device).eval(), facts
