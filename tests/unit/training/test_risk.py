"""Minimum-risk training: its loss, its candidates, their rewards, and the phase that ends a training."""

import json
import math
import shutil
import signal
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from ocsrflow.chem.tokenizer import encode
from ocsrflow.config.network import Network
from ocsrflow.config.risk import Risk
from ocsrflow.config.training import Training
from ocsrflow.network.batches import Epochs, Loader
from ocsrflow.network.beam_search import Candidate, likelihood
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.isolated import attempts
from ocsrflow.training import rewards as rewards_module
from ocsrflow.training import trainer
from ocsrflow.training.process_group import ProcessGroup
from ocsrflow.training.rewards import Rewards, reward
from ocsrflow.training.risk import RiskEngine, distinct, expected_error, log_probabilities
from safetensors.torch import load_file
from support.attempts import Attempts
from support.data import TINY
from support.training import (
    EXACT,
    NETWORK,
    RISK,
    TRAINING,
    WITH_RISK,
    lines,
    newest,
    run_processes,
    run_train,
    without_times,
)

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def test_the_risk_of_two_candidates_is_that_worked_out_by_hand() -> None:
    # p = 0.3 and 0.1, so Q = 3/4 and 1/4; the second picture has one candidate only.
    logs = torch.tensor([[math.log(0.3), math.log(0.1)], [math.log(0.2), -math.inf]])
    rewards = torch.tensor([[1.0, 0.2], [0.6, 0.0]])
    torch.testing.assert_close(expected_error(logs, rewards, 1.0), torch.tensor([0.25 * 0.8, 0.4]))
    # Squared, Q = 9/10 and 1/10.
    torch.testing.assert_close(expected_error(logs, rewards, 2.0), torch.tensor([0.1 * 0.8, 0.4]))


def test_the_better_candidate_becomes_likelier() -> None:
    logs = torch.tensor([[-1.0, -2.0, -3.0, -math.inf]], requires_grad=True)
    rewards = torch.tensor([[0.2, 1.0, 0.1, 0.0]])
    expected_error(logs, rewards, 1.0).sum().backward()
    assert logs.grad is not None
    falls = logs.grad[0]
    assert falls[1] < 0 < falls[0]
    assert falls[2] > 0
    assert falls[3] == 0  # none there
    assert float(falls.sum()) == pytest.approx(0, abs=1e-6)
    # d risk / d log p(y) = Q(y) · (1 - r(y) - risk)
    q = torch.tensor([-1.0, -2.0, -3.0]).softmax(0)
    error = 1 - rewards[0, :3]
    torch.testing.assert_close(falls[:3], q * (error - (q * error).sum()))


def test_candidates_are_the_right_text_and_each_other_text_once() -> None:
    found = [Candidate(encode(text).tolist(), -1.0, []) for text in ("CCO", "CCN", "CCO")]
    assert list(distinct(encode("CCC").tolist(), found)) == ["CCC", "CCO", "CCN"]
    assert list(distinct(encode("CCN").tolist(), found)) == ["CCN", "CCO"]


def test_log_probabilities_are_those_of_the_search_and_have_gradients(one_thread: None) -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(NETWORK, 258).eval()
    features = model.encoder(torch.randint(0, 255, (3, 1, 64, 64), dtype=torch.uint8))
    texts = [[encode(text).tolist() for text in own] for own in (("CCO", "c1ccccc1"), ("N",), ("CC", "CCCC(=O)O", "O"))]
    found = log_probabilities(model.decoder, features, texts)
    for row, own in zip(found.tolist(), likelihood(model.decoder, features.detach(), texts), strict=True):
        assert row[: len(own)] == pytest.approx(own, abs=1e-4)
        assert row[len(own) :] == [-math.inf] * (3 - len(own))
    (-found[2, 1]).backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)
    assert all(float(part.weight.grad.abs().sum()) > 0 for part in (model.decoder.output, model.decoder.picture_score))
    first = next(model.encoder.parameters()).grad
    assert first is not None
    assert float(first.abs().sum()) > 0


