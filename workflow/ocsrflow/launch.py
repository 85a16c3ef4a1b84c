"""Start a training through torchrun: lease the GPUs, one process each; or processes on the CPU."""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import lifeline
from .cli import fail
from .errors import UserError
from .gpus import MADE_UP, PARENT, STORE, WAYS, take, unusable
from .temporary import temporary_folder

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

GRACE = 300  # seconds that stopped processes have to save a checkpoint before torchrun kills them
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LOOPBACK = "lo"  # the network interface that leads nowhere else
STOPPED = 128 + signal.SIGTERM  # exit status of a process that saved and left


def launch(arguments: list[str]) -> int:
    """Run a command line, see :func:`_options`, and return the exit status.

    The processes' own words stay the only ones: a stage tells in one line what went wrong, and torchrun's report of
    the same failure, a page of traceback, is left out.

    Raises
    ------
    UserError
        When Snakemake granted fewer GPUs than are asked for, they cannot be used here, or a process was killed.
    """
    options = _options(arguments)
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, _stop)
    lifeline.tie()
    _import_torch()
    lease = take(options.gpus)
    processes = options.gpus or options.processes or 1
    os.environ[PARENT] = str(os.getpid())
    try:
        if lease is not None and not os.environ.get(MADE_UP) and (cause := unusable()):
            raise UserError(f"{cause}; {WAYS}")
        return _torchrun(processes, [options.module, *options.arguments])
    finally:
        if lease is not None:
            lease.release()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ocsrflow.launch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--gpus", type=int, required=True, help="GPUs that the model asks for; 0 is the CPU")
    parser.add_argument("--granted", type=int, help="GPUs that Snakemake granted")
    parser.add_argument("--processes", type=int, help="processes on the CPU (1)")
    parser.add_argument("module", help="what to run, in every process")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its command line")
    options = parser.parse_args(arguments)
    gpus = options.gpus
    if options.granted is not None and options.granted < gpus:
        raise UserError(
            f"model asks for {gpus} GPUs, but Snakemake granted {options.granted}: give --resources gpu={gpus} or "
            "more, or lower the model's gpus"
        )
    if gpus and options.processes not in (None, gpus):
        raise UserError(f"{options.processes} processes for {gpus} GPUs: a GPU takes one process, leave processes out")
    return options


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


def _torchrun(processes: int, command: list[str]) -> int:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.disable()
    with temporary_folder("launch") as logs:
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
            torchrun([*(f"--{name}={value}" for name, value in options.items()), "-m", *command])
        except ChildFailedError as error:
            return _status(error.failures)
        except SignalException as signalled:
            return 128 + int(signalled.sigval)
    return 0


def _stay_local(folder: Path) -> None:
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
        When one was killed.
    """
    # torchrun ends the others when one fails, and after 30 seconds kills those that are left: these say nothing.
    began = min(failure.timestamp for failure in failures.values())
    codes = {rank: failure.exitcode for rank, failure in failures.items() if failure.timestamp < began + 20}
    stopped = (STOPPED, -signal.SIGTERM, -signal.SIGUSR1)
    told = [code for code in codes.values() if code > 0 and code != STOPPED]
    for rank, code in codes.items():
        # The others lose the connection and say so, which is no reason to be silent about the one that was killed.
        if code == -signal.SIGKILL or (code < 0 and code not in stopped and not told):
            reasons = {
                signal.SIGKILL: "it may have been out of memory: give the job more, or lower training.batch",
                signal.SIGBUS: "/dev/shm may be full: enlarge it (docker run --shm-size=2g)",  # noqa: S108
            }
            reason = f"; {reasons[signal.Signals(-code)]}" if -code in reasons else ""
            raise UserError(f"rank {rank} was killed by {signal.Signals(-code).name}{reason}")
    return told[0] if told else STOPPED


if __name__ == "__main__":
    try:
        sys.exit(launch(sys.argv[1:]))
    except UserError as error:
        fail("ocsrflow.launch", str(error))
