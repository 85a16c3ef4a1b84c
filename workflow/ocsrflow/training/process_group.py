"""The processes that share a training: torchrun starts one for each GPU, and they act as one."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..runtime.errors import UserError
from ..runtime.gpu_lease import MADE_UP, STORE, WAYS, die_with_parent, outdated, unusable

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)  # the last is SLURM's early warning
LONGEST_STEP = 240.0  # seconds after which a process that a signal has reached, and that is stuck in a step, ends
REPORT_SECONDS = 40.0  # that the other processes leave to the first one to report what went wrong


def status(number: int) -> int:
    """Exit status of a process that was stopped by a signal; SLURM's early warning is taken for SIGTERM."""
    return 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)


class Stopped(Exception):
    """A signal asked the training to stop; raised by all processes at the same step."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = status(number)


@dataclass
class ProcessGroup:
    """One process among those of a training."""

    rank: int
    world_size: int
    device: torch.device
    # Small messages between the processes go by the hosts: one sent by the GPUs would make each step wait for them.
    cpu_group: dist.ProcessGroup | None = None
    stop_signal: int = 0  # the signal that this process got
    _signalled: threading.Event = field(default_factory=threading.Event)
    _handlers_before: dict[int, Any] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    @property
    def cuda(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = number
        self._signalled.set()

    def _exit_when_stuck(self) -> None:
        # Another process may be gone, and this one wait for its answer for ever.
        self._signalled.wait()
        time.sleep(LONGEST_STEP)
        if self.stop_signal:
            os._exit(status(self.stop_signal))

    def check_stop(self, due: bool = False) -> bool:
        """To be called by all processes at the same point: whether the first one finds something due.

        Raises
        ------
        Stopped
            In all of them, when one of them got a signal to stop.
        """
        stop_signal = self.stop_signal
        if self.cpu_group is not None:
            message = torch.tensor([stop_signal, int(due and self.is_main)])
            dist.all_reduce(message, dist.ReduceOp.MAX, group=self.cpu_group)
            stop_signal, due = int(message[0]), bool(message[1])
        if stop_signal:
            self.stop_signal = 0  # a step boundary was reached: what follows, saving, may take its time
            for stop in STOPS:  # torchrun repeats them, and a terminal sends its own
                signal.signal(stop, signal.SIG_IGN)
            raise Stopped(stop_signal)
        return due

    @contextmanager
    def active(self) -> Iterator[None]:
        """From here to the end of the block the processes act as one.

        A signal to stop is only noted, until :meth:`check_stop` is called. What goes wrong is reported once, by the
        process that knows what it was: all of them find the same mistake, or one finds it and the others lose their
        connection; torchrun stops the others when the first one has ended.
        """
        threading.Thread(target=self._exit_when_stuck, daemon=True).start()
        for stop in STOPS:
            self._handlers_before[stop] = signal.signal(stop, self._note_signal)
        try:
            yield
        except UserError:
            if not self.is_main and self._stopped_within(REPORT_SECONDS):
                sys.exit(1)
            raise
        except RuntimeError:
            # Without the others, or the processes that read pictures, it cannot go on to the next step and save.
            if self.stop_signal or (self.world_size > 1 and self._stopped_within(3.0)):
                sys.exit(status(self.stop_signal))
            raise
        finally:
            for number, handler in self._handlers_before.items():
                signal.signal(number, handler)
        if dist.is_initialized():  # after an error the others may not answer any more
            dist.destroy_process_group()

    def _stopped_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self.stop_signal and time.monotonic() < until:
            time.sleep(0.05)
        return bool(self.stop_signal)

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over the processes, by the devices."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of ranks."""
        found: list[Any] = [value] * self.world_size
        if self.cpu_group is not None:
            dist.all_gather_object(found, value, group=self.cpu_group)
        return found

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        found = [value]
        if self.cpu_group is not None:
            dist.broadcast_object_list(found, 0, group=self.cpu_group)
        return found[0]

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has averaged the statistics of the pictures it saw last."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def join(threads: int) -> ProcessGroup:
    """Join the other processes that torchrun started, if any, and take this one's device.

    Parameters
    ----------
    threads
        Threads of all processes together, where they compute on the CPU.

    Raises
    ------
    UserError
        Where ``CUDA_VISIBLE_DEVICES`` gives it GPUs, and PyTorch cannot use them.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    die_with_parent()  # else the GPU would be used on after the launcher's lease of it ended
    cuda = torch.cuda.is_available()
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not os.environ.get(MADE_UP) and (cause := unusable() or outdated()):
        raise UserError(f"{cause}; {WAYS}")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, threads // world_size))
    if world_size == 1:
        return ProcessGroup(rank, world_size, device)
    # In the launcher's own folder, which nobody else may enter: PyTorch's usual store listens on all interfaces.
    path = os.environ.get(STORE)
    store = dist.FileStore(path, world_size) if path else None  # type: ignore[attr-defined]  # though documented
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world_size)
    return ProcessGroup(rank, world_size, device, dist.new_group(backend="gloo"))
