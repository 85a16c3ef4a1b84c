"""The fast decoder is the plain one: scores, attention, gradients; what it keeps for the backward pass is small."""

import pytest
import torch
import torch.nn.functional as F
from ocsrflow.chem.tokenizer import START, VOCABULARY
from ocsrflow.network.beam_search import search
from ocsrflow.network.decoder import Decoder, expansion
from ocsrflow.network.recurrence import Recurrence
from support.plain_decoder import plain_decoder
from torch import Tensor

STEPS = [3, 2, 2, 1]
TOKENS = torch.tensor([[START, 5, 6, 7], [START, 8, 9, 0], [START, 0, 0, 0]])


def plain_batch(decoder: Decoder, features: Tensor, tokens: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
    """What :meth:`Decoder.forward` gives, with :func:`plain_decoder`."""
    lengths = [sum(n > row for n in steps) for row in range(len(features))]
    assert (tokens[:, 0] == START).all()
    parts = [plain_decoder(decoder, features[i], tokens[i, 1:n].tolist()) for i, n in enumerate(lengths)]
    scores = torch.stack([parts[row][0][t] for t, n in enumerate(steps) for row in range(n)])
    return scores, sum((1 - looked.sum(dim=0)).square().mean() for _, looked in parts)


def gradients(decoder: Decoder, features: Tensor, penalised: float, *, plain: bool) -> dict[str, Tensor]:
    """Of a loss of batch, by parameter, and of the features."""
    features = features.clone().requires_grad_()
    decoder.zero_grad()
    scores, penalty = (plain_batch if plain else Decoder.forward)(decoder, features, TOKENS, STEPS)
    targets = torch.arange(len(scores)) % 5
    (F.cross_entropy(scores.float(), targets, reduction="sum") + penalised * penalty).backward()
    found = {name: p.grad for name, p in decoder.named_parameters()} | {"features": features.grad}
    return {name: torch.zeros(()) if grad is None else grad.clone() for name, grad in found.items()}


@pytest.mark.parametrize("own", [3, 2, 5])
def test_the_teacher_forced_pass_is_the_plain_one(own: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels=12, dim=8, vocabulary=len(VOCABULARY), dropout=0.5, grid=3).eval()
    features = torch.randn(3, own * own, 12)
    scores, penalty = decoder(features, TOKENS, STEPS)
    expected, expected_penalty = plain_batch(decoder, features, TOKENS, STEPS)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(penalty, expected_penalty)


@pytest.mark.parametrize("penalised", [0.0, 1.0])
@pytest.mark.parametrize("own", [3, 2])
def test_the_gradients_are_the_plain_ones(own: int, penalised: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr("ocsrflow.network.recurrence.BLOCK", 2 * 9 * 8)  # blocks of two rows
    decoder = Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0, grid=3).double()
    features = torch.randn(3, own * own, 12, dtype=torch.float64)
    ours = gradients(decoder, features, penalised, plain=False)
    plain = gradients(decoder, features, penalised, plain=True)
    assert ours.keys() == plain.keys()
    for name, grad in plain.items():
        assert grad.abs().sum() > 0, name
        # double, but for the matrix of the spread cells and the loss
        torch.testing.assert_close(ours[name], grad, rtol=1e-5, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("spread", [True, False])
def test_the_recurrence_differentiates_what_it_computes(spread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    monkeypatch.setattr("ocsrflow.network.recurrence.BLOCK", 1)  # row by row
    batch, own, cells, channels, dim = 3, 4, 9 if spread else 4, 5, 3
    shapes = [
        (batch, own, channels),
        (batch, cells, dim),
        (sum(STEPS), 4 * dim),
        (batch, dim),
        (batch, dim),
        (5 * dim + channels, dim),
        (dim + channels,),
        (dim,),
        (4 * dim, channels),
    ]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    matrix = expansion(2, 3, torch.device("cpu")).double() if spread else None
    assert torch.autograd.gradcheck(lambda *x: Recurrence.apply(*x, matrix, STEPS), inputs)


def test_the_backward_pass_can_be_taken_twice() -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0, grid=3)
    features = torch.randn(3, 4, 12, requires_grad=True)
    scores, penalty = decoder(features, TOKENS, STEPS)
    loss = scores.square().sum() + penalty
    (first,) = torch.autograd.grad(loss, features, retain_graph=True)
    (second,) = torch.autograd.grad(loss, features)
    assert torch.equal(first, second)


def test_nothing_of_rows_cells_and_dim_is_kept_for_every_step() -> None:
    cells, dim, channels, batch, steps = 32 * 32, 8, 4, 4, [4] * 50
    decoder = Decoder(channels=channels, dim=dim, vocabulary=20, dropout=0.0, grid=32)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    features = torch.randn(batch, cells, channels, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        scores, _ = decoder(features, torch.zeros(batch, len(steps), dtype=torch.int64), steps)
    each = 4 * batch * cells * dim  # bytes of (rows, cells, dim)
    small = 4 * len(scores) * (cells + 20 * dim + 5 * channels)
    assert sum(kept.values()) < 4 * each + small
    assert 4 * each + small < len(steps) * each / 2  # so that the line above says something
    scores.sum().backward()


@pytest.mark.parametrize("own", [3, 2])
def test_products_in_bfloat16_change_little(own: int) -> None:
    torch.manual_seed(3)
    decoder = Decoder(channels=24, dim=16, vocabulary=20, dropout=0.0, grid=3)
    features = torch.randn(3, own * own, 24)
    exact = gradients(decoder, features, 1.0, plain=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gradients(decoder, features, 1.0, plain=False)
        scores, penalty = decoder(features, TOKENS, STEPS)
    assert scores.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(scores.float(), decoder(features, TOKENS, STEPS)[0], rtol=0.02, atol=0.02)
    for name, grad in exact.items():
        assert rounded[name].dtype == torch.float32, name
        assert (rounded[name] - grad).norm() < 0.03 * grad.norm(), name


def test_the_weights_do_not_depend_on_the_grid() -> None:
    states = [Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0, grid=grid).state_dict() for grid in (2, 5)]
    assert states[0].keys() == states[1].keys()


def test_training_after_reading_with_the_same_grid_has_gradients() -> None:
    decoder = Decoder(channels=12, dim=8, vocabulary=6, dropout=0.0, grid=6)
    features = torch.randn(3, 16, 12)  # a matrix that no other test has made
    search(decoder, features, 3)
    scores, penalty = decoder(features, TOKENS.clamp(max=5), STEPS)
    (scores.sum() + penalty).backward()
    assert all(p.grad is not None for p in decoder.parameters())
