"""Greedy and beam search over the decoder's texts, the likelihood of given texts, and where the decoder looked.

All three run :class:`ocsrflow.network.decoder.Steps`: what is computed once a picture is shared by all its texts.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chem.grammar import Grammar, State
from ..chem.tokenizer import END, PAD, START, VOCABULARY
from .decoder import Decoder, Steps

TEXTS = 32  # texts of a picture whose likelihood is computed side by side
# Steps after which it is checked which pictures have finished: a GPU has to be waited for, a CPU has not.
CHECK_EVERY = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True)
class Candidate:
    """A text that the decoder wrote.

    ``tokens`` are without start and end; ``log_probability`` is the natural logarithm of the whole text's
    probability, with its end; ``token_probabilities`` are each token's given those before it, the last one the
    end's. A text cut off at the longest length has no end, and as many probabilities as tokens.
    """

    tokens: list[int]
    log_probability: float
    token_probabilities: list[float]

    @property
    def ended(self) -> bool:
        """Whether the decoder ended the text itself."""
        return len(self.token_probabilities) > len(self.tokens)


def search(
    decoder: Decoder, features: Tensor, longest: int, *, beams: int = 1, grammar: bool = False
) -> list[list[Candidate]]:
    """The likeliest texts of each picture, by beam search; with one beam the likeliest token at every step (greedy).

    A text that has ended stays in the beam with its probability. A picture is done when all its texts have ended:
    what goes on can only become less likely. Start and padding are never written; of equally likely texts the one
    from the earlier beam, then the one with the lower token comes first.

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (pictures, encoder cells, channels); products are computed in autocast's type, where it is on.
    longest
        Tokens of a text at most, its end included.
    beams
        Texts kept for a picture at every step.
    grammar
        Whether a text goes on only as the SMILES grammar allows, and ends within ``longest`` tokens. Probabilities
        remain those without the grammar.

    Returns
    -------
    For each picture up to ``beams`` texts, from the likeliest.

    Raises
    ------
    ValueError
        With a grammar, where ``longest`` is below 2 or the decoder has another vocabulary.
    """
    if not len(features):
        return []
    if grammar and (longest < 2 or len(decoder.output.weight) != len(VOCABULARY)):
        raise ValueError("a grammar needs a longest text of 2 tokens or more, and a decoder over its vocabulary")
    with torch.inference_mode():
        # A copy, since pictures that go on take the places of those that have finished.
        steps = Steps(decoder, features.clone(memory_format=torch.contiguous_format), beams)
        with torch.autocast(features.device.type, enabled=False):
            return _Hypotheses(steps, longest, beams, Grammar(features.device) if grammar else None).run()


class _Hypotheses:
    """The beams of some pictures.

    Each picture has a slot of ``beams`` texts; pictures that go on are in the first slots, ``order`` says which picture
    is in a slot. What was chosen at every step (earlier beam and token) is kept by picture, and the texts are put
    together at the end. Nothing in a step waits for the device.
    """

    def __init__(self, steps: Steps, longest: int, beams: int, grammar: Grammar | None) -> None:
        """Begin with the pictures of ``steps``, which is written over."""
        slots = len(steps.h)
        device, dtype = steps.c.device, steps.c.dtype
        self.steps, self.beams, self.vocabulary = steps, beams, len(steps.weights.added)
        self.check_every = CHECK_EVERY[device.type]
        self.h, self.c = (x.unsqueeze(1).repeat(1, beams, 1) for x in (steps.h, steps.c))
        self.score = torch.full((slots, beams), -math.inf, dtype=dtype, device=device)
        self.score[:, 0] = 0  # one text each to begin with, the others are none
        self.ended = torch.zeros(slots, beams, dtype=torch.bool, device=device)
        self.last = torch.full((slots, beams), START, device=device)
        self.order = torch.arange(slots, device=device)
        # A choice is earlier beam * vocabulary + token. Once a picture has left, its texts go on with padding.
        padding = torch.arange(beams, device=device) * self.vocabulary + PAD
        self.choices = padding.repeat(longest, slots, 1)
        self.gains = torch.zeros(longest, slots, beams, dtype=dtype, device=device)  # log-probabilities of the tokens
        self.longest, self.grammar = longest, grammar
        self.state = grammar.start(slots * beams, longest, device) if grammar is not None else None
        # Texts that go on write no start or padding; those that have ended write padding, for sure.
        self.if_running, self.if_ended = (torch.zeros(self.vocabulary, dtype=dtype, device=device) for _ in range(2))
        self.if_running[[PAD, START]] = -math.inf
        self.if_ended[torch.arange(self.vocabulary, device=device) != PAD] = -math.inf

    def run(self) -> list[list[Candidate]]:
        """The texts of all pictures."""
        running, done = len(self.order), 0
        while running and done < self.longest:
            self._step(running, done)
            done += 1
            if done % self.check_every == 0:
                running = self._drop_finished(running)
        choices, gains = (x[:done].transpose(0, 1).tolist() for x in (self.choices, self.gains))
        return [self._candidates(*of_picture) for of_picture in zip(choices, gains, strict=True)]

    def _step(self, n: int, at: int) -> None:
        """Let the texts in the first n slots grow by the token at position ``at``."""
        h, c, score, ended, last = (x[:n] for x in (self.h, self.c, self.score, self.ended, self.last))
        new_h, new_c, _ = self.steps(h, c, last)
        gains = self.steps.log_probabilities(new_h) + self.if_running
        rows = n * self.beams
        if self.grammar is not None and self.state is not None:
            state = State(*(x[:rows] for x in self.state))
            gains.masked_fill_(~self.grammar.allowed(state).view_as(gains), -math.inf)
        gains = torch.where(ended.unsqueeze(2), self.if_ended, gains)
        best, choice = _largest((score.unsqueeze(2) + gains).flatten(1), self.beams)
        # Where there are fewer texts than beams, those of probability 0 stand for none, and stay none.
        none = best.isneginf()
        earlier, token = choice // self.vocabulary, choice % self.vocabulary
        gain = gains.flatten(1).gather(1, choice).masked_fill(none, -math.inf)
        self.choices[at, self.order[:n]] = choice
        self.gains[at, self.order[:n]] = gain
        ended.copy_(ended.gather(1, earlier) | (token == END) | none)
        score.copy_(best)
        last.copy_(token)
        if self.beams == 1:
            h.copy_(new_h)
            c.copy_(new_c)
        else:
            origin = (earlier + self.beams * torch.arange(n, device=earlier.device).unsqueeze(1)).flatten()
            h.copy_(new_h.flatten(0, 1)[origin].view_as(h))
            c.copy_(new_c.flatten(0, 1)[origin].view_as(c))
        if self.grammar is not None and self.state is not None:
            if self.beams > 1:
                state = State(*(x[origin] for x in state))
            for kept, new in zip(self.state, self.grammar.advance(state, token.flatten()), strict=True):
                kept[:rows].copy_(new)

    def _drop_finished(self, running: int) -> int:
        """Take out pictures whose texts have all ended; how many go on.

        Their slots are filled from behind: moving a picture's features costs no more than one or two steps do.
        """
        goes_on: list[bool] = (~self.ended[:running].all(dim=1)).tolist()
        left = sum(goes_on)
        gaps = [i for i in range(left) if not goes_on[i]]
        behind = [i for i in range(left, running) if goes_on[i]]
        if gaps:
            to, origin = (torch.tensor(x, device=self.order.device) for x in (gaps, behind))
            moving = [self.steps.features, self.steps.projected, self.h, self.c, self.score, self.ended, self.last]
            moving += [x.view(-1, self.beams, *x.shape[1:]) for x in self.state or ()]
            for x in moving:
                x[to] = x[origin]
            self.ended[origin] = True
            self.order[to], self.order[origin] = self.order[origin], self.order[to]
        return left

    def _candidates(self, choices: list[list[int]], gains: list[list[float]]) -> list[Candidate]:
        """The texts of a picture, from its choices and gains, (steps, beams) each, followed from the last step back."""
        found = []
        for last_beam in range(self.beams):
            tokens, of_tokens = [], []
            beam = last_beam
            for choice, gain in zip(reversed(choices), reversed(gains), strict=True):
                earlier, token = divmod(choice[beam], self.vocabulary)
                if token != PAD or gain[beam] == -math.inf:
                    tokens.append(token)
                    of_tokens.append(gain[beam])
                beam = earlier
            if -math.inf in of_tokens:
                continue
            text = [token for token in reversed(tokens) if token != END]
            found.append(Candidate(text, math.fsum(of_tokens), [math.exp(x) for x in reversed(of_tokens)]))
        # The sums of the search were rounded step by step.
        return sorted(found, key=lambda candidate: -candidate.log_probability)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, (rows, k) in falling order, and where they are; of equal ones the first.

    ``values`` are written over. (``topk`` leaves open which of equal values it takes.)
    """
    if k == 1:
        best, at = values.max(dim=1, keepdim=True)
        return best, at
    found = []
    for _ in range(k):
        best, at = values.max(dim=1, keepdim=True)
        found.append((best, at))
        values.scatter_(1, at, -math.inf)
    return torch.cat([best for best, _ in found], dim=1), torch.cat([at for _, at in found], dim=1)


