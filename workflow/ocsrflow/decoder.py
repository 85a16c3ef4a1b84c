"""Soft attention and an LSTM that writes SMILES tokens, with a training pass that computes once what it can.

Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention": soft attention with
the gate of section 4.2.1 and the doubly stochastic term of equation 14. The additive score uses ReLU, as the public
PyTorch tutorial does that the talk started from.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from .recurrence import Recurrence
from .tokenizer import END, START


@dataclass
class Decoded:
    """What the decoder wrote: token numbers without start and end, and the log-probability of each text."""

    tokens: list[list[int]]
    log_probability: list[float]


@functools.lru_cache(maxsize=16)
def expansion(own: int, grid: int, device: torch.device) -> Tensor:
    """``adaptive_avg_pool2d`` from own x own cells to grid x grid, as the matrix that it is.

    Returns
    -------
    (grid², own²); its rows sum to 1.
    """
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        cells = torch.eye(own * own, device=device).view(-1, own, own)
        return F.adaptive_avg_pool2d(cells, grid).flatten(1).t().contiguous()


class Decoder(nn.Module):
    """Soft attention over the feature grid and an LSTM that writes one token a step (Xu et al. 2015).

    The attention sees grid x grid cells. Where the encoder gives fewer, they are averages of the encoder's own
    (``adaptive_avg_pool2d``, a linear map), so that all products with the features are computed on its own cells.
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

    def _spread(self, features: Tensor) -> Tensor | None:
        """The map from the encoder's own cells to the attention's, (cells, own cells); None where they are the same."""
        own = math.isqrt(features.shape[1])
        if own == self.grid:
            return None
        return expansion(own, self.grid, features.device).to(features.dtype)

    def start(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is computed once a picture.

        Parameters
        ----------
        features
            (batch, own cells, channels).

        Returns
        -------
        The attention's projection of the features, (batch, cells, dim), and the first h and c, (batch, dim) each.
        """
        spread, projected = self._spread(features), self.picture_score(features)
        if spread is None:
            mean = features.mean(dim=1)
        else:
            projected, mean = spread @ projected, spread.mean(dim=0) @ features
        h, c = self.first_state(mean).chunk(2, dim=1)
        return projected, h, c

    def step(
        self, features: Tensor, projected: Tensor, token_part: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of attention and LSTM.

        Parameters
        ----------
        features
            (n, own cells, channels).
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
        spread = self._spread(features)
        own = attention if spread is None else attention @ spread
        context = torch.bmm(own.unsqueeze(1), features).squeeze(1)
        context = torch.sigmoid(self.gate(h)) * context
        i, f, g, o = (token_part + self.from_context(context) + self.from_state(h)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c, attention

    def forward(self, features: Tensor, tokens: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass.

        Parameters
        ----------
        features
            (batch, own cells, channels).
        tokens
            (batch, longest) int64, each row start, tokens, padding; rows from the longest to the shortest.
        steps
            Number of rows still running at every step, never rising.

        Returns
        -------
        The scores of the next token, (sum of steps, vocabulary), in the order of a ``PackedSequence``; and the
        doubly stochastic term, a scalar: (1 - attention received)², mean over cells, summed over pictures.
        """
        kind = features.device.type
        narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
        features = features.to(narrow)
        projected, h, c = self.start(features)
        # A product for each token of the vocabulary, not for each of the texts. Its gradient sums over thousands of
        # rows, hence not in bfloat16.
        table = self.from_token(self.embedding.weight)
        wide = torch.promote_types(narrow, torch.float32)
        from_tokens = F.embedding(_packed(tokens, steps), table.to(wide))
        from_state = torch.cat([-self.state_score.weight, self.gate.weight, self.from_state.weight])
        bias = torch.cat([-self.state_score.bias, self.gate.bias])
        spread = self._spread(features)
        states, received = Recurrence.apply(  # type: ignore[no-untyped-call]
            features, projected, from_tokens, h, c.to(wide), from_state.to(narrow), bias.to(narrow),
            self.score.weight[0].to(narrow), self.from_context.weight.to(narrow), spread, steps,
        )  # fmt: skip
        penalty = (1 - received).square().mean(dim=1).sum()
        return self.output(self.dropout(states)), penalty

    @torch.inference_mode()
    def greedy(self, features: Tensor, longest: int) -> Decoded:
        """The likeliest token at every step, until the end token or ``longest`` tokens.

        Finished pictures leave the batch.
        """
        batch, device = len(features), features.device
        projected, h, c = self.start(features)
        c = c.float()  # as in training, whatever the products are computed in
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


def _packed(tokens: Tensor, steps: list[int]) -> Tensor:
    """The tokens (batch, longest) of the rows running at every step, (sum of steps,)."""
    lengths = (torch.tensor(steps).unsqueeze(1) > torch.arange(len(tokens))).sum(dim=0)
    return pack_padded_sequence(tokens, lengths, batch_first=True).data
