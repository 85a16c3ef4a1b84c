"""The network: all encoders build, learn a step and read."""

import pytest
import torch
import torch.nn.functional as F
from ocsrflow.chem.tokenizer import END, START, VOCABULARY
from ocsrflow.config.network import Network
from ocsrflow.config.reading import Reading
from ocsrflow.network.encoders import RECIPES
from ocsrflow.network.model import Encoder, EncoderDecoder
from ocsrflow.network.model_reader import ModelReader

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
    model = EncoderDecoder(network(encoder), len(VOCABULARY))
    pictures, tokens, steps, targets = batch()
    entropy, penalty = model.train()(pictures, tokens, steps, targets)
    (entropy + penalty).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)
    first = next(p for p in model.encoder.parameters())
    before = first.detach().clone()
    torch.optim.Adam(model.parameters(), lr=1e-2).step()
    assert not torch.equal(first, before)
    found = ModelReader(model.eval(), 6, Reading(beams=2), torch.device("cpu")).candidates(pictures)
    assert len(found) == 2
    for candidates in found:
        assert len(candidates) == 2
        assert all(len(candidate.tokens) <= 6 for candidate in candidates)
        assert candidates[1].log_probability <= candidates[0].log_probability < 0


def test_the_frozen_children_are_the_slides_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    settings = Network(
        encoder="resnet18", pretrained="imagenet", frozen_children=5, image_size=64, grid=2, dim=16, stride=32
    )
    model = EncoderDecoder(settings, len(VOCABULARY), RECIPES["resnet18"].build().state_dict()).train()
    frozen = {name for name, p in model.encoder.named_parameters() if not p.requires_grad}
    # conv1, bn1, relu, maxpool and layer1 are the children 0 to 4.
    assert {name.split(".")[1] for name in frozen} == {"0", "1", "4"}
    before = {name: value.clone() for name, value in model.encoder.trunk[:5].state_dict().items()}
    entropy, _ = model(*batch())
    entropy.backward()
    torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    after = model.encoder.trunk[:5].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_encoder_is_not_frozen_whole_unseen() -> None:
    settings = Network(encoder="nasnet_a_large", pretrained="imagenet", image_size=96, grid=3, dim=16)
    with pytest.raises(ValueError, match="frozen_children 5 would freeze it whole; set it to 0"):
        EncoderDecoder(settings, len(VOCABULARY))


def test_grey_pictures_are_read_as_colour_ones() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(network("shufflenet_v2_x0_5"), len(VOCABULARY)).eval()
    grey = batch()[0]
    with torch.inference_mode():
        torch.testing.assert_close(model.encoder(grey), model.encoder(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("grid", "cells"), [(3, 4), (2, 4), (1, 1)])
def test_the_encoder_pools_only_to_fewer_cells_than_its_own(grid: int, cells: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(network("resnet18", grid=grid)).eval()
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        features = encoder(pictures)
        own = encoder.trunk((pictures - encoder.mean) / encoder.std)
    assert features.shape == (2, cells, 512)
    expected = F.adaptive_avg_pool2d(own, round(cells**0.5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
