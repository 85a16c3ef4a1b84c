"""How fast a training goes: images and waits for data, floating-point operations."""

import math
import re
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..chem.tokenizer import START
from ..config.network import Network
from ..network.batches import Share
from ..network.decoder import Decoder
from ..network.model import Encoder
from .process_group import ProcessGroup


class Meter:
    """Counts and clocks between two lines of metrics."""

    def __init__(self, flops: tuple[float, float], peak: float | None, group: ProcessGroup) -> None:
        """Start.

        Parameters
        ----------
        flops
            Floating-point operations for each picture, and for each token on top.
        peak
            Those that the device could do in a second; None where that is not known.
        group
            This process among the others.
        """
        self.flops, self.peak, self.group = flops, peak, group
        self.restart()

    def restart(self) -> None:
        """Count from here."""
        self.since, self.waited = time.perf_counter(), 0.0
        self.all_pictures = self.pictures = self.tokens = 0

    def next_batch(self, stream: Any, share: Share) -> Any:
        """The next batch."""
        before = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - before
        self.all_pictures += share.pictures
        self.pictures += len(batch.positions)
        self.tokens += len(batch.targets)
        return batch

    def read(self) -> dict[str, float]:
        """Speed of all processes and what this one's own device was used for, since the start; starts anew.

        To be called when the device has nothing left to do. ``gpu_memory_gib`` is the most that tensors ever took.
        """
        seconds = time.perf_counter() - self.since
        per_picture, per_token = self.flops
        flops = (self.pictures * per_picture + self.tokens * per_token) / seconds
        values = {
            "images_per_second": self.all_pictures / seconds,
            "data_wait": self.waited / seconds,
            "teraflops": flops / 1e12,
        }
        if self.group.cuda:
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.peak:
            values["mfu"] = flops / self.peak
        self.restart()
        return values


def medians(history: list[dict[str, Any]]) -> dict[str, float]:
    """The usual speed: medians over the lines of metrics."""
    names = ("images_per_second", "data_wait", "teraflops", "gpu_memory_gib", "mfu")
    found = {name: [line[name] for line in history if name in line] for name in names}
    return {name: round(statistics.median(values), 4) for name, values in found.items() if values}


# Dense bfloat16 operations a second with float32 accumulation, as NVIDIA's data sheets give them (half of what they
# print "with sparsity"): H100/H200, A100, L40S, L4 product briefs; GeForce from the Ada and Ampere whitepapers.
PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
# Words in a GPU's name that make it another one, with a peak of its own: less power, other cores, or a part of one
# (MIG; a virtual GPU, "A40-48Q").
OTHER_KIND = re.compile(r"laptop|mobile|max|ti|super|d|mig|\d+[abcq]")


def _addmm_flops(_: list[int], first: list[int], second: list[int], **__: object) -> int:
    """Operations of ``addmm_``, from the shapes of its arguments."""
    return 2 * first[0] * first[1] * second[1]


def _convolution_backward_flops(d_out: list[int], _: list[int], weights: list[int], *others: Any, **__: object) -> int:
    """Operations of a convolution's backward pass, from shapes: to the input and to the weights as many each.

    What the counter has of its own takes a grouped convolution's weights for as large as without groups.
    """
    to_input, to_weights, _to_bias = others[-1]
    return 2 * math.prod(d_out) * math.prod(weights[1:]) * int(to_input + to_weights)


# What PyTorch's counter does not know (products that add to what is there already), or counts wrong.
CORRECTED = {
    torch.ops.aten.addmm_: _addmm_flops,
    torch.ops.aten.convolution_backward: _convolution_backward_flops,
}


def peak(device: torch.device) -> float | None:
    """Floating-point operations a second that a device could do in bfloat16; None where it is not in :data:`PEAKS`.

    A GPU's name, as the driver gives it, is compared word by word: an RTX A4000 is no A40, and an H100 PCIe no H100.
    """
    if device.type != "cuda":
        return None
    words = re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(device).lower())
    if any(OTHER_KIND.fullmatch(word) for word in words):
        return None
    # Of those whose words are all in the name the one with most words.
    peaks = {frozenset(key.lower().split()): value for key, value in PEAKS.items()}
    fitting = [key for key in peaks if key <= set(words)]
    return peaks[max(fitting, key=len)] if fitting else None


def training_flops(network: Network, vocabulary: int, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Operations of a training step, forward and backward, by PyTorch's own counter (convolutions, matrix products).

    Parameters
    ----------
    network
        Shape of the network.
    vocabulary
        Number of tokens.
    shape
        Channels, height and width of a picture.

    Returns
    -------
    Operations for each picture, and for each token on top.
    """
    with torch.random.fork_rng(devices=[]):  # no random number of the training is used up
        with torch.device("meta"):  # shapes alone
            encoder = Encoder(network)
            with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
                features = encoder(torch.zeros(2, *shape, dtype=torch.uint8))  # one picture has no batch statistics
                features.sum().backward()
        decoder = Decoder(encoder.channels, network.dim, vocabulary, network.dropout, network.grid)
        one, two, longer = (
            _decoding_flops(decoder, torch.zeros(pictures, *features.shape[1:]), tokens)
            for pictures, tokens in ((1, 2), (2, 2), (1, 12))
        )
    per_token = (longer - one) / 10
    # What a batch costs whatever is in it, the tokens' products, is no picture's.
    return counter.get_total_flops() / 2 + two - one - 2 * per_token, per_token


def _decoding_flops(decoder: Decoder, features: Tensor, tokens: int) -> int:
    texts = torch.full((len(features), tokens), START)
    with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
        scores, penalty = decoder(features.requires_grad_(), texts, [len(features)] * tokens)
        (scores.sum() + penalty).backward()
    return int(counter.get_total_flops())