def test_several_texts_of_a_picture_have_the_gradients_of_a_picture_for_each(one_thread: None) -> None:
    torch.manual_seed(1)
    model = EncoderDecoder(NETWORK, 258).eval()
    features = torch.randn(2, 16, model.encoder.channels)
    texts = [[encode(text).tolist() for text in ("CCO", "CCN(C)C")], [encode("CO").tolist()]]
    weights = torch.tensor([1.0, 2.0, 3.0])
    once, each = features.clone().requires_grad_(), features.clone().requires_grad_()
    found = log_probabilities(model.decoder, once, texts)
    (found[found.isfinite()] * weights).sum().backward()
    repeated = log_probabilities(model.decoder, each[[0, 0, 1]], [[text] for own in texts for text in own])
    (repeated[:, 0] * weights).sum().backward()
    torch.testing.assert_close(once.grad, each.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "text", "right", "expected"),
    [
        ("tanimoto", "OCC", "CCO", 1.0),
        ("tanimoto", "C", "C", 1.0),  # whose fingerprint is empty
        ("tanimoto", "C[Na", "C", 0.0),
        ("tanimoto", "c1ccccc", "c1ccccc1", 0.0),
        ("tanimoto", "", "C", 0.0),
        ("exact", "OCC", "CCO", 1.0),
        ("exact", "CCCO", "CCO", 0.0),
        ("exact", "c1ccccc", "c1ccccc1", 0.0),
    ],
)
def test_rewards_are_the_scores_definitions(kind: Any, text: str, right: str, expected: float) -> None:
    assert reward(kind, (text, right)) == expected


def test_a_reward_between_is_the_similarity_of_the_fingerprints() -> None:
    assert 0 < reward("tanimoto", ("CCCO", "CCO")) < 1


def test_rewards_come_in_order_from_other_processes() -> None:
    texts = ["CCO", "c1ccccc", "OCC"] * 20
    with Rewards("exact", processes=2) as rewards:
        assert list(rewards.schedule([(text, "CCO") for text in texts])) == [1.0, 0.0, 1.0] * 20
        assert list(rewards.schedule([("C", "C")])) == [1.0]


def slow(pair: tuple[str, str]) -> float:
    """Stands in for a text that holds RDKit up."""
    if pair[0] == "slow":
        time.sleep(600)
    return 1.0


def test_a_text_that_holds_rdkit_up_is_worth_nothing_and_the_others_keep_their_rewards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rewards_module, "partial", lambda *_: Slow())
    with Rewards("tanimoto", seconds=1.0) as rewards:
        assert list(rewards.schedule([("C", "C"), ("slow", "C"), ("N", "N")])) == [1.0, 0.0, 1.0]
        assert list(rewards.schedule([("C", "C")])) == [1.0]
    assert "counts as worth nothing, not done in 1 s: slow" in capsys.readouterr().err


class Slow:
    def __call__(self, pairs: list[tuple[str, str]]) -> list[Any]:
        return attempts(slow, pairs)


def engine_and_data(
    dataset: Path, risk: Risk = RISK, network: Network = NETWORK
) -> tuple[RiskEngine, Loader, list[Any]]:
    packed = Packed(dataset / "images.h5")
    torch.manual_seed(0)
    model = EncoderDecoder(network, len(packed.vocabulary))
    epochs = Epochs(packed, packed.members("train"), risk.batch, seed=0)
    loader = Loader(packed, epochs.stream(0, 0, 1), risk.batch, workers=0, pin=False)
    return RiskEngine(model, TRAINING, risk, ALONE), loader, epochs.epoch(0)


def test_a_step_fixes_batch_statistics_and_moves_encoder_and_decoder(dataset: Path, one_thread: None) -> None:
    engine, loader, shares = engine_and_data(dataset)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    with Rewards("tanimoto") as rewards:
        found = engine.step(next(iter(loader)), shares[0], 0, rewards)
    after = engine.model.state_dict()
    statistics = [name for name in before if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"encoder", "decoder"}
    risk, entropy, best = found.tolist()
    assert 0 <= risk <= 1
    assert entropy > 0
    assert 0 <= best <= 1


