"""The search is the plain one, picture by picture; so are likelihood and attention."""

import math

import pytest
import torch
from ocsrflow.chem.tokenizer import END, PAD, START
from ocsrflow.network import beam_search as search_module
from ocsrflow.network import decoder as decoder_module
from ocsrflow.network.beam_search import Candidate, attention, likelihood, search
from ocsrflow.network.decoder import Decoder
from support.plain_decoder import plain_decoder
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")


def searched(decoder: Decoder, features: Tensor, longest: int, beams: int) -> list[list[Candidate]]:
    """What the search finds, which is something for each picture."""
    found = search(decoder, features, longest, beams=beams)
    assert len(found) == len(features)
    return found


@torch.inference_mode()
def plain_search(decoder: Decoder, features: Tensor, longest: int, beams: int) -> list[tuple[list[int], float]]:
    """Texts with their end, and their log-probabilities, from the likeliest."""
    kept: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(longest):
        longer = []
        for text, total in kept:
            if text[-1:] == [END]:
                longer.append((text, total))
                continue
            gains = plain_decoder(decoder, features, text)[0][-1].log_softmax(dim=0).tolist()
            longer += [([*text, i], total + gain) for i, gain in enumerate(gains) if i not in (PAD, START)]
        kept = sorted(longer, key=lambda text: -text[1])[:beams]
    return kept


def make(own: int, vocabulary: int = 20, end: float = 2.0, pictures: int = 5) -> tuple[Decoder, Tensor]:
    """A decoder that looks at its pictures, and ends texts at several lengths; and features.

    In double precision, since its large random weights let errors grow.
    """
    torch.manual_seed(1)
    decoder = Decoder(channels=12, dim=16, vocabulary=vocabulary, dropout=0.0, grid=3).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
        decoder.output.bias[END] += end
    return decoder.double(), torch.randn(pictures, own * own, 12).double() * 3


def whole(candidate: Candidate) -> list[int]:
    """A text with its end, where it has one."""
    return candidate.tokens + [END] * (len(candidate.token_probabilities) - len(candidate.tokens))


@pytest.mark.parametrize("own", [3, 2, 5])
@pytest.mark.parametrize("beams", [1, 2, 5, 8])
def test_the_search_is_the_plain_one(own: int, beams: int) -> None:
    decoder, features = make(own)
    lengths = set()
    for ours, picture in zip(search(decoder, features, 9, beams=beams), features, strict=True):
        expected = plain_search(decoder, picture, 9, beams)
        assert [whole(candidate) for candidate in ours] == [text for text, _ in expected]
        assert [candidate.log_probability for candidate in ours] == pytest.approx([v for _, v in expected], abs=1e-5)
        lengths |= {len(text) for text, _ in expected}
    assert len(lengths) > 2


def test_texts_that_reach_the_longest_length_are_kept_without_an_end() -> None:
    decoder, features = make(3, end=-100.0)
    for found in searched(decoder, features, 7, beams=3):
        assert len(found) == 3
        assert all(len(candidate.tokens) == len(candidate.token_probabilities) == 7 for candidate in found)
        assert not any(candidate.ended for candidate in found)


@pytest.mark.parametrize("beams", [1, 4])
def test_greedy_reading_ends_where_the_end_is_likeliest(beams: int) -> None:
    decoder, features = make(3, end=100.0)
    for found in searched(decoder, features, 7, beams=beams):
        assert found[0].tokens == []
        assert found[0].ended
        assert found[0].log_probability == pytest.approx(0, abs=1e-5)


def test_candidates_come_from_the_likeliest_and_their_tokens_multiply_to_them() -> None:
    decoder, features = make(2)
    for found in searched(decoder, features, 12, beams=6):
        values = [candidate.log_probability for candidate in found]
        assert values == sorted(values, reverse=True)
        assert len({tuple(whole(candidate)) for candidate in found}) == len(found) == 6
        for candidate in found:
            assert math.log(math.prod(candidate.token_probabilities)) == pytest.approx(candidate.log_probability)
            assert not {PAD, START, END} & set(candidate.tokens)


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_text_does_not_depend_on_the_other_pictures(beams: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search_module.CHECK_EVERY, "cpu", steps)
    decoder, features = make(3, pictures=24)
    before = features.clone()
    together = search(decoder, features, 20, beams=beams)
    assert torch.equal(features, before)
    alone = [search(decoder, features[i : i + 1], 20, beams=beams)[0] for i in range(24)]
    assert len({len(found[0].tokens) for found in alone}) > 2
    for ours, single in zip(together, alone, strict=True):
        assert [c.tokens for c in ours] == [c.tokens for c in single]
        assert [c.log_probability for c in ours] == pytest.approx([c.log_probability for c in single], abs=1e-9)


