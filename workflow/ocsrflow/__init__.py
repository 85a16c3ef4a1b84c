"""ocsrflow: optical chemical structure recognition as a reproducible Snakemake workflow."""

import os
import signal
import sys
import threading

# Ctrl-C ends a command that is still importing without a traceback, which could come from anywhere; cli.run listens
# again. So it is while ``python -m`` looks for the module, and in the script ``ocsrflow``, not where others import it.
if (
    (sys.argv[:1] == ["-m"] or os.path.basename("".join(sys.argv[:1])) == "ocsrflow")
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
