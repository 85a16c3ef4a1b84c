"""The training loop: epochs by cross-entropy, then steps of minimum risk where the configuration asks for them."""

import math
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import chain, count, islice

from ..config.risk import Risk
from ..network.batches import Share
from ..runtime.progress import progress
from .engine import Engine, enough_memory
from .process_group import Stopped
from .rewards import Rewards
from .risk import RiskEngine
from .throughput import Meter
from .trainer import CROSS_ENTROPY, MINIMUM_RISK, Trainer

LOG_STEPS = 20  # steps between two lines of metrics


def run(trainer: Trainer) -> None:
    """Train to the end, or save a checkpoint and leave the process when a signal says so.

    Raises
    ------
    TrainingFailed
        When the loss is not a number, or the GPU's memory is too small.
    """
    state, risk = trainer.state, trainer.training.risk
    try:
        try:
            if state.phase == CROSS_ENTROPY:
                train_epochs(trainer)
            complete = trainer.until == trainer.training.epochs
            if complete and not trainer.best:  # no epoch: a parent's weights as they are
                trainer.validate()
            if complete and risk is not None and state.risk_validated < risk.steps:
                minimise_risk(trainer, risk)
        except Stopped as stopped:
            trainer.save()
            trainer.group.broadcast(None)  # torchrun ends the others when one has left: not before the first has saved
            trainer.training_log.close("KILLED", patience=5.0)
            if trainer.group.is_main:
                what = f"{stopped} at step {state.steps}; saved, the same command goes on from here"
                with suppress(BrokenPipeError):
                    print(f"{trainer.name}: {what}", flush=True)
            sys.exit(stopped.status)
    except Exception:
        trainer.training_log.close("FAILED", patience=5.0)
        raise


def train_epochs(trainer: Trainer) -> None:
    """Epoch after epoch of cross-entropy, to ``trainer.until`` or until validations get no better.

    Raises
    ------
    Stopped
        At a step boundary, when a process got a signal to stop; the state is right for a checkpoint.
    """
    state, training, group, epochs = trainer.state, trainer.training, trainer.group, trainer.epochs
    engine = trainer.engine
    assert isinstance(engine, Engine)
    # One stream over all epochs: readers start once, and read on during a validation.
    loader = trainer.loader(epochs.stream(state.epoch, state.step, trainer.until), training.batch)
    bar = progress(total=trainer.steps, initial=state.steps, what=trainer.name, unit="steps", shown=group.is_main)
    with closing(iter(loader)) as stream, bar:
        while state.epoch < trainer.until and state.stale < (training.patience or math.inf):
            trainer.model.train()
            meter = Meter(trainer.flops, trainer.peak, group)
            for share in islice(epochs.epoch(state.epoch), state.step, None):
                batch = meter.next_batch(stream, share)
                trainer.pending.append((share, engine.step(batch, share, state.steps)))
                state.step, state.steps = state.step + 1, state.steps + 1
                if state.steps % LOG_STEPS == 0 or state.step == len(epochs):
                    values = trainer.mean_losses("loss") | meter.read()
                    trainer.log(values)
                    shown = f"epoch {state.epoch + 1}/{training.epochs}, loss {values['loss']:.3f}"
                    bar.set_postfix_str(f"{shown}, {values['images_per_second']:.0f} images/s", refresh=False)
                # Before anything is shown: who stops this process may have closed its terminal too.
                if trainer.save_if_due():
                    meter.restart()
                bar.update()
            done = state.epoch + 1
            validation_due = done % training.validate_every == 0 or done == training.epochs
            if validation_due:
                trainer.validate()
            state.epoch, state.step = done, 0
            if validation_due or done == trainer.until:
                trainer.save()


def minimise_risk(trainer: Trainer, risk: Risk) -> None:
    """The phase of minimum risk, from the weights that were best in validations, or from a parent's.

    Raises
    ------
    Stopped
        As :func:`train_epochs`.
    """
    state, training, group, epochs = trainer.state, trainer.training, trainer.group, trainer.risk_epochs
    if state.phase == CROSS_ENTROPY:
        state.phase = MINIMUM_RISK
        trainer.model.load_state_dict(trainer.best)
        trainer.engine = RiskEngine(trainer.model, training, risk, group)
    engine, done = trainer.engine, state.risk_steps
    assert isinstance(engine, RiskEngine)
    # Epochs are numbered on from those of the cross-entropy, so that each has another order.
    epoch, step = divmod(done, len(epochs))

    def shares() -> Iterator[Share]:
        following = chain.from_iterable(map(epochs.epoch, count(training.epochs + epoch)))
        return islice(following, step, step + risk.steps - done)

    loader = trainer.loader((share.positions for share in shares()), risk.batch, "training.risk.batch")
    what = f"{trainer.name}, minimum risk"
    bar = progress(total=risk.steps, initial=done, what=what, unit="steps", shown=group.is_main)
    memory = enough_memory(training, group, batch=risk.batch, setting="training.risk.batch or candidates")
    rewards = Rewards(risk.reward, processes=trainer.workers)
    with memory, rewards, closing(iter(loader)) as stream, bar:
        validate_if_due(trainer, risk)  # where it was stopped in a validation
        meter = Meter(trainer.flops, None, group)
        for share in shares():
            batch = meter.next_batch(stream, share)
            trainer.pending.append((share, engine.step(batch, share, state.steps, rewards)))
            state.risk_steps, state.steps = state.risk_steps + 1, state.steps + 1
            if state.risk_steps % LOG_STEPS == 0 or state.risk_steps == risk.steps:
                values = trainer.mean_losses("risk", "cross_entropy", "reward") | meter.read()
                del values["teraflops"]  # those of the candidates are not counted
                trainer.log(values)
                shown = f"risk {values['risk']:.3f}, {values['images_per_second']:.1f} images/s"
                bar.set_postfix_str(shown, refresh=False)
            if trainer.save_if_due():
                meter.restart()
            bar.update()
            if validate_if_due(trainer, risk):
                meter.restart()


def validate_if_due(trainer: Trainer, risk: Risk) -> bool:
    """Whether a validation was due in the phase of minimum risk; it is done and a checkpoint saved."""
    state = trainer.state
    due = state.risk_steps % risk.validate_every == 0 or state.risk_steps == risk.steps
    if not due or state.risk_validated == state.risk_steps:
        return False
    trainer.validate()
    state.risk_validated = state.risk_steps
    trainer.save()
    return True
