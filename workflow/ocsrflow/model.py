"""The network: a convolutional encoder, soft attention and an LSTM decoder that writes SMILES tokens.

Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention": soft attention with
the gate of section 4.2.1 and the doubly stochastic term of equation 14. The additive score uses ReLU, as the public
PyTorch tutorial does that the talk started from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .encoders import RECIPES, build_trunk
from .errors import UserError
from .files import read_json
from .settings.network import Network
from .tokenizer import END, START


@dataclass
class Decoded:
    """What the decoder wrote: token numbers without start and end, and the log-probability of each text."""

    tokens: list[list[int]]
    log_probability: list[float]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where it pays, on a GPU; on a CPU everything stays in single precision."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda")


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
        """Training mode, but for the frozen children, whose statistics stay those of ImageNet."""
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
        (batch, grid², encoder channels), on the device of the pictures.
        """
        x = pictures.float()
        if x.shape[-1] != self.image_size or x.shape[-2] != self.image_size:
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean) / self.std  # a grey channel becomes three here
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))
        if x.shape[-1] != self.grid or x.shape[-2] != self.grid:
            x = F.adaptive_avg_pool2d(x, self.grid)
        return x.flatten(2).transpose(1, 2)


class Decoder(nn.Module):
    """Soft attention over the feature grid and an LSTM that writes one token a step."""

    def __init__(self, channels: int, dim: int, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.picture_score = nn.Linear(channels, dim)
        self.state_score = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1)
        self.gate = nn.Linear(dim, channels)
        self.first_state = nn.Linear(channels, 2 * dim)
        # One LSTM cell over [embedding, context], with its input weights in two parts: the embedding's part does
        # not depend on the step and is computed for all steps at once.
        self.from_token = nn.Linear(dim, 4 * dim)
        self.from_context = nn.Linear(channels, 4 * dim, bias=False)
        self.from_state = nn.Linear(dim, 4 * dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(dim, vocabulary)
        # The embedding keeps PyTorch's unit normal: drawn from ±0.1 as in the tutorial, the loss of 40 molecules
        # learnt by heart falls to 0.32 in 160 steps, not to 0.05 (dim 256).
        nn.init.uniform_(self.output.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)

    def start(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is computed once a picture: the attention's projection of the features, and the first state."""
        h, c = self.first_state(features.mean(dim=1)).chunk(2, dim=1)
        return self.picture_score(features), h, c

    def step(
        self, features: Tensor, projected: Tensor, token_part: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of attention and LSTM.

        Parameters
        ----------
        features
            (n, cells, channels).
        projected
            (n, cells, dim), from :meth:`start`.
        token_part
            (n, 4 dim): ``from_token`` of the last token's embedding.
        h, c
            (n, dim) each.

        Returns
        -------
        New h and c, and the attention (n, cells), which sums to 1 over the cells.
        """
        score = self.score(F.relu(projected + self.state_score(h).unsqueeze(1))).squeeze(2)
        attention = score.softmax(dim=1)
        context = torch.bmm(attention.unsqueeze(1), features).squeeze(1)
        context = torch.sigmoid(self.gate(h)) * context
        i, f, g, o = (token_part + self.from_context(context) + self.from_state(h)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c, attention

    def forward(self, features: Tensor, tokens: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass.

        Parameters
        ----------
        features
            (batch, cells, channels).
        tokens
            (batch, longest) int64, each row start, tokens, padding; rows from the longest to the shortest.
        steps
            Number of rows still running at every step, never rising.

        Returns
        -------
        The scores of the next token, (sum of steps, vocabulary), in the order of a ``PackedSequence``; and the
        doubly stochastic term, a scalar: (1 - attention received)², mean over cells, summed over pictures.
        """
        projected, h, c = self.start(features)
        token_part = self.from_token(self.embedding(tokens[:, : len(steps)]))
        states, received = [], torch.zeros_like(features[:, :, 0])
        finished = []
        for t, n in enumerate(steps):
            if n < len(h):
                finished.append(received[n:])
                features, projected, received = features[:n], projected[:n], received[:n]
                h, c = h[:n], c[:n]
            h, c, attention = self.step(features, projected, token_part[:n, t], h, c)
            received = received + attention
            states.append(h)
        finished.append(received)
        penalty = (1 - torch.cat(finished)).square().mean(dim=1).sum()
        return self.output(self.dropout(torch.cat(states))), penalty

    @torch.inference_mode()
    def greedy(self, features: Tensor, longest: int) -> Decoded:
        """The likeliest token at every step, until the end token or ``longest`` tokens.

        Finished pictures leave the batch.
        """
        batch, device = len(features), features.device
        projected, h, c = self.start(features)
        running = torch.arange(batch, device=device)
        last = torch.full((batch,), START, device=device)
        written: list[list[int]] = [[] for _ in range(batch)]
        total = torch.zeros(batch, device=device)
        # What each token adds before the state is known: one small table in place of a product at every step.
        token_table = self.from_token(self.embedding.weight)
        for _ in range(longest):
            h, c, _ = self.step(features, projected, token_table[last], h, c)
            log_probability, last = self.output(h).float().log_softmax(dim=1).max(dim=1)
            total[running] += log_probability
            going = last != END
            for i, token in zip(running.tolist(), last.tolist(), strict=True):
                if token != END:
                    written[i].append(token)
            if not bool(going.all()):
                running, last, h, c = running[going], last[going], h[going], c[going]
                features, projected = features[going], projected[going]
                if not len(running):
                    break
        return Decoded(written, total.tolist())


class Reader(nn.Module):
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
        self.decoder = Decoder(self.encoder.channels, network.dim, vocabulary, network.dropout)

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

    @torch.inference_mode()
    def read(self, pictures: Tensor, longest: int) -> Decoded:
        """Greedy reading of a batch of pictures, (batch, channels, height, width) uint8."""
        return self.decoder.greedy(self.encoder(pictures), longest)


def load_reader(description: Path, weights: Path, device: torch.device) -> tuple[Reader, dict[str, Any]]:
    """A trained model and its description, ready to read.

    Raises
    ------
    UserError
        Where the weights are damaged or do not fit the description.
    """
    facts = read_json(description)
    network = Network(**facts["network"])
    try:
        reader = Reader(network, len(facts["vocabulary"]))
        reader.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001  (the reader raises many kinds)
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights}: damaged, or not the weights of {description} ({reason})") from None
    return reader.to(device).eval(), facts
