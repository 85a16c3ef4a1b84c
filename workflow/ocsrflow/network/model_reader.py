"""What a trained model reads in pictures: many at once, or one at a time against the clock."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..chem.similarity import is_valid
from ..chem.tokenizer import decode, encode
from ..config.reading import Reading
from ..depiction.plain import Picture
from ..pictures.packed_file import Packed
from .beam_search import Candidate, attend, search
from .model import Reader
from .precision import settle, warn_if_slow

LAST, LIKELY = 10, 0.5  # tokens at the end of a text that has the greatest length, and how likely each one is
WARM_UP = 5  # pictures read before the clock counts

Answer = TypeVar("Answer")


class ModelReader:
    """A trained model with all that decides what it reads."""

    def __init__(self, reader: Reader, longest: int, reading: Reading, device: torch.device) -> None:
        """Put together.

        Parameters
        ----------
        reader
            The network, on ``device``; its weights are taken over and must not change any more, see
            :func:`settle`.
        longest
            Tokens after which a text is cut off.
        reading
            How texts are searched for, and in which precision.
        device
            Where it computes.
        """
        self.reader, self.longest, self.reading, self.device = reader, longest, reading, device
        self.precision = reader.set_precision(reading.precision, device)
        settle(reader.encoder.trunk, self.precision)
        reader.decoder.settle()
        warn_if_slow(self.precision, device)

    def see(self, pictures: Tensor) -> Tensor:
        """The features of some pictures, (batch, channels, size, size) uint8: (batch, own cells, channels)."""
        with torch.inference_mode(), self.reader.autocast():
            features: Tensor = self.reader.encoder(pictures.to(self.device, non_blocking=True))
            return features

    def look(self, picture: Picture, text: str) -> NDArray[np.float32]:
        """Where the model looks while it writes a text: (tokens + 1, grid, grid), the last as it ends.

        Raises
        ------
        ValueError
            Where the text has what is no token.
        """
        tokens = encode(text).tolist()
        features = self.see(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None])))
        with torch.inference_mode(), self.reader.autocast():
            maps: NDArray[np.float32] = attend(self.reader.decoder, features, tokens).float().cpu().numpy()
            return maps

    def write(self, features: Tensor) -> list[list[Candidate]]:
        """The texts that each picture may have by its features, likeliest first."""
        with self.reader.autocast():
            return search(
                self.reader.decoder, features, self.longest, beams=self.reading.beams, grammar=self.reading.grammar
            )

    def candidates(self, pictures: Tensor) -> list[list[Candidate]]:
        """The texts that each of some pictures, (batch, channels, size, size) uint8, may have, likeliest first."""
        return self.write(self.see(pictures))

    def read_one(self, picture: NDArray[np.uint8], hopeless: Collection[str] = ()) -> str:
        """The SMILES of one picture, (1, channels, size, size) in the host's memory.

        ``hopeless`` are texts that RDKit is known not to parse, be it that it takes too long.
        """
        texts = [decode(candidate.tokens) for candidate in self.candidates(torch.from_numpy(picture))[0]]
        return next((text for text in texts if text not in hopeless and is_valid(text)), texts[0])


def best_first(candidates: Sequence[Candidate], parsed: Callable[[str], bool]) -> list[tuple[str, Candidate]]:
    """The different texts of a picture: those that RDKit parses first, each kind from the likeliest on.

    A text that is no molecule is no answer as long as there is another one.
    """
    texts: dict[str, Candidate] = {}
    for candidate in candidates:  # two token rows may spell one text: the likelier one stands for it
        texts.setdefault(decode(candidate.tokens), candidate)
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
