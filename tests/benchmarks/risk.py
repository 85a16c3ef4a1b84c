"""Steps of minimum-risk training and of training by cross-entropy, of a trained model: what takes how long.

    python tests/benchmarks/risk.py --model FOLDER [--data images.h5] [--batch 32] [--candidates 5] [--threads 1]

FOLDER holds ``model.json`` and ``weights.safetensors``. Without a ``--data`` set, one is made of NCI molecules, drawn
as the model learnt to read them. Steps of both kinds are interleaved; medians are printed. Seconds are those of the
wall clock and, on a CPU, of this process's processor time, which other work on the machine disturbs less.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.risk import Risk
from ocsrflow.config.training import Training
from ocsrflow.network.batches import Batch, Epochs, Loader, Share
from ocsrflow.network.model import load_model
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.training import risk as phase
from ocsrflow.training.engine import Engine
from ocsrflow.training.process_group import join
from ocsrflow.training.rewards import Rewards
from pictures import make

Clock = dict[str, list[tuple[float, float]]]  # seconds of wall clock and of processor time, by part


def clocked(clock: Clock, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its seconds noted."""

    def noted(*args: Any, **options: Any) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        found = function(*args, **options)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock[name].append((time.perf_counter() - wall, time.process_time() - processor))
        return found

    return noted


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    group = join(options.threads)
    model, facts = load_model(options.model / "model.json", options.model / "weights.safetensors", group.device)
    risk = Risk(batch=options.batch, candidates=options.candidates)
    training = Training(batch=options.batch, decode_length=facts["training"]["decode_length"], decoder_lr=1e-6)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            make(Path(folder), None, 20 * options.batch, Depiction(**facts["depiction"]))
        packed = Packed(options.data or Path(folder) / "images.h5")
        measure(phase.RiskEngine(model, training, risk, group), Engine(model, training, group, 10**6), packed, options)


def measure(risk: phase.RiskEngine, plain: Engine, packed: Packed, options: argparse.Namespace) -> None:
    """Print the table."""
    clock: Clock = defaultdict(list)
    wrapped: list[tuple[Any, str, str]] = [
        (risk.model.encoder, "forward", "encoder, forward"),
        (phase, "search", "beam search"),
        (phase, "log_probabilities", "teacher-forced pass, forward"),
        (risk, "_update", "backward passes and update"),
    ]
    for owner, name, shown in wrapped:
        setattr(owner, name, clocked(clock, shown, getattr(owner, name)))
    epochs = Epochs(packed, packed.members("train"), options.batch, seed=0)
    loader = Loader(packed, epochs.stream(0, 0, 10**6), options.batch, workers=0, pin=False)
    shares = epochs.epoch(0)

    def risk_step(batch: Batch, share: Share, number: int) -> None:
        risk.model.eval()
        risk.step(batch, share, number, rewards)

    def plain_step(batch: Batch, share: Share, number: int) -> None:
        plain.model.train()
        plain.step(batch, share, number)

    ways = {"a step of minimum risk": risk_step, "a step of cross-entropy": plain_step}
    with Rewards(risk.risk.reward, processes=options.threads) as rewards:
        for number, batch in zip(range(options.steps + 2), loader, strict=False):  # two to warm up
            if number == 2:
                clock.clear()
            for name, way in ways.items():
                clocked(clock, name, way)(batch, shares[number % len(shares)], number)
                if name == "a step of cross-entropy":
                    clock["encoder, forward"].pop()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, batch {options.batch}, {options.candidates} candidates and the right text\n")
    print("| part | seconds | processor seconds | images/s | images/s of processor time |\n|---|---|---|---|---|")
    for name in [*(shown for *_, shown in wrapped), *ways]:
        wall, processor = (statistics.median(each) for each in zip(*clock[name], strict=True))
        rates = f"{options.batch / wall:.1f} | {options.batch / processor:.1f}" if name in ways else "– | –"
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {rates} |")


if __name__ == "__main__":
    main()