def test_a_network_that_has_learnt_something_lowers_its_expected_error(
    dataset: Path, tmp_path: Path, one_thread: None
) -> None:
    network = TINY.model_copy(update={"dropout": 0.0, "dim": 128})
    training = TRAINING.model_copy(update={"epochs": 40, "validate_every": 40})
    run_train(dataset, tmp_path, network=network, training=training)
    # Without the cross-entropy, which alone would make the right texts likelier.
    risk = RISK.model_copy(update={"steps": 1000, "lr": 3e-4, "cross_entropy_weight": 0.0})
    engine, loader, shares = engine_and_data(dataset, risk, network)
    engine.load({**engine.state(), "model": load_file(tmp_path / "weights.safetensors")})
    batch = next(iter(loader))
    with Rewards("tanimoto") as rewards:
        found = [engine.step(batch, shares[0], number, rewards).tolist() for number in range(40)]
    risks, _, best = zip(*found, strict=True)
    assert fmean(risks[-5:]) < 0.75 * risks[0]
    assert fmean(best[-5:]) > best[0] + 0.1


def test_the_learning_rate_falls_linearly_to_a_twentieth(dataset: Path) -> None:
    engine, *_ = engine_and_data(dataset, RISK.model_copy(update={"steps": 4, "lr": 0.2}))
    rates = []
    for _ in range(5):
        rates.append(engine.optimiser.param_groups[0]["lr"])
        engine.optimiser.step()
        engine.schedule.step()
    assert rates == pytest.approx([0.2, 0.1525, 0.105, 0.0575, 0.01])


def test_it_begins_with_the_best_weights_and_keeps_what_is_better(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.7])  # two epochs, then two validations in the phase
    kept: list[dict[str, torch.Tensor]] = []

    def validated(model: EncoderDecoder, *_: object) -> dict[str, float]:
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"loss": 1.0, "tanimoto": next(scores), "validity": 1.0}

    first: list[dict[str, torch.Tensor]] = []
    real = RiskEngine.__init__

    def begun(self: RiskEngine, model: EncoderDecoder, *words: Any) -> None:
        first.append({name: value.clone() for name, value in model.state_dict().items()})
        real(self, model, *words)

    monkeypatch.setattr(trainer, "validate", validated)
    monkeypatch.setattr(RiskEngine, "__init__", begun)
    run_train(dataset, tmp_path, training=WITH_RISK.model_copy(update={"epochs": 2}))
    assert all(torch.equal(first[0][name], kept[0][name]) for name in kept[0])
    written = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(written[name], kept[3][name]) for name in written)
    facts = json.loads((tmp_path / "model.json").read_text())
    assert (facts["best_phase"], facts["validation_tanimoto"]) == ("minimum_risk", 0.7)


def test_a_parents_weights_can_go_through_the_phase_alone(dataset: Path, finished: Path, tmp_path: Path) -> None:
    network = NETWORK.model_copy(update={"pretrained": str(finished)})
    run_train(dataset, tmp_path / "child", network=network, training=WITH_RISK.model_copy(update={"epochs": 0}))
    found = lines(tmp_path / "child")
    before, *after = [line for line in found if "validation_tanimoto" in line]
    parents = [line["validation_loss"] for line in lines(finished) if "validation_loss" in line]
    assert before["validation_loss"] in [pytest.approx(loss, abs=1e-4) for loss in parents]
    assert (before["step"], before["epoch"], [line["step"] for line in after]) == (0, 0, [4, 6])
    facts = json.loads((tmp_path / "child" / "model.json").read_text())
    assert (facts["epochs"], facts["parent"]["name"]) == (0, "tiny")


