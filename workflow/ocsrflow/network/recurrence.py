"""Attention and LSTM over all steps of a teacher-forced pass, with a backward pass written by hand.

The network is that of :mod:`ocsrflow.network.decoder` (Xu et al. 2015).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# On a CPU, the passes over (rows, cells, dim) go block by block of about so many numbers: what one operation writes,
# the next still finds in the cache. For 64 pictures of 196 cells and dim 512 they take half as long.
BLOCK = 1 << 20


class Recurrence(torch.autograd.Function):
    """Attention and LSTM over all steps of a teacher-forced pass, with its backward pass written by hand.

    Faster than autograd for two reasons. In a step stays only what depends on the state before it; all else (gradients
    of weights, biases, features) is one operation over all steps after the loop. And what is (rows, cells, dim) large
    is computed again in the backward pass, not kept. Rows are sorted from the longest text to the shortest, so that
    those still running are the first ones.

    Two facts make the score w·relu(projected + s) cheap. With the threshold θ = -s it is w·max(projected, θ) + w·s,
    whose second term is the same for all cells, so that the softmax takes it away: one pass over the cells computes the
    first, and backward needs to know only where projected > θ. And w is the same in all steps: gradients are summed
    over the steps without it, and multiplied once.
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
        cell_map: Tensor | None,
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
            (batch, encoder cells, channels).
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
        cell_map
            (cells, encoder cells): the attention's cells as averages of the encoder's; None where they are the same.
        steps
            Number of rows still running at every step, never rising.

        Returns
        -------
        The states h after every step, (sum of steps, dim), and the attention that each cell received, (batch, cells).
        """
        # All that backward needs is written to buffers with a row for each token of each text, in the order of a
        # PackedSequence: first the rows of step 0, then those of step 1, and so on. torch.split(x, steps) gives the
        # rows of every step as views, into which the step writes. The columns of ``activations`` are views as well:
        #
        #                       threshold (dim)   gate (channels)    gates i, f, g, o (4 dim)
        #   before the loop     bias              bias               the token's part
        #   in a step, first    + part of h       + part of h        + part of h
        #   and then            (as it is)        sigmoid            + part of the context, then sigmoid or tanh
        total, dim, channels = sum(steps), h.shape[1], features.shape[2]
        new, new_wide = features.new_empty, c.new_empty
        activations = new(total, dim + channels + 4 * dim)
        activations[:, : dim + channels] = bias
        activations[:, dim + channels :] = from_tokens
        threshold, gate, gates = torch.split(activations, [dim, channels, 4 * dim], dim=1)
        # In half precision the gates' values have a buffer of their own, in the type of the memory.
        same = c.dtype == features.dtype
        gates_wide = gates if same else new_wide(total, 4 * dim)
        context, states, memory = new(total, channels), new(total, dim), new_wide(total, dim)
        attention = c.new_zeros(len(steps), *projected.shape[:2])
        scratch = Scratch(projected)
        first = h, c
        per_step = (activations, threshold, gate, gates, gates_wide, context, states, memory)
        rows = zip(*(torch.split(x, steps) for x in per_step), strict=True)
        with torch.autocast(features.device.type, enabled=False):
            to_activations, to_gates = from_state.t(), from_context.t()
            for t, (activations_t, threshold_t, gate_t, gates_t, wide_t, context_t, h_t, c_t) in enumerate(rows):
                n = steps[t]  # rows that are still running
                activations_t.addmm_(h[:n], to_activations)
                scores = scratch.scores(projected, threshold_t, score)
                a = torch.softmax(scores, 1, dtype=c.dtype, out=attention[t, :n]).to(features.dtype)
                if cell_map is not None:
                    a = a @ cell_map
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
            features, projected, *first, from_state, score, from_context, cell_map,
            activations, gates_wide, context, states, memory, attention,
        )  # fmt: skip
        return states, attention.sum(dim=0)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_states: Tensor, d_received: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs; ``d_x`` is the gradient of the loss to ``x``."""
        (
            features, projected, h, c, from_state, score, from_context, cell_map,
            activations, gates, context, states, memory, attention,
        ) = ctx.saved_tensors  # fmt: skip
        steps: list[int] = ctx.steps
        batch, dim, channels = len(h), h.shape[1], features.shape[2]
        threshold, gate, _ = torch.split(activations, [dim, channels, 4 * dim], dim=1)
        memory_slope, gates_slope = _lstm_slopes(gates, memory, _before(c, memory, steps))
        gate_slope = context * gate * (1 - gate)

        d_activations = torch.empty_like(activations)
        d_threshold, d_gate, d_gates = torch.split(d_activations, [dim, channels, 4 * dim], dim=1)
        d_context = features.new_zeros(len(steps), batch, channels)
        d_projected = projected.new_zeros(projected.shape, dtype=c.dtype)
        d_h, d_c = torch.zeros_like(h), torch.zeros_like(c)
        # The state after a step is used twice, by the output and by the next step, which adds its gradient here. So
        # d_before[t] is the gradient of the state that step t begins with, and d_before[t + 1] of the one it leaves.
        d_states = d_states.clone(memory_format=torch.contiguous_format)
        d_before = [d_h, *torch.split(d_states, steps)]
        scratch = Scratch(projected)
        cells = features.transpose(1, 2)
        # As in forward, columns are views, and each step's rows are views of these. The gates' gradients have two: one
        # of (rows, 4 dim) and one of (rows, 4, dim).
        per_step = (
            threshold, gate, gates[:, dim : 2 * dim], memory_slope, gates_slope, gate_slope,
            d_activations, d_threshold, d_gate, d_gates, d_gates.view(-1, 4, dim),
        )  # fmt: skip
        rows = list(zip(*(torch.split(x, steps) for x in per_step), strict=True))
        with torch.autocast(features.device.type, enabled=False):
            # The gradient of the threshold leaves the loop without the score's weights; see the class.
            from_activations = torch.cat([from_state[:dim] * -score.unsqueeze(1), from_state[dim:]])
            for t in reversed(range(len(steps))):
                n, d_h_t = steps[t], d_before[t + 1]
                (
                    threshold_t, gate_t, f_t, memory_slope_t, gates_slope_t, gate_slope_t,
                    d_activations_t, d_threshold_t, d_gate_t, d_gates_t, d_ifgo_t,
                ) = rows[t]  # fmt: skip
                # Through h = o · tanh(c) to the memory, and from the memory to the gates and to the memory before.
                d_c_t = d_c[:n].addcmul_(d_h_t.to(c.dtype), memory_slope_t)
                torch.mul(gates_slope_t[:, :3], d_c_t.unsqueeze(1), out=d_ifgo_t[:, :3])
                torch.mul(gates_slope_t[:, 3], d_h_t, out=d_ifgo_t[:, 3])
                d_c_t.mul_(f_t)
                # Through the product of gate and context to both, and through the context to the attention.
                d_gated = d_gates_t @ from_context
                torch.mul(d_gated, gate_slope_t, out=d_gate_t)
                d_context_t = torch.mul(d_gated, gate_t, out=d_context[t, :n])
                d_a = torch.bmm(d_context_t.unsqueeze(1), cells[:n]).squeeze(1)
                if cell_map is not None:
                    d_a = d_a @ cell_map.t()
                d_a = d_received[:n] + d_a
                # Through the softmax to the scores, and from these to the threshold and to the features' projection.
                d_scores = torch._softmax_backward_data(d_a, attention[t, :n], 1, c.dtype)
                scratch.scores_backward(projected, threshold_t, d_scores, d_projected, d_threshold_t)
                # Through all that was computed from the state that the step began with.
                d_before[t][:n].addmm_(d_activations_t, from_activations)

            d_score = (d_projected * projected).sum(dim=(0, 1)) - (d_threshold * threshold).sum(dim=0)
            d_threshold.mul_(-score)
            d_from_context = d_gates.t() @ (gate * context)
            d_from_state = d_activations.t() @ _before(h, states, steps)
            d_features = None
            if ctx.needs_input_grad[0]:
                a = attention.to(features.dtype)
                if cell_map is not None:
                    a = a @ cell_map
                d_features = torch.bmm(a.permute(1, 2, 0), d_context.transpose(0, 1))
        d_bias = d_activations[:, : dim + channels].sum(dim=0)
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
