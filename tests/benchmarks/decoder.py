"""A training step of the decoder alone, against the same decoder written the plain way.

    python tests/benchmarks/decoder.py [--shapes own spread small] [--batch 64] [--rounds 3] [--threads 2]

The plain way is that of the public implementations of Show, Attend and Tell: a loop over the steps, in each of which
the attention projects the encoder's whole output again, an LSTM cell takes [embedding, gated context], and the
predictions go to one (batch, longest, vocabulary) tensor. Both have the same weights, and their losses are compared.
Seconds are medians of forward and backward pass over the rounds, which are interleaved.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from ocsrflow.chem.tokenizer import VOCABULARY
from ocsrflow.network.decoder import Decoder
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


@dataclass
class Shape:
    """Of a batch of features and texts."""

    batch: int
    own: int  # rows and columns of cells that the encoder gives
    grid: int  # and that the attention sees
    channels: int
    dim: int
    shortest: int  # tokens of a text, with its end
    longest: int


SHAPES = {
    "own": Shape(16, 14, 14, 2048, 512, 10, 75),
    "spread": Shape(16, 8, 14, 2048, 512, 10, 75),
    "small": Shape(32, 4, 4, 192, 256, 8, 27),
    "small, 1024 channels": Shape(32, 4, 4, 1024, 256, 8, 27),
}


def plain_cell(ours: Decoder) -> nn.LSTMCell:
    """PyTorch's own cell with a decoder's weights."""
    dim, channels = ours.gate.in_features, ours.gate.out_features
    cell = nn.LSTMCell(dim + channels, dim)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([ours.from_token.weight, ours.from_context.weight], dim=1))
        cell.weight_hh.copy_(ours.from_state.weight)
        cell.bias_ih.copy_(ours.from_token.bias)
        cell.bias_hh.zero_()
    return cell


class Plain(nn.Module):
    """The decoder written the plain way."""

    def __init__(self, ours: Decoder) -> None:
        super().__init__()
        self.ours, self.grid = ours, ours.grid
        self.cell = plain_cell(ours)

    def forward(self, features: Tensor, tokens: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
        """As :meth:`Decoder.forward`, but for the scores, (batch, longest, vocabulary)."""
        ours, own = self.ours, round(features.shape[1] ** 0.5)
        if own != self.grid:
            cells = F.adaptive_avg_pool2d(features.transpose(1, 2).unflatten(2, (own, own)), self.grid)
            features = cells.flatten(2).transpose(1, 2).contiguous()
        h, c = ours.first_state(features.mean(dim=1)).chunk(2, dim=1)
        embedded = ours.embedding(tokens)
        predictions = features.new_zeros(len(features), len(steps), len(VOCABULARY))
        attentions = features.new_zeros(len(features), len(steps), features.shape[1])
        for t, n in enumerate(steps):
            h, c = h[:n], c[:n]
            projected = ours.picture_score(features[:n])
            attention = ours.score(F.relu(projected + ours.state_score(h).unsqueeze(1))).squeeze(2).softmax(dim=1)
            context = (features[:n] * attention.unsqueeze(2)).sum(dim=1)
            context = torch.sigmoid(ours.gate(h)) * context
            h, c = self.cell(torch.cat([embedded[:n, t], context], dim=1), (h, c))
            predictions[:n, t] = ours.output(ours.dropout(h))
            attentions[:n, t] = attention
        return predictions, (1 - attentions.sum(dim=1)).square().mean(dim=1).sum()


@dataclass
class Batch:
    """Features, and texts from the longest to the shortest."""

    features: Tensor
    tokens: Tensor
    targets: Tensor
    lengths: Tensor

    @property
    def steps(self) -> list[int]:
        return [int((self.lengths > t).sum()) for t in range(int(self.lengths[0]))]

    def packed(self, x: Tensor) -> Tensor:
        return pack_padded_sequence(x, self.lengths, batch_first=True).data


def make(shape: Shape) -> Batch:
    """A random batch."""
    lengths = torch.randint(shape.shortest, shape.longest + 1, (shape.batch,)).sort(descending=True).values
    tokens = torch.randint(len(VOCABULARY), (2, shape.batch, int(lengths[0])))
    features = torch.randn(shape.batch, shape.own**2, shape.channels).relu().requires_grad_()
    return Batch(features, tokens[0], tokens[1], lengths)


def step(decoder: nn.Module, batch: Batch) -> float:
    """Forward and backward pass; the loss."""
    for x in (batch.features, *decoder.parameters()):
        x.grad = None
    scores, penalty = decoder(batch.features, batch.tokens, batch.steps)
    if scores.dim() == 3:
        scores = batch.packed(scores)
    loss = F.cross_entropy(scores, batch.packed(batch.targets)) + penalty / len(batch.lengths)
    loss.backward()
    return float(loss.detach())


def kept(decoder: nn.Module, batch: Batch) -> float:
    """MB kept for the backward pass, without weights and features."""
    known = {x.untyped_storage().data_ptr() for x in (batch.features, *decoder.parameters())}
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = decoder(batch.features, batch.tokens, batch.steps)
    del result
    return sum(size for at, size in storages.items() if at not in known) / 1e6


def measure(decoders: dict[str, nn.Module], batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Seconds of a training step, after one that is not counted."""
    losses = [step(decoder, batch) for decoder in decoders.values()]
    if max(losses) - min(losses) > 1e-4:
        raise SystemExit(f"the losses differ: {losses}")
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, decoder in decoders.items():
            start = time.perf_counter()
            step(decoder, batch)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main(others: Callable[[Shape, Decoder], dict[str, nn.Module]] | None = None) -> None:
    """Measure and print.

    ``others`` gives more decoders to compare with.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", type=int, help="pictures; by default 16 or 32")
    parser.add_argument("--rounds", type=int, default=3, help="of the large shapes; small ones get ten times as many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| shape | decoder | s a training step | plain / this | MB kept |\n|---|---|---|---|---|")
    for label in options.shapes:
        shape = replace(SHAPES[label], batch=options.batch or SHAPES[label].batch)
        torch.manual_seed(0)
        ours = Decoder(shape.channels, shape.dim, len(VOCABULARY), dropout=0.0, grid=shape.grid)
        decoders = {"plain": Plain(ours), **(others(shape, ours) if others else {}), "ocsrflow": ours}
        batch = make(shape)
        seconds = measure(decoders, batch, options.rounds if shape.dim > 256 else 10 * options.rounds)
        for name, decoder in decoders.items():
            median = statistics.median(seconds[name])
            ratio = statistics.median(seconds["plain"]) / median
            print(f"| {label} | {name} | {median:.4f} | {ratio:.1f} | {kept(decoder, batch):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
