"""The precision of trainings and of readings: what auto is, what is recorded, and that bfloat16 is close to float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ocsrflow.config.network import Network
from ocsrflow.config.reading import Reading
from ocsrflow.network import precision
from ocsrflow.network.beam_search import search
from ocsrflow.network.decoder import Decoder, Steps
from ocsrflow.network.encoders import RECIPES
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.network.model_reader import ModelReader
from ocsrflow.prediction.predict import predict
from support.training import TRAINING, lines, run_train

CPU = torch.device("cpu")
RESNET = Network(encoder="resnet18", pretrained="none", frozen_children=0, image_size=64, stride=16, grid=4, dim=32)
DEPTHWISE = {"efficientnet_b0", "mobilenet_v3_small", "nasnet_a_large", "shufflenet_v2_x0_5", "xception"}


def has(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    """Let the CPU have these instructions alone, whatever it has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [((), "float32"), (("avx512_f",), "float32"), (("amx_bf16",), "bfloat16"), (("avx512_bf16",), "bfloat16")],
)
def test_auto_is_bfloat16_where_a_cpu_has_it(
    instructions: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, *instructions)
    assert EncoderDecoder(RESNET, 9).set_precision("auto", CPU) == expected


@pytest.mark.parametrize("encoder", RECIPES)
def test_auto_is_float32_for_depthwise_encoders_on_a_cpu(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "amx_bf16")
    with torch.device("meta"):
        trunk = RECIPES[encoder].build()
    assert precision.resolve("auto", trunk, CPU) == ("float32" if encoder in DEPTHWISE else "bfloat16")
    assert precision.resolve("bfloat16", trunk, CPU) == "bfloat16"


def test_this_cpu_can_be_asked() -> None:
    """The names of the instructions are PyTorch's: a renamed one would silently be float32 everywhere."""
    names = torch.cpu.get_capabilities().keys()
    if torch.cpu.get_capabilities()["architecture"] == "x86_64":
        assert {"amx_bf16", "avx512_bf16"} <= names


def test_bfloat16_is_the_encoders_alone_on_a_cpu() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(RESNET, 9).eval()
    pictures = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    seen: list[torch.dtype] = []
    model.encoder.trunk[-1].register_forward_hook(lambda *words: seen.append(words[-1].dtype))
    with torch.inference_mode():
        exact = model.encoder(pictures)
        assert model.set_precision("bfloat16", CPU) == "bfloat16"
        narrow = model.encoder(pictures)
    assert seen == [torch.float32, torch.bfloat16]
    assert narrow.dtype == torch.float32  # what the decoder gets
    assert not torch.equal(exact, narrow)
    assert float((exact - narrow).norm() / exact.norm()) < 0.02
    with model.autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_precision_is_the_whole_networks() -> None:
    device = torch.device("cuda")
    model = EncoderDecoder(RESNET, 9).eval().to(device)
    for asked, enabled in (("float32", False), ("bfloat16", True)):
        model.set_precision(asked, device)  # type: ignore[arg-type]
        with model.autocast():
            assert torch.is_autocast_enabled("cuda") == enabled


def test_a_slow_bfloat16_is_said_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    precision._warn.cache_clear()
    has(monkeypatch)
    for _ in range(2):
        ModelReader(EncoderDecoder(RESNET, 9).eval(), 5, Reading(precision="bfloat16"), CPU)
    assert capfd.readouterr().err.splitlines() == [
        "this CPU has neither AMX-BF16 nor AVX512-BF16: precision bfloat16 is slower here than float32"
    ]
    precision._warn.cache_clear()
    has(monkeypatch, "amx_bf16")
    ModelReader(EncoderDecoder(RESNET, 9).eval(), 5, Reading(precision="bfloat16"), CPU)
    ModelReader(EncoderDecoder(RESNET, 9).eval(), 5, Reading(), CPU)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_weights_are_brought_into_their_order_and_type_once(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "amx_bf16")
    torch.manual_seed(0)
    model = EncoderDecoder(RESNET, 256).eval()
    pictures = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    model.set_precision(asked, CPU)
    with torch.inference_mode():
        expected = model.encoder(pictures)
        texts = search(model.decoder, expected, 8, beams=2)
    model_reader = ModelReader(model, 8, Reading(precision=asked, beams=2, grammar=False), CPU)
    convolutions = [layer for layer in model.encoder.trunk.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in convolutions)
    assert {layer.weight.dtype for layer in convolutions} == {getattr(torch, asked)}
    assert {value.dtype for value in model.encoder.buffers() if value.is_floating_point()} == {torch.float32}
    found = model_reader.encode(pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for _ in range(2):  # the second time with the decoder's sums that were kept
        again = model_reader.beam_search(found)
        assert [[c.tokens for c in own] for own in again] == [[c.tokens for c in own] for own in texts]
    assert model.decoder.step_weights(torch.float32) is model.decoder.step_weights(torch.float32)


def test_weights_that_change_are_not_kept() -> None:
    decoder = EncoderDecoder(RESNET, 9).decoder
    before = decoder.step_weights(torch.float32).added.clone()
    with torch.no_grad():
        decoder.embedding.weight.add_(1)
    assert not torch.equal(decoder.step_weights(torch.float32).added, before)


def test_scores_of_tokens_are_float32_where_products_are_bfloat16() -> None:
    """In bfloat16 they would be 0.06 apart between 8 and 16, and tokens exactly equally likely."""
    torch.manual_seed(0)
    decoder = Decoder(16, 32, 256, 0.0, 2).eval()
    with torch.inference_mode():
        decoder.output.weight.mul_(5)
        decoder.output.bias.add_(12)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as on a GPU
            steps = Steps(decoder, torch.randn(4, 4, 16), 1)
        assert steps.features.dtype == torch.bfloat16
        state = torch.randn(4, 1, 32).bfloat16()
        found = steps.log_probabilities(state)
        exact = (state.float() @ decoder.output.weight.t() + decoder.output.bias).log_softmax(dim=2)
    assert found.dtype == torch.float32
    assert all(len(row.unique()) > 250 for row in found.flatten(0, 1))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


def test_a_training_records_what_it_used_and_its_key_has_it(dataset: Path, finished: Path, tmp_path: Path) -> None:
    facts = {"float32": json.loads((finished / "model.json").read_text())}
    for asked in ("auto", "bfloat16"):
        training = TRAINING.model_copy(update={"precision": asked})
        run_train(dataset, tmp_path / asked, training=training)
        facts[asked] = json.loads((tmp_path / asked / "model.json").read_text())
    # The encoder is depthwise: auto is float32 on every CPU, and thus the same training.
    assert {name: own["precision"] for name, own in facts.items()} == {
        "auto": "float32", "float32": "float32", "bfloat16": "bfloat16",
    }  # fmt: skip
    assert facts["auto"]["key"] == facts["float32"]["key"] != facts["bfloat16"]["key"]
    exact, narrow = (
        [line["loss"] for line in lines(folder) if "loss" in line] for folder in (finished, tmp_path / "bfloat16")
    )
    assert exact != narrow
    assert narrow == pytest.approx(exact, rel=0.05)


def test_a_reading_records_what_it_used(dataset: Path, finished: Path, tmp_path: Path) -> None:
    for asked in ("float32", "bfloat16"):
        predict(
            dataset / "images.h5",
            reading=Reading(precision=asked),
            weights=finished / "weights.safetensors",
            description=finished / "model.json",
            out=tmp_path / "p.parquet",
            facts=tmp_path / f"{asked}.json",
            timed_images=1,
        )
        assert json.loads((tmp_path / f"{asked}.json").read_text())["precision"] == asked
