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
LONGEST_STEP = 240.0  # seconds after which a process that was told to stop and cannot ends without a word
OTHERS = 40.0  # seconds that the other processes leave to the one that tells what went wrong


def status(number: int) -> int:
    """Exit status of a process that was stopped by a signal; SLURM's early warning is taken for SIGTERM."""
    return 128 + (signal.SIGTERM if number == signal.SIGUSR1 else number)


class Stopped(Exception):
    """The training was told to stop by a signal; raised by all processes at the same step."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = status(number)


@dataclass
class ProcessGroup:
    """One process among those of a training."""

    rank: int
    world: int
    device: torch.device
    # Small messages between the processes go by the hosts: one sent by the GPUs would make each step wait for them.
    messages: dist.ProcessGroup | None = None
    told: int = 0  # the signal that this process got
    _told: threading.Event = field(default_factory=threading.Event)
    _before: dict[int, Any] = field(default_factory=dict)  # signal handlers

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    @property
    def cuda(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = number
        self._told.set()

    def _give_up(self) -> None:
        # Another process may be gone, and this one wait for its answer for ever.
        self._told.wait()
        time.sleep(LONGEST_STEP)
        if self.told:
            os._exit(status(self.told))

    def check_stop(self, due: bool = False) -> bool:
        """To be called by all processes at the same point: whether the first one finds something due.

        Raises
        ------
        Stopped
            In all of them, when one of them was told to stop.
        """
        told, answer = self.told, due
        if self.messages is not None:
            message = torch.tensor([told, int(due and self.first)])
            dist.all_reduce(message, dist.ReduceOp.MAX, group=self.messages)
            told, answer = int(message[0]), bool(message[1])
        if told:
            self.told = 0  # a step boundary was reached: what follows, saving, may take its time
            for stop in STOPS:  # torchrun repeats them, and a terminal sends its own
                signal.signal(stop, signal.SIG_IGN)
            raise Stopped(told)
        return answer

    @contextmanager
    def together(self) -> Iterator[None]:
        """From here to the end of the block the processes act as one.

        A signal to stop is only noted, until :meth:`check_stop` is called. What goes wrong is reported once, by the
        process that knows what it was: all of them find the same mistake, or one finds it and the others lose their
        connection; torchrun stops the others when the first one has ended.
        """
        threading.Thread(target=self._give_up, daemon=True).start()
        for stop in STOPS:
            self._before[stop] = signal.signal(stop, self._note)
        try:
            yield
        except UserError:
            if not self.first and self._told_within(OTHERS):
                sys.exit(1)
            raise
        except RuntimeError:
            # Without the others, or the processes that read pictures, it cannot go on to the next step and save.
            if self.told or (self.world > 1 and self._told_within(3.0)):
                sys.exit(status(self.told))
            raise
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if dist.is_initialized():  # after an error the others may not answer any more
            dist.destroy_process_group()

    def _told_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self.told and time.monotonic() < until:
            time.sleep(0.05)
        return bool(self.told)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, by the devices."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, value: Any) -> list[Any]:
        """What each process brings, in the order of ranks."""
        found: list[Any] = [value] * self.world
        if self.messages is not None:
            dist.all_gather_object(found, value, group=self.messages)
        return found

    def broadcast(self, value: Any) -> Any:
        """What the first process brings."""
        found = [value]
        if self.messages is not None:
            dist.broadcast_object_list(found, 0, group=self.messages)
        return found[0]

    def align(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: each has averaged the statistics of the pictures it saw last."""
        if self.world > 1:
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
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
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
        torch.set_num_threads(max(1, threads // world))
    if world == 1:
        return ProcessGroup(rank, world, device)
    # In the launcher's own folder, which nobody else may enter: PyTorch's usual store listens on all interfaces.
    path = os.environ.get(STORE)
    store = dist.FileStore(path, world) if path else None  # type: ignore[attr-defined]  # though documented
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world)
    return ProcessGroup(rank, world, device, dist.new_group(backend="gloo"))