def test_a_parents_weights_can_stay_as_they_are(dataset: Path, finished: Path, tmp_path: Path) -> None:
    network = NETWORK.model_copy(update={"pretrained": str(finished)})
    run_train(dataset, tmp_path / "copy", network=network, training=TRAINING.model_copy(update={"epochs": 0}))
    (only,) = lines(tmp_path / "copy")
    facts = json.loads((tmp_path / "copy" / "model.json").read_text())
    assert (facts["epochs"], facts["best_epoch"], facts["validation_tanimoto"]) == (0, 0, only["validation_tanimoto"])
    theirs, own = (load_file(folder / "weights.safetensors") for folder in (finished, tmp_path / "copy"))
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(attempts: Attempts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert attempts.run(folder, "WITH_RISK", 0.0) == 0
    return folder


def test_the_phase_follows_in_the_same_training(whole: Path) -> None:
    found = lines(whole)
    phases = [line["phase"] for line in found]
    assert phases == sorted(phases)  # cross_entropy, then minimum_risk
    risk = [line for line in found if line["phase"] == "minimum_risk"]
    assert [line["step"] for line in risk if "validation_tanimoto" in line] == [2 + 4, 2 + 6]
    (line,) = [line for line in risk if "risk" in line]
    assert line["step"] == 8
    assert 0 < line["risk"] < 1
    assert line["cross_entropy"] > 0
    assert 0 <= line["reward"] <= 1
    assert line["images_per_second"] > 0
    facts = json.loads((whole / "model.json").read_text())
    scores = [line["validation_tanimoto"] for line in found if "validation_tanimoto" in line]
    assert facts["validation_tanimoto"] == pytest.approx(max(scores), abs=1e-6)
    assert facts["best_phase"] in phases
    assert facts["training"]["risk"]["steps"] == 6
    assert facts["risk_speed"]["images_per_second"] > 0


# The third validation is that after the last step.
@pytest.mark.parametrize(
    ("where", "number", "saved"),
    [("risk step", "SIGTERM", 5), ("risk step", "SIGKILL", 4), ("validation", "SIGINT", 8)],
)
def test_a_stop_or_a_kill_in_the_phase_goes_on_there_to_the_same_weights(
    attempts: Attempts, whole: Path, tmp_path: Path, where: str, number: str, saved: int
) -> None:
    folder, sent = tmp_path / "stopped", signal.Signals[number]
    status = attempts.run(folder, "WITH_RISK", 0.0, (where, 3, number))
    assert status == (-sent if number == "SIGKILL" else 128 + sent), attempts.said
    assert "Traceback" not in attempts.said
    assert newest(folder) == saved
    assert attempts.run(folder, "WITH_RISK", 0.0) == 0
    assert "going on from" in attempts.said
    first, second = (load_file(each / "weights.safetensors") for each in (folder, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert without_times(folder) == without_times(whole)


def test_a_finished_phase_writes_its_files_again_without_a_step(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(whole, tmp_path / "again")
    (folder / "weights.safetensors").unlink()
    monkeypatch.setattr(RiskEngine, "step", None)
    run_train(dataset, folder, training=WITH_RISK)
    assert (folder / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_two_processes_have_the_phase_of_one(dataset: Path, tmp_path: Path) -> None:
    # Without batch statistics and dropout, as where the training by cross-entropy is compared.
    training = WITH_RISK.model_copy(update={"encoder_lr": 1e-5, "decoder_lr": 1e-4})
    run_train(dataset, tmp_path / "1", network=EXACT, training=training, threads=2)
    run = run_processes(dataset, tmp_path / "2", EXACT, training)
    assert run.returncode == 0, run.stderr
    keys = ("loss", "validation_loss", "risk", "cross_entropy", "reward")
    one, two = ([[line.get(k) for k in keys] for line in lines(tmp_path / str(n))] for n in (1, 2))
    flat = [[value for line in each for value in line if value is not None] for each in (one, two)]
    assert len(flat[0]) == 1 + 1 + 2 + 3
    assert flat[1] == pytest.approx(flat[0], abs=1e-4)
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("1", "2"))
    # Adam moves a weight by up to the learning rate whichever way the rounding of a tiny gradient points.
    differ = max(float((first[name] - second[name]).abs().mean()) for name in first)
    assert differ < 0.01 * RISK.lr


def test_a_batch_that_is_too_large_is_found_at_the_beginning(dataset: Path, tmp_path: Path) -> None:
    training = WITH_RISK.model_copy(update={"risk": RISK.model_copy(update={"batch": 50})})
    with pytest.raises(UserError, match=r"less than one batch of 50; draw more molecules or lower training.risk.batch"):
        run_train(dataset, tmp_path, training=training)
    assert not list(tmp_path.glob("checkpoints/*/step-*.pt"))


def test_the_phase_is_part_of_the_trainings_key(dataset: Path, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "others")
    run_train(dataset, folder, training=WITH_RISK.model_copy(update={"risk": RISK.model_copy(update={"alpha": 0.5})}))
    run_train(dataset, folder, training=WITH_RISK.model_copy(update={"risk": None}))
    assert len(list((folder / "checkpoints").iterdir())) == 3


def test_the_defaults_are_off_and_those_of_the_trial() -> None:
    assert Training().risk is None
    risk = Training(**{"risk": {}}).risk
    assert risk is not None
    found = (risk.steps, risk.batch, risk.candidates, risk.reward, risk.alpha, risk.cross_entropy_weight, risk.lr)
    assert found == (660, 32, 5, "tanimoto", 1.0, 0.3, 1e-4)
