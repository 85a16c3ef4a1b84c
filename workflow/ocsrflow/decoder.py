"""Soft attention and an LSTM that writes SMILES tokens, with a training pass that computes once what it can.

Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention": soft attention with
the gate of section 4.2.1 and the doubly stochastic term of equation 14. The additive score uses ReLU, as the public
PyTorch tutorial does that the talk started from.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pack_padded_sequence

from .tokenizer import END, START

# On a CPU, the passes over (rows, cells, dim) go block by block of about so many numbers: what one operation writes,
# the next still finds in the cache. For 64 pictures of 196 cells and dim 512 they take half as long.
BLOCK = 1 << 20


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


class Recurrence(torch.autograd.Function):
    """Attention and LSTM over all steps of a teacher-forced pass, with its backward pass written by hand.

    In a step stays what depends on the state before it; all else (gradients of weights, biases, features) is one
    operation over all steps after the loop. What is (rows, cells, dim) large is computed again in the backward pass,
    not kept. Rows are sorted from the longest to the shortest, so that those still running are the first ones.

    Two identities make the score w·relu(projected + s) cheap. With the threshold θ = -s it is w·max(projected, θ)
    plus a number w·s, the same for all cells, which the softmax takes away; so one pass computes it, and what
    backward needs is where projected > θ. The weights w are constant over the steps, so that the gradients are
    summed over the steps without them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        projected: Tensor,
        from_tokens: Tensor,
        h: Tensor,
        c: Tensor,
        from_state: Tensor,
        bias: Tensor,
        score: Tensor,
        from_context: Tensor,
        spread: Tensor | None,
        steps: list[int],
    ) -> tuple[Tensor, Tensor]:
        """All steps, forward.

        Matrix products are computed in the type of ``features``; softmax, the LSTM's gates and its memory in that
        of ``c``.

        Parameters
        ----------
        ctx
            What backward gets.
        features
            (batch, own cells, channels).
        projected
            (batch, cells, dim): what the attention's score sees of the features.
        from_tokens
            (sum of steps, 4 dim), in the order of a ``PackedSequence``: the tokens' part in the gates i, f, g, o.
        h, c
            (batch, dim): the first state and memory.
        from_state
            (dim + channels + 4 dim, dim): weights from h to the threshold, the context's gate, the LSTM's gates.
        bias
            (dim + channels,), of threshold and gate.
        score
            (dim,), weights of the attention's score.
        from_context
            (4 dim, channels), weights from the gated context to the LSTM's gates.
        spread
            (cells, own cells): the attention's cells as averages of the encoder's; None where they are the same.
        steps
            Number of rows still running at every step, never rising.

        Returns
        -------
        The states h after every step, (sum of steps, dim), and the attention that each cell received, (batch, cells).
        """
        total, dim, channels = sum(steps), h.shape[1], features.shape[2]
        new, wide = features.new_empty, c.new_empty
        # Each step adds to what is there: threshold, context's gate and LSTM's gates, side by side.
        mixed = new(total, dim + channels + 4 * dim)
        mixed[:, : dim + channels] = bias
        mixed[:, dim + channels :] = from_tokens
        threshold, gate, gates = torch.split(mixed, [dim, channels, 4 * dim], dim=1)
        # In single precision the gates' values take the place of what they are computed from.
        same = c.dtype == features.dtype
        gates_wide = gates if same else wide(total, 4 * dim)
        context, states, memory = new(total, channels), new(total, dim), wide(total, dim)
        attention = c.new_zeros(len(steps), *projected.shape[:2])
        scratch = Scratch(projected)
        first = h, c
        rows = zip(
            *(torch.split(x, steps) for x in (mixed, threshold, gate, gates, gates_wide, context, states, memory)),
            strict=True,
        )
        with torch.autocast(features.device.type, enabled=False):
            to_mixed, to_gates = from_state.t(), from_context.t()
            for t, (mixed_t, threshold_t, gate_t, gates_t, wide_t, context_t, h_t, c_t) in enumerate(rows):
                n = steps[t]
                mixed_t.addmm_(h[:n], to_mixed)
                scores = scratch.scores(projected, threshold_t, score)
                a = torch.softmax(scores, 1, dtype=c.dtype, out=attention[t, :n]).to(features.dtype)
                if spread is not None:
                    a = a @ spread
                torch.bmm(a.unsqueeze(1), features[:n], out=context_t.unsqueeze(1))
                gates_t.addmm_(gate_t.sigmoid_() * context_t, to_gates)
                if not same:
                    wide_t.copy_(gates_t)
                wide_t[:, : 2 * dim].sigmoid_()
                wide_t[:, 3 * dim :].sigmoid_()
                i, f, g, o = wide_t.chunk(4, dim=1)
                torch.mul(f, c[:n], out=c_t).addcmul_(i, g.tanh_())
                torch.mul(o, c_t.tanh(), out=h_t)
                h, c = h_t, c_t
        ctx.steps = steps
        ctx.save_for_backward(
            features, projected, *first, from_state, score, from_context, spread,
            mixed, gates_wide, context, states, memory, attention,
        )  # fmt: skip
        return states, attention.sum(dim=0)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_states: Tensor, d_received: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs; ``d_x`` is the gradient of the loss to ``x``."""
        (
            features, projected, h, c, from_state, score, from_context, spread,
            mixed, gates, context, states, memory, attention,
        ) = ctx.saved_tensors  # fmt: skip
        steps: list[int] = ctx.steps
        batch, dim, channels = len(h), h.shape[1], features.shape[2]
        threshold, gate, _ = torch.split(mixed, [dim, channels, 4 * dim], dim=1)
        memory_slope, gates_slope = _lstm_slopes(gates, memory, _before(c, memory, steps))
        gate_slope = context * gate * (1 - gate)

        d_mixed = torch.empty_like(mixed)
        d_threshold, d_gate, d_gates = torch.split(d_mixed, [dim, channels, 4 * dim], dim=1)
        d_context = features.new_zeros(len(steps), batch, channels)
        d_projected = projected.new_zeros(projected.shape, dtype=c.dtype)
        d_h, d_c = torch.zeros_like(h), torch.zeros_like(c)
        d_states = d_states.clone(memory_format=torch.contiguous_format)  # each step adds to the one before
        before = [d_h, *torch.split(d_states, steps)]
        scratch = Scratch(projected)
        cells = features.transpose(1, 2)
        per_step = (
            threshold, gate, gates[:, dim : 2 * dim], memory_slope, gates_slope, gate_slope,
            d_mixed, d_threshold, d_gate, d_gates, d_gates.view(-1, 4, dim),
        )  # fmt: skip
        rows = list(zip(*(torch.split(x, steps) for x in per_step), strict=True))
        with torch.autocast(features.device.type, enabled=False):
            # The gradient of the threshold leaves the loop without the score's weights; see the class.
            from_mixed = torch.cat([from_state[:dim] * -score.unsqueeze(1), from_state[dim:]])
            for t in reversed(range(len(steps))):
                n, d_h_t = steps[t], before[t + 1]
                thr_t, gate_t, f_t, c_slope, gates_s, gate_s, d_mixed_t, d_thr, d_gate_t, d_gates_t, d_ifgo = rows[t]
                d_c_t = d_c[:n].addcmul_(d_h_t.to(c.dtype), c_slope)
                torch.mul(gates_s[:, :3], d_c_t.unsqueeze(1), out=d_ifgo[:, :3])
                torch.mul(gates_s[:, 3], d_h_t, out=d_ifgo[:, 3])
                d_c_t.mul_(f_t)
                d_gated = d_gates_t @ from_context
                torch.mul(d_gated, gate_s, out=d_gate_t)
                d_context_t = torch.mul(d_gated, gate_t, out=d_context[t, :n])
                d_a = torch.bmm(d_context_t.unsqueeze(1), cells[:n]).squeeze(1)
                if spread is not None:
                    d_a = d_a @ spread.t()
                d_a = d_received[:n] + d_a
                d_scores = torch._softmax_backward_data(d_a, attention[t, :n], 1, c.dtype)
                scratch.scores_backward(projected, thr_t, d_scores, d_projected, d_thr)
                before[t][:n].addmm_(d_mixed_t, from_mixed)

            d_score = (d_projected * projected).sum(dim=(0, 1)) - (d_threshold * threshold).sum(dim=0)
            d_threshold.mul_(-score)
            d_from_context = d_gates.t() @ (gate * context)
            d_from_state = d_mixed.t() @ _before(h, states, steps)
            d_features = None
            if ctx.needs_input_grad[0]:
                a = attention.to(features.dtype)
                if spread is not None:
                    a = a @ spread
                d_features = torch.bmm(a.permute(1, 2, 0), d_context.transpose(0, 1))
        d_bias = d_mixed[:, : dim + channels].sum(dim=0)
        d_projected = d_projected.mul_(score).to(projected.dtype)
        return (
            d_features, d_projected, d_gates.to(c.dtype), d_h, d_c,
            d_from_state, d_bias, d_score.to(score.dtype), d_from_context, None, None,
        )  # fmt: skip


class Scratch:
    """The passes over (rows, cells, dim) of every step, in memory used again and again."""

    def __init__(self, projected: Tensor) -> None:
        """Take memory for the blocks of ``projected``, (batch, cells, dim)."""
        batch, cells, dim = projected.shape
        self.block = min(batch, max(1, BLOCK // (cells * dim))) if projected.device.type == "cpu" else batch
        self.memory = projected.new_empty(self.block, cells, dim)

    def _blocks(self, n: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, n, self.block):
            rows = slice(start, min(start + self.block, n))
            yield rows, self.memory[: rows.stop - start]

    def scores(self, projected: Tensor, threshold: Tensor, score: Tensor) -> Tensor:
        """The attention's scores, but for a number the same for all cells of a row: max(projected, threshold)·score.

        Parameters
        ----------
        projected
            (batch, cells, dim).
        threshold
            (n, dim) of the first n rows.
        score
            (dim,).

        Returns
        -------
        (n, cells).
        """
        n, cells = len(threshold), projected.shape[1]
        scores = projected.new_empty(n, cells)
        for rows, memory in self._blocks(n):
            torch.maximum(projected[rows], threshold[rows].unsqueeze(1), out=memory)
            torch.mv(memory.flatten(0, 1), score, out=scores[rows].view(-1))
        return scores

    def scores_backward(
        self, projected: Tensor, threshold: Tensor, d_scores: Tensor, d_projected: Tensor, d_state: Tensor
    ) -> None:
        """Gradients of one step, without the factor ``score``.

        Parameters
        ----------
        projected, threshold
            As in :meth:`scores`.
        d_scores
            (n, cells).
        d_projected
            (batch, cells, dim): the step's gradient is added.
        d_state
            (n, dim): set to the gradient of minus the threshold.
        """
        for rows, memory in self._blocks(len(threshold)):
            d_rows = d_scores[rows]
            above = torch.gt(projected[rows], threshold[rows].unsqueeze(1), out=memory)
            torch.bmm(d_rows.to(above.dtype).unsqueeze(1), above, out=d_state[rows].unsqueeze(1))
            d_projected[rows].addcmul_(above, d_rows.unsqueeze(2))


def _before(first: Tensor, after: Tensor, steps: list[int]) -> Tensor:
    """What every step began with, (sum of steps, dim): ``first`` (batch, dim), then what the step before left."""
    chunks = [first, *torch.split(after, steps)]
    return torch.cat([chunk[:n] for chunk, n in zip(chunks, steps, strict=False)])


def _lstm_slopes(gates: Tensor, memory: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives within the LSTM cell, of all steps at once.

    Parameters
    ----------
    gates
        (sum of steps, 4 dim): the values of i, f, g, o.
    memory, before
        (sum of steps, dim): the memory c after and before each step.

    Returns
    -------
    How h changes with c, (sum of steps, dim); and, (sum of steps, 4, dim), how c changes with what is in i, f, g
    before their non-linearity, and h with what is in o.
    """
    i, f, g, o = gates.chunk(4, dim=1)
    squashed = memory.tanh()
    slopes = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], dim=1)
    return o * (1 - squashed * squashed), slopes


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