def test_a_step_computes_only_pictures_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, features = make(3, pictures=24)
    computed = []
    plain_call = decoder_module.Steps.__call__

    def counting(self: decoder_module.Steps, h: Tensor, c: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        computed.append(len(h))
        return plain_call(self, h, c, last)

    monkeypatch.setattr(decoder_module.Steps, "__call__", counting)
    found = search(decoder, features, 20)
    lengths = [len(whole(candidates[0])) for candidates in found]
    assert computed == [sum(length > step for length in lengths) for step in range(max(lengths))]


def test_equally_likely_texts_come_in_the_order_of_their_tokens() -> None:
    decoder, features = make(3, vocabulary=7)
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.zero_()
        decoder.output.bias[END] = -5
    for found in searched(decoder, features, 3, beams=4):
        assert [candidate.tokens for candidate in found] == [[3, 3, 3], [3, 3, 4], [3, 3, 5], [3, 3, 6]]


def test_there_may_be_fewer_texts_than_beams() -> None:
    decoder, features = make(3, vocabulary=5)
    with torch.no_grad():
        decoder.output.bias[END] = -math.inf  # tokens 3 and 4 are left: two texts of length 1, four of length 2
    for found in searched(decoder, features, 2, beams=8):
        assert {tuple(candidate.tokens) for candidate in found} == {(3, 3), (3, 4), (4, 3), (4, 4)}


def test_no_pictures_have_no_texts() -> None:
    decoder, features = make(3)
    assert search(decoder, features[:0], 5) == []
    assert likelihood(decoder, features[:0], []) == []


@pytest.mark.parametrize("own", [3, 2])
@pytest.mark.parametrize("together", [2, 32])
def test_the_likelihood_is_the_plain_one(own: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "TEXTS", together)
    decoder, features = make(own)
    texts: list[list[list[int]]] = [[[5, 6, 7], [], [8]], [], [[9] * 12], [[3], [3, 4, 5, 6], [7], [8, 9], [10]], [[4]]]
    found = likelihood(decoder, features, texts)
    assert [len(own) for own in found] == [len(own) for own in texts]
    for values, own_texts, picture in zip(found, texts, features, strict=True):
        for value, text in zip(values, own_texts, strict=True):
            steps = plain_decoder(decoder, picture, text)[0].detach().log_softmax(dim=1)
            expected = sum(float(steps[i, token]) for i, token in enumerate([*text, END]))
            assert value == pytest.approx(expected, abs=1e-5)


def test_the_likelihood_in_single_precision_is_that_of_the_search() -> None:
    decoder, features = make(2)
    with torch.no_grad():
        for parameter in decoder.float().parameters():
            parameter.mul_(0.5)
    features = features.float()
    found = [[c for c in candidates if c.ended] for candidates in search(decoder, features, 60, beams=5)]
    values = likelihood(decoder, features, [[c.tokens for c in candidates] for candidates in found])
    assert sum(map(len, found)) > 10
    for ours, candidates in zip(values, found, strict=True):
        assert ours == pytest.approx([c.log_probability for c in candidates], abs=1e-4)


@pytest.mark.parametrize("own", [3, 2])
def test_the_attention_is_the_plain_one(own: int) -> None:
    decoder, features = make(own)
    text = [5, 9, 3, 3]
    ours = attention(decoder, features[1:2], text)
    assert ours.shape == (5, 3, 3)
    torch.testing.assert_close(ours.sum(dim=(1, 2)), torch.ones(5).double())
    expected = plain_decoder(decoder, features[1], text)[1].detach()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("texts", [1, 3])
def test_scores_computed_block_by_block_are_the_same(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, features = make(3)
    whole_batch = search(decoder, features, 9, beams=texts)
    monkeypatch.setattr(decoder_module, "BLOCK", 2 * 9 * 16 * texts)  # two pictures
    assert [[c.tokens for c in own] for own in search(decoder, features, 9, beams=texts)] == [
        [c.tokens for c in own] for own in whole_batch
    ]


def test_products_in_bfloat16_change_little() -> None:
    decoder, features = make(3)
    with torch.no_grad():
        for parameter in decoder.float().parameters():
            parameter.mul_(0.3)
    features = features.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = search(decoder, features, 9, beams=3)
        assert torch.is_autocast_enabled("cpu")
        narrow = likelihood(decoder, features, [[c.tokens for c in own if c.ended] for own in found])
    wide = likelihood(decoder, features, [[c.tokens for c in own if c.ended] for own in found])
    for ours, own, exact in zip(narrow, found, wide, strict=True):
        assert ours == pytest.approx([c.log_probability for c in own if c.ended], abs=1e-4)
        assert ours == pytest.approx(exact, abs=0.5)
