"""Reading pictures: this decoder's search against a plain loop; on a GPU also the encoder alone and one-image latency.

    python tests/benchmarks/reading.py [--pictures 64] [--plain 4] [--rounds 3] [--threads 2] [--config config.yaml]

The plain loop is that of the public implementations of Show, Attend and Tell: one image at a time, and at every step
the attention projects the encoder's whole output again. Features are 14 x 14 x 2048, dim is 512. The weights are
random but for a clock: a unit of the LSTM's memory counts the steps and makes the end token likely after 20 to 60
tokens, another number for each picture. All greedy readings must be the same. Figures are medians over the rounds,
which are interleaved. Seconds of the five models are held against those of the talk: 0.0934 an image for a model on
average, 0.1992 for the ensemble.
"""

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from decoder import plain_cell
from ocsrflow.chem.tokenizer import END, PAD, START, VOCABULARY
from ocsrflow.config.experiment import load
from ocsrflow.config.network import Network
from ocsrflow.network.beam_search import Candidate, search
from ocsrflow.network.decoder import Decoder
from ocsrflow.network.model import EncoderDecoder
from torch import Tensor

LONGEST = 140
TALK_MODEL, TALK_ENSEMBLE = 0.0934, 0.1992  # seconds an image
A_STEP = 0.02  # by which the clock goes on


@torch.no_grad()
def set_clock(decoder: Decoder, features: Tensor | None) -> None:
    """Let texts end after 20 to 60 tokens, by where the clock stands for each picture; all after 40 without features.

    The end is likely as soon as the first unit of the memory is above 0.
    """
    dim = decoder.output.in_features
    decoder.output.weight.mul_(10)  # so that tokens differ by more than rounding
    decoder.output.bias[[PAD, START]] = -1e4
    decoder.output.weight[:, 0] = 0
    decoder.output.weight[END] = 0
    decoder.output.weight[END, 0] = 1e4
    for layer in (decoder.from_token, decoder.from_context, decoder.from_state):
        layer.weight[::dim] = 0
    # The gates i, f and o of the unit are open, and g adds a step.
    decoder.from_token.bias[::dim] = torch.tensor([20.0, 20.0, math.atanh(A_STEP), 20.0])
    decoder.first_state.weight[dim] = 0
    decoder.first_state.bias[dim] = -40 * A_STEP
    if features is not None:
        means = features.mean(dim=1)
        seen = torch.randn(features.shape[2])
        at = means @ seen
        low, high = at.min(), at.max()
        decoder.first_state.weight[dim] = seen * 40 * A_STEP / (high - low)
        decoder.first_state.bias[dim] = -60 * A_STEP - low * 40 * A_STEP / (high - low)


class Plain:
    """The plain loop, with the same weights."""

    def __init__(self, ours: Decoder) -> None:
        self.ours = ours
        self.cell = plain_cell(ours)

    @torch.inference_mode()
    def read(self, features: Tensor) -> list[int]:
        """The tokens of one picture, features (1, cells, channels)."""
        ours, written, last = self.ours, [], START
        h, c = ours.first_state(features.mean(dim=1)).chunk(2, dim=1)
        for _ in range(LONGEST):
            embedded = ours.embedding(torch.tensor([last]))
            projected = ours.picture_score(features)
            scores = ours.score(F.relu(projected + ours.state_score(h).unsqueeze(1))).squeeze(2)
            context = (features * scores.softmax(dim=1).unsqueeze(2)).sum(dim=1)
            context = torch.sigmoid(ours.gate(h)) * context
            h, c = self.cell(torch.cat([embedded, context], dim=1), (h, c))
            last = int(ours.output(h).argmax())
            if last == END:
                break
            written.append(last)
        return written


