"""Processes that tests start."""

import signal


def hear_ctrl_c() -> None:
    """Called in a process about to be started: one in the background of a shell is deaf to SIGINT otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
