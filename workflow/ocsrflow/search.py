"""Greedy and beam search over the decoder's texts, the likelihood of given texts, and where the decoder looked.

All three run :class:`ocsrflow.decoder.Steps`: what is computed once a picture is shared by all its texts.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .decoder import Decoder, Steps
from .grammar import Grammar, State
from .tokenizer import END, PAD, START, VOCABULARY

TEXTS = 32  # texts of a picture whose likelihood is computed side by side
# Steps between two looks at which pictures have finished: for a GPU that is waiting, for a CPU it costs nothing.
LOOK = {"cpu": 1, "cuda": 8}
RECORDED = {"cuda"}  # where steps are recorded and replayed, and memory is kept for the next search


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
        (pictures, own cells, channels); products are computed in autocast's type, where it is on.
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
    with torch.inference_mode():
        # A copy, since pictures that go on take the places of those that have finished.
        steps = Steps(decoder, features.clone(memory_format=torch.contiguous_format), beams)
        with torch.autocast(features.device.type, enabled=False):
            return _hypotheses(decoder, steps, longest, beams, grammar).run(steps)


class _Hypotheses:
    """The beams of some pictures, in memory that stays where it is.

    Each picture has a slot of ``beams`` texts; pictures that go on are in the first slots, ``order`` says which.
    What was chosen at every step (earlier beam and token) is kept by picture, and the texts are put together at the
    end. Nothing in a step waits for the device or depends on the step's number, so that a GPU can replay it.
    """

    def __init__(self, steps: Steps, longest: int, beams: int, grammar: Grammar | None) -> None:
        """Take memory for as many pictures as ``steps`` has, which is written over."""
        slots, dim = steps.h.shape
        device, wide = steps.c.device, steps.c.dtype
        self.steps, self.beams, self.vocabulary = steps, beams, len(steps.weights.added)
        self.look = LOOK[device.type]
        self.h = steps.h.new_empty(slots, beams, dim)
        self.c = steps.c.new_empty(slots, beams, dim)
        self.score = torch.empty(slots, beams, dtype=wide, device=device)
        self.ended = torch.empty(slots, beams, dtype=torch.bool, device=device)
        self.last = torch.empty(slots, beams, dtype=torch.int64, device=device)
        self.order = torch.empty(slots, dtype=torch.int64, device=device)
        self.at = torch.empty(1, dtype=torch.int64, device=device)
        self.choices = torch.empty(longest, slots, beams, dtype=torch.int64, device=device)
        self.gained = torch.empty(longest, slots, beams, dtype=wide, device=device)
        self.longest, self.grammar = longest, grammar
        self.state = grammar.start(slots * beams, longest, device) if grammar is not None else None
        # Texts that go on write no start or padding; those that have ended write padding, for sure.
        self.going, self.frozen = (torch.zeros(self.vocabulary, dtype=wide, device=device) for _ in range(2))
        self.going[[PAD, START]] = -math.inf
        self.frozen[torch.arange(self.vocabulary, device=device) != PAD] = -math.inf
        self.replays = _Replays(self._step) if device.type in RECORDED else None

    def run(self, steps: Steps) -> list[list[Candidate]]:
        """The texts of pictures, at most as many as there are slots."""
        if steps is not self.steps:
            self.steps.renew(steps)
        pictures = running = len(steps.h)
        self._begin(pictures)
        done = 0
        while running and done < self.longest:
            (self._step if self.replays is None else self.replays)(self._width(running))
            done += 1
            if done % self.look == 0:
                running = self._leave(running)
        choices, gained = (x[:done, :pictures].transpose(0, 1).tolist() for x in (self.choices, self.gained))
        return [self._texts(*kept) for kept in zip(choices, gained, strict=True)]

    def _begin(self, pictures: int) -> None:
        self.h.copy_(self.steps.h.unsqueeze(1).expand_as(self.h))
        self.c.copy_(self.steps.c.unsqueeze(1).expand_as(self.c))
        self.score.fill_(-math.inf)[:, 0] = 0  # one text each to begin with, the others are none
        self.ended.fill_(True)[:pictures] = False
        self.last.fill_(START)
        torch.arange(len(self.order), out=self.order)
        self.at.zero_()
        # Once a picture has left, its texts go on with padding.
        self.choices.copy_(torch.arange(self.beams, device=self.at.device) * self.vocabulary + PAD)
        self.gained.zero_()
        if self.grammar is not None and self.state is not None:
            first = self.grammar.start(len(self.state[0]), self.longest, self.at.device)
            for ours, new in zip(self.state, first, strict=True):
                ours.copy_(new)

    def _width(self, running: int) -> int:
        """Slots that a step computes: on a GPU one of a few numbers, since each is recorded by itself."""
        if self.replays is None:
            return running
        width = len(self.order)
        while width // 2 >= running and width > 1:
            width = -(-width // 2)
        return width

    def _step(self, n: int) -> None:
        """Let the texts in the first n slots grow by a token."""
        h, c, score, ended, last = (x[:n] for x in (self.h, self.c, self.score, self.ended, self.last))
        new_h, new_c, _ = self.steps(h, c, last)
        gains = self.steps.log_probabilities(new_h) + self.going
        rows = n * self.beams
        if self.grammar is not None and self.state is not None:
            state = State(*(x[:rows] for x in self.state))
            gains.masked_fill_(~self.grammar.allowed(state).view_as(gains), -math.inf)
        gains = torch.where(ended.unsqueeze(2), self.frozen, gains)
        best, choice = _largest((score.unsqueeze(2) + gains).flatten(1), self.beams)
        # Where there are fewer texts than beams, those of probability 0 stand for none, and stay none.
        none = best.isneginf()
        parent, token = choice // self.vocabulary, choice % self.vocabulary
        gain = gains.flatten(1).gather(1, choice).masked_fill(none, -math.inf)
        at = self.at, self.order[:n]
        self.choices.index_put_(at, choice)
        self.gained.index_put_(at, gain)
        self.at.add_(1)
        ended.copy_(ended.gather(1, parent) | (token == END) | none)
        score.copy_(best)
        last.copy_(token)
        if self.beams == 1:
            h.copy_(new_h)
            c.copy_(new_c)
        else:
            origin = (parent + self.beams * torch.arange(n, device=parent.device).unsqueeze(1)).flatten()
            h.copy_(new_h.flatten(0, 1)[origin].view_as(h))
            c.copy_(new_c.flatten(0, 1)[origin].view_as(c))
        if self.grammar is not None and self.state is not None:
            if self.beams > 1:
                state = State(*(x[origin] for x in state))
            for ours, new in zip(self.state, self.grammar.advance(state, token.flatten()), strict=True):
                ours[:rows].copy_(new)

    def _leave(self, running: int) -> int:
        """Let pictures leave whose texts have all ended; how many go on.

        Their slots are filled from behind: moving a picture's features costs no more than one or two steps do.
        """
        going: list[bool] = (~self.ended[:running].all(dim=1)).tolist()
        left = sum(going)
        if left and self._width(left) == self._width(running):
            return running
        gaps = [i for i in range(left) if not going[i]]
        behind = [i for i in range(left, running) if going[i]]
        if gaps:
            to, origin = (torch.tensor(x, device=self.order.device) for x in (gaps, behind))
            moving = [self.steps.features, self.steps.projected, self.h, self.c, self.score, self.ended, self.last]
            moving += [x.view(-1, self.beams, *x.shape[1:]) for x in self.state or ()]
            for x in moving:
                x[to] = x[origin]
            self.ended[origin] = True
            self.order[to], self.order[origin] = self.order[origin], self.order[to]
        return left

    def _texts(self, choices: list[list[int]], gained: list[list[float]]) -> list[Candidate]:
        """The texts of a picture, from what was chosen and gained, (steps, beams)."""
        found = []
        for beam in range(self.beams):
            tokens, gains = [], []
            at = beam
            for chosen, gain in zip(reversed(choices), reversed(gained), strict=True):
                earlier, token = divmod(chosen[at], self.vocabulary)
                if token != PAD or gain[at] == -math.inf:
                    tokens.append(token)
                    gains.append(gain[at])
                at = earlier
            if -math.inf in gains:
                continue
            text = [token for token in reversed(tokens) if token != END]
            found.append(Candidate(text, math.fsum(gains), [math.exp(x) for x in reversed(gains)]))
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


class _Replays:
    """Steps recorded as CUDA graphs, one for each width: a launch in place of some fifty."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self.step = step
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.failed = False

    def __call__(self, n: int) -> None:
        """A step of width n: as it is for the first time, which sets up libraries, then recorded."""
        if n not in self.graphs:
            self.graphs[n] = None
        elif self.graphs[n] is None and not self.failed:
            self.graphs[n] = self._recorded(n)
        graph = self.graphs[n]
        if graph is None:
            self.step(n)
        else:
            graph.replay()

    def _recorded(self, n: int) -> torch.cuda.CUDAGraph | None:
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on with what a recording forbids, such as pinning memory.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                self.step(n)
        except RuntimeError as error:
            self.failed = True
            reason = str(error).splitlines()[0]
            print(f"reading goes on without CUDA graphs, more slowly ({reason})", file=sys.stderr, flush=True)
            return None
        return graph