def seconds(function: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that a function takes, with all that it starts on a GPU."""
    began = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def greedy(found: list[list[Candidate]]) -> list[list[int]]:
    """The likeliest text of each picture."""
    return [candidates[0].tokens for candidates in found]


def compare(options: argparse.Namespace) -> None:
    """Print the table of the plain loop and the search, on the CPU."""
    torch.manual_seed(0)
    decoder = Decoder(2048, 512, len(VOCABULARY), dropout=0.0, grid=14).eval()
    features = torch.randn(options.pictures, 14 * 14, 2048).relu()
    set_clock(decoder, features)
    plain = Plain(decoder)
    some = [features[i : i + 1] for i in range(options.plain)]
    batched = greedy(search(decoder, features, LONGEST))
    expected = [plain.read(picture) for picture in some]
    single = [greedy(search(decoder, picture, LONGEST))[0] for picture in some]
    if not batched[: options.plain] == expected == single:
        raise SystemExit("the texts differ")
    lengths = sorted(map(len, batched))
    print(f"the same texts, of {lengths[0]} to {lengths[-1]} tokens, on average {statistics.mean(lengths):.0f}\n")
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "plain loop, one image": (len(some), lambda: [plain.read(picture) for picture in some]),
        "greedy, one image": (len(some), lambda: [search(decoder, picture, LONGEST) for picture in some]),
        f"greedy, batch {options.pictures}": (len(features), lambda: search(decoder, features, LONGEST)),
        "5 beams, one image": (len(some), lambda: [search(decoder, picture, LONGEST, beams=5) for picture in some]),
        f"5 beams, batch {options.pictures}": (len(features), lambda: search(decoder, features, LONGEST, beams=5)),
    }
    rates = defaultdict(list)
    for _ in range(options.rounds):
        for name, (count, way) in ways.items():
            rates[name].append(count / seconds(way))
    print(f"| CPU, {torch.get_num_threads()} threads | images/s | ratio to the plain loop |\n|---|---|---|")
    for name, each in rates.items():
        ratio = statistics.median(a / b for a, b in zip(each, rates["plain loop, one image"], strict=True))
        print(f"| {name} | {statistics.median(each):.2f} | {ratio:.1f} |", flush=True)


@torch.inference_mode()
def throughput(rounds: int, network: Network, batch: int = 256, device: str = "cuda") -> list[dict[str, str]]:
    """How many images a second a model encodes, and reads: a row for each way."""
    pictures = torch.randint(0, 256, (batch, 3, 256, 256), dtype=torch.uint8, device=device)
    reader = random_model(network, device)

    def encode() -> object:
        with reader.autocast():
            return reader.encoder(pictures)

    def read(beams: int) -> object:
        with reader.autocast():
            return search(reader.decoder, reader.encoder(pictures), LONGEST, beams=beams)

    ways: dict[str, Callable[[], object]] = {"encoder alone": encode}
    ways |= {f"reading, beams {beams}": partial(read, beams) for beams in (1, 5)}
    rates = defaultdict(list)
    for number in range(rounds + 2):  # two to warm up: libraries are set up
        for name, way in ways.items():
            took = seconds(way, device)
            if number >= 2:
                rates[name].append(len(pictures) / took)
    rows = []
    for name, each in rates.items():
        share = statistics.median(a / b for a, b in zip(each, rates["encoder alone"], strict=True))
        way = f"{network.encoder}, batch {batch}, {name}"
        rows.append({"way": way, "images/s": f"{statistics.median(each):,.0f}", "of the encoder alone": f"{share:.0%}"})
    return rows


@torch.inference_mode()
def latency(options: argparse.Namespace) -> None:
    """Print seconds an image of the models of the configuration's first ensemble, one image at a time."""
    config = load(yaml.safe_load(options.config.read_text(encoding="utf-8")))
    members = [model for model in config.models if model.name in config.ensembles[0].models]
    picture = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8)
    print("\n| one image | seconds, greedy | seconds, 5 beams | talk |\n|---|---|---|---|")
    totals = {1: 0.0, 5: 0.0}
    for model in members:
        reader = random_model(model.network.model_copy(update={"pretrained": "none", "frozen_children": 0}))

        def read(beams: int, reader: EncoderDecoder = reader) -> object:
            with reader.autocast():
                return search(reader.decoder, reader.encoder(picture.cuda()), LONGEST, beams=beams)

        row = {}
        for beams in totals:
            times = [seconds(partial(read, beams), "cuda") for _ in range(5 + 10 * options.rounds)][5:]
            row[beams] = statistics.median(times)
            totals[beams] += row[beams]
        print(f"| {model.name} | {row[1]:.4f} | {row[5]:.4f} | {TALK_MODEL} |", flush=True)
    print(f"| one after the other | {totals[1]:.4f} | {totals[5]:.4f} | {TALK_ENSEMBLE} |")


def random_model(network: Network, device: str = "cuda") -> EncoderDecoder:
    """A model with random weights, whose texts have 40 tokens."""
    torch.manual_seed(0)
    reader = EncoderDecoder(network, len(VOCABULARY)).eval()
    set_clock(reader.decoder, None)
    reader.set_precision("auto", torch.device(device))
    return reader.to(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64, help="read together on the CPU")
    parser.add_argument("--plain", type=int, default=4, help="of them also one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="of the models whose latency is taken")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare(options)
    if not torch.cuda.is_available():
        print("\nno GPU here: throughput and latency of whole models are not measured")
        return
    print(f"\n{torch.cuda.get_device_name()}")
    print("\n| 256 pixels | images/s | share of the encoder alone |\n|---|---|---|")
    for row in throughput(options.rounds, Network(encoder="resnet152", pretrained="none", frozen_children=0)):
        print(f"| {' | '.join(row.values())} |", flush=True)
    latency(options)


if __name__ == "__main__":
    main()
