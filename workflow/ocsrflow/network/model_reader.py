"""What a trained model reads in pictures: many at once, or one at a time against the clock."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..chem import tokenizer
from ..chem.similarity import is_valid
from ..config.reading import Reading
from ..depiction.plain import Picture
from ..pictures.packed_file import Packed
from . import beam_search
from .beam_search import Candidate
from .model import EncoderDecoder
from .precision import prepare_for_reading, warn_if_slow

LAST, LIKELY = 10, 0.5  # tokens at the end of a text that has the greatest length, and how likely each one is
WARM_UP = 5  # pictures read before the clock counts

Answer = TypeVar("Answer")


class ModelReader:
    """A trained model with all that decides what it reads."""

    def __init__(self, model: EncoderDecoder, longest: int, reading: Reading, device: torch.device) -> None:
        """Put together.

        Parameters
        ----------
        model
            The network, on ``device``; its weights are taken over and must not change any more, see
            :func:`ocsrflow.network.precision.prepare_for_reading`.
        longest
            Tokens after which a text is cut off.
        reading
            How texts are searched for, and in which precision.
        device
            Where it computes.
        """
        self.model, self.longest, self.reading, self.device = model, longest, reading, device
        self.precision = model.set_precision(reading.precision, device)
        prepare_for_reading(model.encoder.trunk, self.precision)
        model.decoder.cache_step_weights()
        warn_if_slow(self.precision, device)

    def encode(self, pictures: Tensor) -> Tensor:
        """The features of some pictures, (batch, channels, size, size) uint8: (batch, encoder cells, channels)."""
        with torch.inference_mode(), self.model.autocast():
            features: Tensor = self.model.encoder(pictures.to(self.device, non_blocking=True))
            return features

    def attention(self, picture: Picture, text: str) -> NDArray[np.float32]:
        """Where the model looks while it writes a text: (tokens + 1, grid, grid), the last as it ends.

        Raises
        ------
        ValueError
            Where the text has what is no token.
        """
        tokens = tokenizer.encode(text).tolist()
        features = self.encode(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None])))
        with torch.inference_mode(), self.model.autocast():
            maps = beam_search.attention(self.model.decoder, features, tokens)
        found: NDArray[np.float32] = maps.float().cpu().numpy()
        return found

    def beam_search(self, features: Tensor) -> list[list[Candidate]]:
        """The texts that each picture may have by its features, likeliest first."""
        with self.model.autocast():
            return beam_search.search(
                self.model.decoder, features, self.longest, beams=self.reading.beams, grammar=self.reading.grammar
            )

    def candidates(self, pictures: Tensor) -> list[list[Candidate]]:
        """The texts that each of some pictures, (batch, channels, size, size) uint8, may have, likeliest first."""
        return self.beam_search(self.encode(pictures))

    def read_one(self, picture: NDArray[np.uint8], invalid: Collection[str] = ()) -> str:
        """The SMILES of one picture, (1, channels, size, size) in the host's memory.

        ``invalid`` are texts that RDKit is known not to parse, some of which would hold it up.
        """
        texts = [tokenizer.decode(candidate.tokens) for candidate in self.candidates(torch.from_numpy(picture))[0]]
        return next((text for text in texts if text not in invalid and is_valid(text)), texts[0])


def best_first(candidates: Sequence[Candidate], parsed: Callable[[str], bool]) -> list[tuple[str, Candidate]]:
    """The different texts of a picture: those that RDKit parses first, each kind from the likeliest on.

    A text that is no molecule is no answer as long as there is another one.
    """
    texts: dict[str, Candidate] = {}
    for candidate in candidates:  # two token rows may spell one text: the likelier one stands for it
        texts.setdefault(tokenizer.decode(candidate.tokens), candidate)
    return sorted(texts.items(), key=lambda item: (not parsed(item[0]), -item[1].log_probability))


def is_complete(candidate: Candidate, longest: int) -> bool:
    """Whether the network ended a text by itself, and was not cut off at ``longest`` tokens, its end included.

    Without a grammar such a text has no end. With one it is as long as it can be, and was made to close what was open
    and to end: somewhere at its end the network would rather have gone on.
    """
    if not candidate.ended:
        return False
    return len(candidate.token_probabilities) < longest or min(candidate.token_probabilities[-LAST:]) >= LIKELY


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