def likelihood(decoder: Decoder, features: Tensor, texts: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """How likely the decoder finds given texts.

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (pictures, encoder cells, channels), as in :func:`search`.
    texts
        For each picture some texts, as token numbers without start and end.

    Returns
    -------
    For each text of each picture the natural logarithm of its probability, with its end.
    """
    found = [[0.0] * len(own) for own in texts]
    # Texts of about one length side by side: a picture leaves when the longest of them has ended.
    ranked = [sorted(range(len(own)), key=lambda i, own=own: -len(own[i])) for own in texts]  # type: ignore[misc]
    for first in range(0, max(map(len, texts), default=0), TEXTS):
        pictures = [i for i, own in enumerate(texts) if len(own) > first]
        pictures.sort(key=lambda i: -len(texts[i][ranked[i][first]]))
        chosen = [ranked[i][first : first + TEXTS] for i in pictures]
        parts = [[texts[i][j] for j in own] for i, own in zip(pictures, chosen, strict=True)]
        values = _teacher_forced(decoder, features[pictures], parts)
        for i, own, row in zip(pictures, chosen, values, strict=True):
            for j, value in zip(own, row, strict=False):
                found[i][j] = value
    return found


def _teacher_forced(decoder: Decoder, features: Tensor, texts: list[list[Sequence[int]]]) -> list[list[float]]:
    """The log-probabilities of texts, (pictures, most texts of a picture).

    A picture's first text is its longest; pictures come from that with the longest text to that with the shortest.
    """
    k, lengths = max(map(len, texts)), [len(own[0]) + 1 for own in texts]
    absent = -1  # in place of a token, where a text has ended or there is none
    tokens = torch.full((lengths[0], len(texts), k), absent)
    for i, own in enumerate(texts):
        for j, text in enumerate(own):
            tokens[: len(text) + 1, i, j] = torch.tensor([*text, END])
    tokens = tokens.to(features.device)
    with _steps(decoder, features, k) as steps:
        h, c = (x.unsqueeze(1).expand(-1, k, -1) for x in (steps.h, steps.c))
        last = torch.full_like(tokens[0], START)
        total = torch.zeros(tokens.shape[1:], dtype=steps.c.dtype, device=features.device)
        for t, target in enumerate(tokens):
            n = sum(length > t for length in lengths)
            h, c, _ = steps(h[:n], c[:n], last[:n])
            last = target.clamp(min=PAD)
            gain = steps.log_probabilities(h).gather(2, last[:n].unsqueeze(2)).squeeze(2)
            total[:n] += gain.masked_fill(target[:n] == absent, 0)
        values: list[list[float]] = total.tolist()
    return values


def attention(decoder: Decoder, features: Tensor, tokens: Sequence[int]) -> Tensor:
    """Where the decoder looks while it writes a given text.

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (1, encoder cells, channels), of one picture.
    tokens
        The text, without start and end.

    Returns
    -------
    (tokens + 1, grid, grid): the attention while each token and then the end was written; sums to 1 over the cells.
    """
    maps = []
    with _steps(decoder, features, 1) as steps:
        h, c = steps.h.unsqueeze(1), steps.c.unsqueeze(1)
        for token in torch.tensor([[[START]], *([[token]] for token in tokens)], device=features.device):
            h, c, weights = steps(h, c, token)
            maps.append(weights.view(decoder.grid, decoder.grid))
        return torch.stack(maps)


@contextmanager
def _steps(decoder: Decoder, features: Tensor, texts: int) -> Iterator[Steps]:
    """The decoder's steps, without gradients and, once they are made, without autocast."""
    with torch.inference_mode():
        steps = Steps(decoder, features, texts)
        with torch.autocast(features.device.type, enabled=False):
            yield steps
