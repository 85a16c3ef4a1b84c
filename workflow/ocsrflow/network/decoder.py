"""Soft attention and an LSTM that writes SMILES tokens, with a training pass that computes once what it can.

Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention": soft attention with
the gate of section 4.2.1 and the doubly stochastic term of equation 14. The additive score uses ReLU, as the public
PyTorch tutorial does that the talk started from.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from .recurrence import Recurrence

# Steps of reading compute attention scores block by block of about so many numbers. On a CPU what one operation
# writes, the next still finds in the cache; on a GPU it is memory alone that limits them.
BLOCK, GPU_BLOCK = 1 << 20, 1 << 28


class Weights(NamedTuple):
    """The decoder's weights as its steps take them: side by side what is multiplied with the same vector."""

    from_token: Tensor  # (vocabulary, 4 dim): what each token adds to the LSTM's gates i, f, g, o
    from_state: Tensor  # (dim + channels + 4 dim, dim): from h to the threshold, the context's gate, the LSTM's gates
    bias: Tensor  # (dim + channels,), of threshold and gate
    score: Tensor  # (dim,)
    from_context: Tensor  # (4 dim, channels)


class StepWeights(NamedTuple):
    """What the steps of reading take from the decoder: as :class:`Weights`, with sums that need no state done."""

    added: Tensor  # (vocabulary, dim + channels + 4 dim): bias and what each token adds
    from_state: Tensor  # (dim, dim + channels + 4 dim)
    from_context: Tensor  # (channels, 4 dim)
    score: Tensor  # (dim,)
    output: Tensor  # (dim, vocabulary), float32 or wider
    output_bias: Tensor  # (vocabulary,), likewise


@functools.lru_cache(maxsize=16)
def expansion(side: int, grid: int, device: torch.device) -> Tensor:
    """``adaptive_avg_pool2d`` from side x side cells to grid x grid, as the matrix that it is.

    Returns
    -------
    (grid², side²); its rows sum to 1.
    """
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        cells = torch.eye(side * side, device=device).view(-1, side, side)
        return F.adaptive_avg_pool2d(cells, grid).flatten(1).t().contiguous()


