"""Start a training through torchrun: lease the GPUs, one process each; or processes on the CPU."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..runtime.errors import TrainingFailed, UserError
from ..runtime.gpu_lease import MADE_UP, PARENT, STORE, WAYS, take, unusable

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

GRACE = 300  # seconds that stopped processes have to save a checkpoint before torchrun kills them
PROGRAM = ("-m", "ocsrflow")  # what each process runs, with a command behind it
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LOOPBACK = "lo"  # the network interface that leads nowhere else
STOPPED = 128 + signal.SIGTERM  # exit status of a process that saved and left


def launch(*command: str, gpus: int, granted: int | None = None, processes: int | None = None) -> NoReturn:
    """Run a command in several processes under torchrun, and leave with its exit status.

    The processes' own words stay the only ones: a stage tells in one line what went wrong, and torchrun's report of
    the same failure, a page of traceback, is left out.

    Example: ``ocsrflow launch --gpus 2 -- train images.h5 --name one ...``

    Parameters
    ----------
    command
        A command of ``ocsrflow`` with its own options, behind ``--``.
    gpus
        GPUs that the model asks for, which are leased, one process each; 0 is the CPU.
    granted
        GPUs that Snakemake granted.
    processes
        Processes on the CPU, by default one.

    Raises
    ------
    UserError
        When Snakemake granted fewer GPUs than are asked for, they cannot be used here, or a process was killed:
        ``TrainingFailed`` where it may have been out of memory.
    """
    if gpus and processes not in (None, gpus):
        raise UserError(f"{processes} processes for {gpus} GPUs: a GPU takes one process, leave processes out")
    on_stop(_stop)
    _import_torch()
    lease = take(gpus, granted)
    os.environ[PARENT] = str(os.getpid())
    try:
        if lease is not None and not os.environ.get(MADE_UP) and (cause := unusable()):
            raise UserError(f"{cause}; {WAYS}")
        sys.exit(_torchrun(gpus or processes or 1, command))
    finally:
        if lease is not None:
            lease.release()


def on_stop(handler: Callable[[int, object], object]) -> None:
    """Call ``handler`` for every signal that stops a training."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, handler)


def _stop(number: int, _: object) -> NoReturn:
    """Leave, which has torchrun's agent send its workers SIGTERM and wait for them."""
    for other in STOPS:  # a second one must not cut the wait short; SIGQUIT does
        signal.signal(other, signal.SIG_IGN)
    sys.exit(STOPPED if number == signal.SIGUSR1 else 128 + number)  # SLURM warns by SIGUSR1


def _import_torch() -> None:
    # Not at the top: it takes seconds. A signal waits for its end, since some modules cannot bear to be left half-way.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    import torch.distributed.run  # noqa: F401  (and with it what else is needed here)

    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _torchrun(processes: int, command: Sequence[str]) -> int:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.disable()
    with tempfile.TemporaryDirectory(prefix="ocsrflow-launch-") as logs:
        _stay_local(logs)
        options = {
            "nproc-per-node": processes,
            "rdzv-backend": "c10d",
            "rdzv-conf": "store_type=file",
            "rdzv-endpoint": f"{logs}/rendezvous",
            "local-addr": "127.0.0.1",
            "shutdown-timeout": GRACE,
            "signals-to-handle": "SIGQUIT",  # the others are _stop's: torchrun would end its wait at a second one
            "log-dir": logs,  # else torchrun leaves a folder behind
        }
        try:
            torchrun([*(f"--{name}={value}" for name, value in options.items()), *PROGRAM, *command])
        except ChildFailedError as error:
            return _status(error.failures)
        except SignalException as signalled:
            return 128 + int(signalled.sigval)
    return 0


def _stay_local(folder: str) -> None:
    """Let the processes meet by files in ``folder``, which is this user's alone, and talk on this machine alone.

    torchrun's own way, ``--standalone``, listens on all interfaces and unpickles what anyone sends there.
    """
    os.environ[STORE] = f"{folder}/processes"
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)


def _status(failures: "dict[int, ProcessFailure]") -> int:
    """The exit status for processes that failed.

    Raises
    ------
    UserError
        When one was killed; ``TrainingFailed`` where it may have been out of memory.
    """
    # torchrun ends the others when one fails, and after 30 seconds kills those that are left: these say nothing.
    began = min(failure.timestamp for failure in failures.values())
    codes = {rank: failure.exitcode for rank, failure in failures.items() if failure.timestamp < began + 20}
    stopped = (STOPPED, -signal.SIGTERM, -signal.SIGUSR1)
    reported = [code for code in codes.values() if code > 0 and code != STOPPED]
    for rank, code in codes.items():
        # The others lose the connection and say so, which is no reason to be silent about the one that was killed.
        if code == -signal.SIGKILL or (code < 0 and code not in stopped and not reported):
            reasons = {
                signal.SIGKILL: "it may have been out of memory: give the job more, or lower training.batch",
                signal.SIGBUS: "shared memory (/dev/shm) or the disk may be full; enlarge it (docker run --shm-size)",
            }
            reason = f"; {reasons[signal.Signals(-code)]}" if -code in reasons else ""
            # By SIGKILL the system ends what takes too much memory.
            kind = TrainingFailed if code == -signal.SIGKILL else UserError
            raise kind(f"rank {rank} was killed by {signal.Signals(-code).name}{reason}")
    if TrainingFailed.status in reported:  # the others only lost the connection
        return TrainingFailed.status
    return reported[0] if reported else STOPPED
