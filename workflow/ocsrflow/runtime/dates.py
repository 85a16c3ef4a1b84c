"""Dates of files that lie in the future, as a clock that was set back leaves them.

Snakemake compares dates of large files. A job whose input is of the future would end as failed, with its outputs
removed, since they are older than what they were made from; and so again and again until the clock has caught up.
"""

import os
import time
from pathlib import Path

TOLERANCE = 1.0  # seconds by which the clocks of a file server and of its clients may differ


def not_in_future(folder: Path) -> list[Path]:
    """Give the files and folders below ``folder`` that are dated in the future the date of now; those that were.

    All get the same date, so that none becomes newer than what was made from it in the same future.
    """
    now = time.time()
    mended = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            try:
                if path.lstat().st_mtime > now + TOLERANCE:
                    os.utime(path, (now, now), follow_symlinks=False)
                    mended.append(path)
            except OSError:  # it has gone meanwhile, or is somebody else's
                continue
    return mended
