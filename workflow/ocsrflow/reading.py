"""Reading one picture at a time, against the clock."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .model import Reader, autocast
from .packed import Packed
from .tokenizer import decode

WARM_UP = 5  # pictures read before the clock counts

Answer = TypeVar("Answer")


def read_one(picture: NDArray[np.uint8], reader: Reader, longest: int, device: torch.device) -> str:
    """The SMILES that a model on ``device`` reads in one picture, (1, channels, size, size) in the host's memory."""
    with autocast(device):
        decoded = reader.read(torch.from_numpy(picture).to(device), longest)
    return decode(decoded.tokens[0])


def timed(
    read: Callable[[NDArray[np.uint8]], Answer], packed: Packed, members: NDArray[np.int64]
) -> tuple[list[float], list[Answer]]:
    """Read pictures one at a time, warm.

    Parameters
    ----------
    read
        Makes an answer of a picture, (1, channels, size, size).
    packed
        The data set.
    members
        Positions of the pictures.

    Returns
    -------
    Seconds of each picture, from the decoded picture in memory to the answer, and the answers.
    """
    times, answers = [], []
    for number, at in enumerate([*members[:1].repeat(WARM_UP), *members]):
        picture = packed.pictures([int(at)])
        began = time.perf_counter()
        answer = read(picture)
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
            answers.append(answer)
    return times, answers
