"""Start a training through torchrun: lease the GPUs, one process each, or one process on the CPU."""

import logging
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from .cli import fail
from .errors import UserError
from .gpus import take


def launch(arguments: list[str]) -> int:
    """Run ``arguments`` (GPUs, module, its command line) and return the exit status.

    The processes' own words stay the only ones: a stage tells in one line what went wrong, and torchrun's report of
    the same failure, a page of traceback, is left out.
    """
    count, module, *rest = arguments
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    lease = take(int(count))
    processes = len(lease.ids) if lease else 1
    if int(count) and lease is None:
        print("no GPU here: training on the CPU, which takes very long for a full model", file=sys.stderr)
    try:
        torchrun(["--standalone", f"--nproc-per-node={processes}", "-m", module, *rest])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), 1)
    except SignalException as signalled:
        return 128 + int(signalled.sigval)
    finally:
        if lease is not None:
            lease.release()
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        fail("ocsrflow.launch", "usage: python -m ocsrflow.launch GPUS MODULE [ARGUMENT ...]")
    try:
        sys.exit(launch(sys.argv[1:]))
    except UserError as error:
        fail("ocsrflow.launch", str(error))
