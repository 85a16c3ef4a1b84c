"""One step means the same, however many processes share it."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from ocsrflow.config.network import Network
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.training.engine import Engine, learning_rate_factor
from ocsrflow.training.process_group import ProcessGroup
from ocsrflow.training.throughput import peak, training_flops
from safetensors.torch import load_file
from support.faults import FULL
from support.needs import need
from support.training import EXACT, TRAINING, lines, run_processes, run_train
from torch.nn.parallel import DistributedDataParallel

SHARED = TRAINING.model_copy(
    update={"encoder_lr": 1e-5, "decoder_lr": 1e-4, "attention_penalty": 1.0, "gradient_clip": 1e-5}
)


def test_two_processes_have_the_losses_gradients_and_weights_of_one(dataset: Path, tmp_path: Path) -> None:
    run_train(dataset, tmp_path / "1", network=EXACT, training=SHARED, threads=2)
    run = run_processes(dataset, tmp_path / "2", EXACT, SHARED)
    assert run.returncode == 0, run.stderr
    one, two = (
        [line.get("loss", line.get("validation_loss")) for line in lines(tmp_path / str(processes))]
        for processes in (1, 2)
    )
    assert len(one) == 4
    assert two == pytest.approx(one, abs=1e-5)
    facts = json.loads((tmp_path / "2" / "model.json").read_text())
    assert (facts["processes"], facts["training_pictures"]) == (2, 36)
    # Adam forgets the scale of gradients: what it remembers of them is compared, and they are clipped in part, so that
    # neither an average over processes instead of their sum nor a clip before the sum would pass.
    first, second = (mean_gradients(tmp_path / name) for name in ("1", "2"))
    clipped = (first.abs() > 0.3 * SHARED.gradient_clip).float().mean()
    assert 0.05 < clipped < 0.95
    assert float((first - second).norm() / first.norm()) < 0.01
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("1", "2"))
    differ = {name: float((first[name] - second[name]).abs().mean()) for name in first}
    assert max(differ.values()) < 0.05 * SHARED.decoder_lr, max(differ, key=differ.__getitem__)


def mean_gradients(folder: Path) -> torch.Tensor:
    """Adam's running means of all gradients, from the newest checkpoint."""
    newest = sorted(folder.glob("checkpoints/*/step-*.pt"))[-1]
    state = torch.load(newest, weights_only=True)["engine"]["optimiser"]["state"]
    return torch.cat([state[number]["exp_avg"].flatten() for number in sorted(state)])


def test_the_mistake_of_two_processes_is_reported_once(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "images.h5").write_bytes((dataset / "images.h5").read_bytes()[:2000])
    run = run_processes(tmp_path, tmp_path / "out", EXACT, SHARED)
    assert run.returncode == 1
    assert run.stderr.count("not a whole packed data set") == 1, run.stderr


def test_the_learning_rate_warms_up_and_falls() -> None:
    training = TRAINING.model_copy(update={"warmup_steps": 4, "schedule": "cosine"})
    factors = [learning_rate_factor(step, 24, training) for step in range(25)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[14] == pytest.approx(0.5)
    assert factors[24] == pytest.approx(0.0)
    constant = training.model_copy(update={"schedule": "constant"})
    assert {learning_rate_factor(step, 24, constant) for step in range(4, 24)} == {1.0}


# Multiply-adds of a 224-pixel picture with the classifier, as torchvision gives them with its weights ("GFLOPS").
@pytest.mark.parametrize(
    ("encoder", "adds"), [("resnet50", 4.089e9), ("resnext101_32x8d", 16.414e9), ("efficientnet_b0", 0.386e9)]
)
def test_operations_are_those_of_the_layers(encoder: str, adds: float) -> None:
    settings = {"encoder": encoder, "pretrained": "none", "frozen_children": 0, "image_size": 224, "grid": 7}
    network = Network(**settings)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    for_picture, for_token = training_flops(network, 256, (3, 300, 300))
    assert torch.equal(state, torch.get_rng_state())
    channels, dim = {"efficientnet_b0": 1280}.get(encoder, 2048), 512
    # Three times the forward pass, but for the first layer's gradient to the picture.
    projection = 49 * channels * dim + channels * 2 * dim
    assert for_picture == pytest.approx(3 * 2 * (adds + projection), rel=0.05)
    recurrent = dim * (dim + channels + 4 * dim) + channels * 4 * dim + dim * 256
    assert for_token == pytest.approx(3 * 2 * recurrent, rel=0.15)
    assert peak(torch.device("cpu")) is None


def test_the_smallest_pictures_are_counted_too() -> None:
    network = Network(encoder="resnet18", pretrained="none", frozen_children=0, image_size=32, grid=1, dim=8)
    assert all(value > 0 for value in training_flops(network, 256, (1, 32, 32)))


def test_batch_statistics_are_not_sent_at_every_step(tmp_path: Path) -> None:
    network = Network(encoder="resnet18", pretrained="none", frozen_children=0, image_size=32, grid=1, dim=8)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        engine = Engine(EncoderDecoder(network, 9), TRAINING, ProcessGroup(0, 2, torch.device("cpu")), steps=1)
        assert isinstance(engine.parallel, DistributedDataParallel)
        assert engine.parallel.broadcast_buffers is False
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX 4000 Ada Generation", None),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA A40-48Q", None),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("Unknown 1", None),
    ],
)
def test_gpus_are_known_by_the_words_of_their_names(
    name: str, teraflops: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak(torch.device("cuda")) == (teraflops and pytest.approx(teraflops * 1e12))


def test_a_compiled_encoder_trains_as_the_plain_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if FULL:
        need("g++")  # it makes C++ of it, for a minute
    else:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for name, compiled in (("plain", False), ("compiled", True)):
        training = TRAINING.model_copy(update={"compile": compiled, "encoder_lr": 1e-4, "decoder_lr": 1e-4})
        run_train(dataset, tmp_path / name, network=EXACT, training=training)
    plain, compiled = ([line["loss"] for line in lines(tmp_path / n) if "loss" in line] for n in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "compiled"))
    assert first.keys() == second.keys()