# On a GPU: memory and recorded steps of earlier batches, by decoder and by what they were made for.
_held: WeakKeyDictionary[Decoder, dict[tuple[object, ...], _Hypotheses]] = WeakKeyDictionary()


def _hypotheses(decoder: Decoder, steps: Steps, longest: int, beams: int, grammar: bool) -> _Hypotheses:
    """Memory for a search: on a GPU that of an earlier one, where it is large enough."""
    if grammar and (longest < 2 or len(steps.weights.added) != len(VOCABULARY)):
        raise ValueError("a grammar needs a longest text of 2 tokens or more, and a decoder over its vocabulary")
    device = steps.c.device
    held = _held.setdefault(decoder, {}) if device.type in RECORDED else {}
    key = (device, steps.features.dtype, steps.features.shape[1:], longest, beams, grammar)
    if key not in held or len(held[key].order) < len(steps.h):
        held[key] = _Hypotheses(steps, longest, beams, Grammar(device) if grammar else None)
    return held[key]


def likelihood(decoder: Decoder, features: Tensor, texts: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """How likely the decoder finds given texts.

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (pictures, own cells, channels), as in :func:`search`.
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
        values = _forced(decoder, features[pictures], parts)
        for i, own, row in zip(pictures, chosen, values, strict=True):
            for j, value in zip(own, row, strict=False):
                found[i][j] = value
    return found


def _forced(decoder: Decoder, features: Tensor, texts: list[list[Sequence[int]]]) -> list[list[float]]:
    """The log-probabilities of texts, (pictures, most texts of a picture).

    A picture's first text is its longest; pictures come from that with the longest text to that with the shortest.
    """
    k, lengths = max(map(len, texts)), [len(own[0]) + 1 for own in texts]
    nothing = -1
    tokens = torch.full((lengths[0], len(texts), k), nothing)
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
            total[:n] += gain.masked_fill(target[:n] == nothing, 0)
        values: list[list[float]] = total.tolist()
    return values


def attend(decoder: Decoder, features: Tensor, tokens: Sequence[int]) -> Tensor:
    """Where the decoder looks while it writes a given text.

    Parameters
    ----------
    decoder
        In evaluation mode.
    features
        (1, own cells, channels), of one picture.
    tokens
        The text, without start and end.

    Returns
    -------
    (tokens + 1, grid, grid): the attention while each token and then the end was written; sums to 1 over the cells.
    """
    looked = []
    with _steps(decoder, features, 1) as steps:
        h, c = steps.h.unsqueeze(1), steps.c.unsqueeze(1)
        for token in torch.tensor([[[START]], *([[token]] for token in tokens)], device=features.device):
            h, c, attention = steps(h, c, token)
            looked.append(attention.view(decoder.grid, decoder.grid))
        return torch.stack(looked)


@contextmanager
def _steps(decoder: Decoder, features: Tensor, texts: int) -> Iterator[Steps]:
    """The decoder's steps, without gradients and, once they are made, without autocast."""
    with torch.inference_mode():
        steps = Steps(decoder, features, texts)
        with torch.autocast(features.device.type, enabled=False):
            yield steps
