"""The stage train: it learns, it goes on where it was, and it says what is wrong."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from ocsrflow.chem.tokenizer import END, START
from ocsrflow.config.augmentation import Augmentation
from ocsrflow.config.reading import Reading
from ocsrflow.network.batches import Batch, Epochs, Loader, Share
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.prediction.predict import predict
from ocsrflow.runtime.errors import UserError
from ocsrflow.training import trainer
from ocsrflow.training.engine import Engine, average
from ocsrflow.training.process_group import ProcessGroup
from safetensors.torch import load_file
from support.data import make_dataset
from support.training import NETWORK, TRAINING, lines, run_train


def test_a_training_writes_weights_description_and_metrics(dataset: Path, finished: Path, tmp_path: Path) -> None:
    facts = json.loads((finished / "model.json").read_text())
    assert facts["training_pictures"] == len(Packed(dataset / "images.h5").members("train"))
    assert facts["training"]["epochs"] == 2
    assert facts["network"]["encoder"] == "shufflenet_v2_x0_5"
    validated = [line for line in lines(finished) if "validation_tanimoto" in line]
    assert [line["epoch"] for line in validated] == [1, 2]
    assert all("loss" in line or "validation_loss" in line for line in lines(finished))
    predict(
        dataset / "images.h5",
        reading=Reading(),
        weights=finished / "weights.safetensors",
        description=finished / "model.json",
        out=tmp_path / "p.parquet",
        facts=tmp_path / "p.json",
        timed_images=2,
    )
    rows = pd.read_parquet(tmp_path / "p.parquet")
    sample = pd.read_parquet(dataset / "sample.parquet").query("split == 'test' and not spare")
    assert rows["cid"].tolist() == sample["cid"].tolist()
    assert rows["reference"].tolist() == sample["smiles"].tolist()
    assert (rows["log_probability"] < 0).all()
    assert json.loads((tmp_path / "p.json").read_text())["seconds_per_image"] > 0


@pytest.mark.usefixtures("drawn_here")
def test_pictures_in_colour_are_learnt_from_and_read(kept: Path, tmp_path: Path) -> None:
    """As by default; the other tests have black and white ones."""
    data = make_dataset(kept, tmp_path / "data", size=40, palette="colour")
    run_train(data, tmp_path, training=TRAINING.model_copy(update={"epochs": 1}))
    packed = Packed(data / "images.h5")
    assert packed.picture(0).shape == (64, 64, 3)
    assert any(np.ptp(packed.picture(at), axis=2).max() > 100 for at in range(len(packed)))  # a coloured label
    predict(
        data / "images.h5", reading=Reading(), weights=tmp_path / "weights.safetensors",
        description=tmp_path / "model.json", out=tmp_path / "p.parquet", facts=tmp_path / "p.json", timed_images=1,
    )  # fmt: skip
    assert pd.read_parquet(tmp_path / "p.parquet")["cid"].tolist() == packed.cid[packed.members("test")].tolist()


def test_it_learns_by_heart_what_it_sees(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"epochs": 60, "validate_every": 60})
    run_train(dataset, tmp_path, training=training, network=NETWORK.model_copy(update={"dropout": 0.0, "dim": 256}))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[0] > 3
    assert losses[-1] < 0.5


def test_a_loss_that_is_no_number_stops_with_step_and_pictures(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Engine.step, [0]

    def spoilt(self: Engine, batch: Batch, share: Share, number: int) -> torch.Tensor:
        calls[0] += 1
        return real(self, batch, share, number) * (float("nan") if calls[0] == 4 else 1.0)

    monkeypatch.setattr(Engine, "step", spoilt)
    with pytest.raises(
        UserError, match=r"the loss is nan at step 4.*Last good checkpoint: .*step-000000002.pt"
    ) as caught:
        run_train(dataset, tmp_path)
    packed = Packed(dataset / "images.h5")
    share = Epochs(packed, packed.members("train"), 16, seed=0).epoch(1)[1]
    assert str(caught.value).endswith(", ".join(str(cid) for cid in packed.cid[share.all_positions]))
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("where", ["step", "validate", "Engine"])
def test_too_little_gpu_memory_says_what_to_lower(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine if where == "step" else trainer, where, full)
    with pytest.raises(UserError, match=r"out of GPU memory with 16 pictures on a GPU.*lower training.batch"):
        run_train(dataset, tmp_path)


def test_weights_that_are_no_numbers_are_neither_saved_nor_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine.step

    def spoils(self: Engine, batch: Batch, share: Share, number: int) -> torch.Tensor:
        loss = real(self, batch, share, number)
        if number == 3:  # the very last step, whose loss is right
            with torch.no_grad():
                self.model.decoder.output.bias[0] = float("inf")
        return loss

    monkeypatch.setattr(Engine, "step", spoils)
    with pytest.raises(UserError, match=r"the weights are no numbers after step 4.*checkpoint: .*step-000000002.pt"):
        run_train(dataset, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()
    (newest,) = tmp_path.glob("checkpoints/*/step-*.pt")
    state = torch.load(newest, weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["engine"]["model"].values())


def test_fewer_pictures_than_a_batch_are_reported(dataset: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"batch": 50})
    with pytest.raises(UserError, match=r"training pictures are less than one batch of 50; draw more"):
        run_train(dataset, tmp_path, training=training)


def test_a_damaged_picture_is_named_and_not_learned_from(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images.h5"
    copy.write_bytes((dataset / "images.h5").read_bytes())
    packed = Packed(copy)
    at = int(packed.members("train")[3])
    with h5py.File(copy) as file:
        where = file["images"].id.get_chunk_info_by_coord((at, 0, 0, 0)).byte_offset
    with open(copy, "r+b") as raw:
        raw.seek(where + 40)
        (byte,) = raw.read(1)
        raw.seek(where + 40)
        raw.write(bytes([byte ^ 1]))
    with pytest.raises(UserError, match=rf"picture {at} \(CID {packed.cid[at]}\) is damaged"):
        run_train(tmp_path, tmp_path)


def test_the_average_of_the_weights_is_what_is_kept(dataset: Path, finished: Path, tmp_path: Path) -> None:
    plain, averaged = finished, tmp_path
    run_train(dataset, averaged, training=TRAINING.model_copy(update={"ema": 0.9}))
    first, second = (load_file(folder / "weights.safetensors") for folder in (plain, averaged))
    assert first.keys() == second.keys()
    assert not torch.equal(first["decoder.output.weight"], second["decoder.output.weight"])
    # Training itself is the same with and without.
    assert [line["loss"] for line in lines(plain) if "loss" in line] == [
        line["loss"] for line in lines(averaged) if "loss" in line
    ]


def test_the_average_is_that_of_the_weights_after_every_step() -> None:
    model = EncoderDecoder(NETWORK, 30)
    engine = Engine(model, TRAINING.model_copy(update={"ema": 0.75}), ProcessGroup(0, 1, torch.device("cpu")), 100)
    assert engine.averaged is not None
    expected = None
    for number, value in enumerate((1.0, 5.0, 2.0)):
        with torch.no_grad():
            model.decoder.output.bias.fill_(value)
        average(engine.averaged, model, 0.75 if number else 0.0)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
        torch.testing.assert_close(engine.averaged.decoder.output.bias, torch.full((30,), expected))
    assert engine.evaluated is engine.averaged


def test_a_training_that_gets_no_better_ends_early(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    monkeypatch.setattr(trainer, "validate", lambda *_: {"loss": 1.0, "tanimoto": next(scores), "validity": 1.0})
    run_train(dataset, tmp_path, training=TRAINING.model_copy(update={"epochs": 9, "patience": 2}))
    facts = json.loads((tmp_path / "model.json").read_text())
    assert (facts["epochs"], facts["best_epoch"], facts["validation_tanimoto"]) == (4, 2, 0.3)


def test_augmented_pictures_are_other_ones(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run_train(dataset, tmp_path, training=TRAINING.model_copy(update={"augmentation": Augmentation(rotation=20)}))
    plain, augmented = ([line["loss"] for line in lines(each) if "loss" in line] for each in (finished, tmp_path))
    assert plain != augmented


def test_imagenet_weights_are_asked_for(dataset: Path, tmp_path: Path) -> None:
    network = NETWORK.model_copy(update={"pretrained": "imagenet"})
    with pytest.raises(UserError, match="--weights"):
        run_train(dataset, tmp_path, network=network)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="no PyTorch weights file"):
        run_train(dataset, tmp_path, network=network, weights=tmp_path / "bad.pth")


def test_two_processes_share_every_batch(dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    members = packed.members("train")
    whole = Epochs(packed, members, 16, seed=3).epoch(2)
    parts = [Epochs(packed, members, 16, seed=3, rank=rank, world_size=2).epoch(2) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted([*first.positions, *second.positions]) == sorted(batch.positions)
        assert first.pictures == second.pictures == batch.pictures == 16
        assert first.tokens == second.tokens == sum(len(packed.tokens_of(at)) + 1 for at in batch.positions)
    seen = [at for batch in whole for at in batch.positions]
    assert len(seen) == len(set(seen)) == len(members) // 16 * 16
    assert set(seen) <= set(members)
    other = Epochs(packed, members, 16, seed=3).epoch(3)
    assert [list(b.positions) for b in other] != [list(b.positions) for b in whole]


def test_a_stream_begins_anywhere_and_goes_over_all_epochs(dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    epochs = Epochs(packed, packed.members("train"), 16, seed=3)
    everything = [b.positions.tolist() for number in range(4) for b in epochs.epoch(number)]
    assert [at.tolist() for at in epochs.stream(1, 1, 4)] == everything[len(epochs) + 1 :]


def test_a_batch_is_sorted_and_its_targets_follow_its_tokens(dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    (batch,) = Loader(packed, [packed.members("train")[:9]], 9, workers=0, pin=False)
    lengths = [len(packed.tokens_of(at)) for at in batch.positions]
    assert lengths == sorted(lengths, reverse=True)
    assert batch.steps == [sum(n + 1 > t for n in lengths) for t in range(max(lengths) + 1)]
    assert (batch.tokens[:, 0] == START).all()
    targets = iter(batch.targets.tolist())
    for t, n in enumerate(batch.steps):
        for row in range(n):
            text = [*packed.tokens_of(batch.positions[row]).tolist(), END]
            assert next(targets) == text[t]
