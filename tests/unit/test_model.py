"""The network: all encoders build, learn a step and read; the fast decoder is the plain one."""

import pytest
import torch
import torch.nn.functional as F
from ocsrflow.encoders import RECIPES
from ocsrflow.model import Decoder, Reader
from ocsrflow.settings.network import Network
from ocsrflow.tokenizer import END, START, VOCABULARY

# Large encoders are built whole, but see small pictures.
PIXELS = {"inception_v3": 96, "nasnet_a_large": 96, "xception": 96}


def network(encoder: str, **changed: object) -> Network:
    settings = {"pretrained": "none", "frozen_children": 0, "dim": 16, "grid": 3} | changed
    return Network(encoder=encoder, image_size=PIXELS.get(encoder, 64), **settings)  # type: ignore[arg-type]


def batch() -> tuple[torch.Tensor, torch.Tensor, list[int], torch.Tensor]:
    pictures = torch.randint(0, 256, (2, 1, 70, 70), dtype=torch.uint8)
    tokens = torch.tensor([[START, 50, 60], [START, 70, 0]])
    return pictures, tokens, [2, 2, 1], torch.tensor([50, 70, 60, END, END])


@pytest.mark.parametrize("encoder", RECIPES)
def test_every_encoder_builds_learns_a_step_and_reads(encoder: str) -> None:
    torch.manual_seed(0)
    reader = Reader(network(encoder), len(VOCABULARY))
    pictures, tokens, steps, targets = batch()
    entropy, penalty = reader.train()(pictures, tokens, steps, targets)
    (entropy + penalty).backward()
    gradients = [p.grad for p in reader.parameters() if p.requires_grad]
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)
    first = next(p for p in reader.encoder.parameters())
    before = first.detach().clone()
    torch.optim.Adam(reader.parameters(), lr=1e-2).step()
    assert not torch.equal(first, before)
    decoded = reader.eval().read(pictures, 6)
    assert len(decoded.tokens) == 2
    assert all(len(row) <= 6 for row in decoded.tokens)
    assert all(value < 0 for value in decoded.log_probability)


def test_the_frozen_children_are_the_slides_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    settings = Network(
        encoder="resnet18", pretrained="imagenet", frozen_children=5, image_size=64, grid=2, dim=16, stride=32
    )
    reader = Reader(settings, len(VOCABULARY), RECIPES["resnet18"].build().state_dict()).train()
    frozen = {name for name, p in reader.encoder.named_parameters() if not p.requires_grad}
    # conv1, bn1, relu, maxpool and layer1 are the children 0 to 4.
    assert {name.split(".")[1] for name in frozen} == {"0", "1", "4"}
    before = {name: value.clone() for name, value in reader.encoder.trunk[:5].state_dict().items()}
    entropy, _ = reader(*batch())
    entropy.backward()
    torch.optim.Adam([p for p in reader.parameters() if p.requires_grad], lr=1e-2).step()
    after = reader.encoder.trunk[:5].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_encoder_is_not_frozen_whole_unseen() -> None:
    settings = Network(encoder="nasnet_a_large", pretrained="imagenet", image_size=96, grid=3, dim=16)
    with pytest.raises(ValueError, match="frozen_children 5 would freeze it whole; set it to 0"):
        Reader(settings, len(VOCABULARY))


def plain_decoder(decoder: Decoder, features: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """The scores after every token of one text, written the plain way: one step after the other, nothing shared."""
    h, c = decoder.first_state(features.mean(0, keepdim=True)).chunk(2, dim=1)
    scores = []
    for token in tokens:
        weights = decoder.score(F.relu(decoder.picture_score(features) + decoder.state_score(h))).softmax(dim=0)
        context = torch.sigmoid(decoder.gate(h)) * (weights * features).sum(0, keepdim=True)
        embedded = decoder.embedding(torch.tensor([token]))
        cell = decoder.from_token(embedded) + decoder.from_context(context) + decoder.from_state(h)
        i, f, g, o = cell.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        scores.append(decoder.output(h))
    return torch.cat(scores)


def test_the_teacher_forced_pass_is_the_plain_one() -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels=12, dim=8, vocabulary=len(VOCABULARY), dropout=0.5).eval()
    features = torch.randn(3, 9, 12)
    tokens = torch.tensor([[START, 5, 6, 7], [START, 8, 9, 0], [START, 0, 0, 0]])
    lengths = [4, 3, 1]
    steps = [3, 2, 2, 1]
    scores, _ = decoder(features, tokens, steps)
    expected = [plain_decoder(decoder, features[i], tokens[i, :n].tolist()) for i, n in enumerate(lengths)]
    ordered = torch.stack([expected[row][t] for t, n in enumerate(steps) for row in range(n)])
    torch.testing.assert_close(scores, ordered, rtol=1e-5, atol=1e-5)


def test_greedy_reading_is_the_likeliest_token_at_every_step() -> None:
    torch.manual_seed(1)
    decoder = Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0).eval()
    features = torch.randn(4, 9, 12) * 3
    decoded = decoder.greedy(features, 12)
    for row in range(4):
        written = [START]
        total = 0.0
        for _ in range(12):
            log_probability = plain_decoder(decoder, features[row], written)[-1].log_softmax(0)
            token = int(log_probability.argmax())
            total += float(log_probability.detach().max())
            if token == END:
                break
            written.append(token)
        assert decoded.tokens[row] == written[1:]
        assert decoded.log_probability[row] == pytest.approx(total, abs=1e-4)


def test_finished_pictures_do_not_change_the_others() -> None:
    torch.manual_seed(2)
    decoder = Decoder(channels=12, dim=8, vocabulary=6, dropout=0.0).eval()
    features = torch.randn(16, 4, 12) * 4
    together = decoder.greedy(features, 10)
    alone = [decoder.greedy(features[i : i + 1], 10).tokens[0] for i in range(16)]
    assert len({len(row) for row in alone}) > 1
    assert together.tokens == alone


def test_grey_pictures_are_read_as_colour_ones() -> None:
    torch.manual_seed(0)
    reader = Reader(network("shufflenet_v2_x0_5"), len(VOCABULARY)).eval()
    grey = batch()[0]
    with torch.inference_mode():
        torch.testing.assert_close(reader.encoder(grey), reader.encoder(grey.expand(-1, 3, -1, -1)))


def test_the_attention_penalty_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels=12, dim=8, vocabulary=20, dropout=0.0)
    features = torch.randn(2, 9, 12)
    tokens, steps = torch.tensor([[START, 5, 6], [START, 7, 0]]), [2, 2, 1]
    _, penalty = decoder(features, tokens, steps)
    projected, h, c = decoder.start(features)
    total = torch.zeros(2, 9)
    for t, n in enumerate(steps):
        part = decoder.from_token(decoder.embedding(tokens[:n, t]))
        new_h, new_c, attention = decoder.step(features[:n], projected[:n], part, h[:n], c[:n])
        h, c = torch.cat([new_h, h[n:]]), torch.cat([new_c, c[n:]])
        total[:n] += attention
    torch.testing.assert_close(penalty, (1 - total).square().mean(dim=1).sum())