class Decoder(nn.Module):
    """Soft attention over the feature grid and an LSTM that writes one token a step (Xu et al. 2015).

    The attention sees grid x grid cells. Where the encoder gives fewer, they are averages of the encoder's own
    (``adaptive_avg_pool2d``, a linear map), so that all products with the features are computed on the encoder's cells.
    """

    def __init__(self, channels: int, dim: int, vocabulary: int, dropout: float, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.embedding = nn.Embedding(vocabulary, dim)
        self.picture_score = nn.Linear(channels, dim)
        self.state_score = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1, bias=False)  # the softmax takes a bias away
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
        self._cached: dict[torch.dtype, StepWeights] | None = None  # see cache_step_weights

    def cell_map(self, features: Tensor) -> Tensor | None:
        """The map from the encoder's cells to the attention's, (cells, encoder cells); None where they are the same."""
        side = math.isqrt(features.shape[1])
        if side == self.grid:
            return None
        return expansion(side, self.grid, features.device).to(features.dtype)

    def start(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is computed once a picture.

        Parameters
        ----------
        features
            (batch, encoder cells, channels).

        Returns
        -------
        The attention's projection of the features, (batch, cells, dim), and the first h and c, (batch, dim) each.
        """
        cell_map, projected = self.cell_map(features), self.picture_score(features)
        if cell_map is None:
            mean = features.mean(dim=1)
        else:
            projected, mean = cell_map @ projected, cell_map.mean(dim=0) @ features
        h, c = self.first_state(mean).chunk(2, dim=1)
        return projected, h, c

    def weights(self, dtype: torch.dtype) -> Weights:
        """The weights of the steps, all but ``from_token`` in the type that products are computed in.

        The score w·relu(projected + s) is computed from the threshold -s, see :class:`Recurrence`.
        """
        # A product for each token of the vocabulary, not for each of the texts. Its gradient sums over thousands of
        # rows, hence not in bfloat16.
        from_token = self.from_token(self.embedding.weight).to(torch.promote_types(dtype, torch.float32))
        from_state = torch.cat([-self.state_score.weight, self.gate.weight, self.from_state.weight])
        bias = torch.cat([-self.state_score.bias, self.gate.bias])
        converted = (x.to(dtype) for x in (from_state, bias, self.score.weight[0], self.from_context.weight))
        return Weights(from_token, *converted)

    def cache_step_weights(self) -> None:
        """Work out once what reading takes from the weights, from here on: they must not change any more."""
        self._cached = {}

    def step_weights(self, dtype: torch.dtype) -> StepWeights:
        """The weights as the steps of reading take them, for products in ``dtype``."""
        if self._cached is not None and dtype in self._cached:
            return self._cached[dtype]
        weights = self.weights(dtype)
        wide_dtype = weights.from_token.dtype
        bias = weights.bias.expand(len(weights.from_token), -1)
        found = StepWeights(
            torch.cat([bias, weights.from_token.to(dtype)], dim=1),
            weights.from_state.t(),
            weights.from_context.t(),
            weights.score,
            # In bfloat16 scores between 8 and 16 would be 0.06 apart, and tokens often equally likely.
            self.output.weight.to(wide_dtype).t(),
            self.output.bias.to(wide_dtype),
        )
        if self._cached is not None:
            self._cached[dtype] = found
        return found

    def forward(
        self, features: Tensor, tokens: Tensor, steps: list[int], pictures: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass.

        Parameters
        ----------
        features
            (batch, encoder cells, channels).
        tokens
            (batch, longest) int64, each row start, tokens, padding; rows from the longest to the shortest.
        steps
            Number of rows still running at every step, never rising.
        pictures
            (batch,) int64: where the picture of each row is in ``features``, for several texts of a picture; None where
            each row has its own, in the same order. What depends on the picture alone is computed once.

        Returns
        -------
        The scores of the next token, (sum of steps, vocabulary), in the order of a ``PackedSequence``; and the
        doubly stochastic term, a scalar: (1 - attention received)², mean over cells, summed over pictures.
        """
        dtype = product_dtype(features)
        features = features.to(dtype)
        projected, h, c = self.start(features)
        if pictures is not None:
            features, projected, h, c = (x.index_select(0, pictures) for x in (features, projected, h, c))
        weights = self.weights(dtype)
        from_tokens = F.embedding(_packed(tokens, steps), weights.from_token)
        states, received = Recurrence.apply(  # type: ignore[no-untyped-call]
            features, projected, from_tokens, h, c.to(from_tokens.dtype), *weights[1:], self.cell_map(features), steps
        )
        penalty = (1 - received).square().mean(dim=1).sum()
        return self.output(self.dropout(states)), penalty


class Steps:
    """The decoder's steps without gradients: several texts a picture, all over the same features.

    On weights cast beforehand; nothing waits for the device, and memory of (pictures, texts, cells, dim) is taken
    once. The state is in the features' type, softmax and the LSTM's memory in that of ``from_token``, as in training.
    """

    def __init__(self, decoder: Decoder, features: Tensor, texts: int) -> None:
        """Compute what is needed once a picture.

        Parameters
        ----------
        decoder
            Whose weights are taken as they are now.
        features
            (pictures, encoder cells, channels); products are computed in their type, or in autocast's where it is on.
        texts
            Written at most side by side for each picture.
        """
        dtype = product_dtype(features)
        self.features = features.to(dtype).contiguous()
        self.weights = decoder.step_weights(dtype)
        self.projected, h, c = decoder.start(self.features)
        self.h, self.c = h.to(dtype), c.to(self.weights.output.dtype)  # the first ones, (pictures, dim)
        self.cell_map = decoder.cell_map(self.features)
        cells, dim = self.projected.shape[1:]
        limit = BLOCK if features.device.type == "cpu" else GPU_BLOCK
        block = min(len(features), max(1, limit // (texts * cells * dim)))
        self.memory = self.projected.new_empty(block * texts * cells * dim)

    def __call__(self, h: Tensor, c: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the first n pictures, each with k texts. To be called with autocast off.

        Parameters
        ----------
        h, c
            State and memory, (n, k, dim).
        last
            (n, k) int64, the last token of each text.

        Returns
        -------
        New h and c, and the attention (n, k, cells), which sums to 1 over the cells.
        """
        n, k, dim = h.shape
        weights = self.weights
        mixed = torch.addmm(weights.added[last.flatten()], h.flatten(0, 1), weights.from_state)
        threshold, gate, gates = torch.split(mixed, [dim, self.features.shape[2], 4 * dim], dim=1)
        attention = self._scores(threshold.view(n, k, dim)).softmax(dim=2, dtype=c.dtype)
        weighting = attention.to(h.dtype)
        if self.cell_map is not None:
            weighting = weighting @ self.cell_map
        context = torch.bmm(weighting, self.features[:n]).flatten(0, 1)
        gates = torch.addmm(gates, gate.sigmoid() * context, weights.from_context).to(c.dtype)
        i, f, g, o = gates.view(n, k, 4 * dim).chunk(4, dim=2)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return (torch.sigmoid(o) * torch.tanh(c)).to(h.dtype), c, attention

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Natural logarithms of the probabilities of the next token, (n, k, vocabulary), from h (n, k, dim)."""
        weight = self.weights.output
        rows = h.flatten(0, 1).to(weight.dtype)
        scores = torch.addmm(self.weights.output_bias, rows, weight).view(*h.shape[:2], -1)
        return scores.log_softmax(dim=2, dtype=self.c.dtype)

    def _scores(self, threshold: Tensor) -> Tensor:
        """The attention's scores (n, k, cells) of thresholds (n, k, dim), but for a number the same for all cells."""
        n, k, dim = threshold.shape
        cells = self.projected.shape[1]
        block = len(self.memory) // (k * cells * dim)
        scores = threshold.new_empty(n, k, cells)
        for at in range(0, n, block):
            part = threshold[at : at + block].unsqueeze(2)
            maxima = self.memory[: len(part) * k * cells * dim].view(-1, k, cells, dim)
            torch.maximum(self.projected[at : at + len(part)].unsqueeze(1), part, out=maxima)
            torch.mv(maxima.flatten(0, 2), self.weights.score, out=scores[at : at + block].view(-1))
        return scores


def product_dtype(features: Tensor) -> torch.dtype:
    """The type that products with features are computed in: autocast's where it is on, else their own."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype


def _packed(tokens: Tensor, steps: list[int]) -> Tensor:
    """The tokens (batch, longest) of the rows running at every step, (sum of steps,)."""
    lengths = (torch.tensor(steps).unsqueeze(1) > torch.arange(len(tokens))).sum(dim=0)
    return pack_padded_sequence(tokens, lengths, batch_first=True).data
