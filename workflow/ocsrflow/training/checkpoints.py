"""Checkpoints of one training: written whole or not at all, the last two kept, damaged ones passed over."""

import errno
import fcntl
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import UserError, brief, of_the_system
from ..runtime.files import whole

KEPT = 2


class Checkpoints:
    """The folder of one training's checkpoints, called by its key.

    The key stands for everything that decides the weights: a training with another learning rate has another folder
    and starts afresh, one whose report has changed goes on.
    """

    def __init__(self, folder: Path, key: str, settings: dict[str, Any]) -> None:
        """Name the folder.

        Parameters
        ----------
        folder
            Where the checkpoints are.
        key
            The training's key.
        settings
            Network, training and vocabulary as plain values, to say what differs in the checkpoint of another training.
        """
        self.folder, self.key, self.settings = folder, key, settings

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other trainings of this key away; the kernel lets them in when this process ends, however it ends.

        Raises
        ------
        UserError
            Where one is at it already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.folder}: another process is at this training already; wait for it, or stop it "
                    "(it may have outlived a killed Snakemake)"
                ) from None
            except OSError as error:  # a network file system without locks
                reason = os.strerror(error.errno or 0)
                print(
                    f"warning: {self.folder}: its file system does not lock files ({reason}), so nothing keeps another "
                    "process away from this training",
                    file=sys.stderr,
                    flush=True,
                )
            yield

    def paths(self) -> list[Path]:
        """The checkpoints, from the oldest to the newest."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, steps: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of step ``steps`` and remove the oldest."""
        path = self.folder / f"step-{steps:09d}.pt"
        # Through Python's file, which tells a full disk from other errors.
        with whole(path, recorded=False) as part, open(part, "wb") as file:
            try:
                torch.save({"key": self.key, "settings": self.settings, **state}, file)
            except RuntimeError as error:
                # PyTorch's writer fails once more as it closes, and hides what the system said.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        for old in self.paths()[:-KEPT]:
            old.unlink()
        return path

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, and its state; a damaged one is reported and passed over.

        Raises
        ------
        UserError
            Where it is the checkpoint of another training, copied here.
        """
        for path in reversed(self.paths()):
            try:
                return path, self.load(path)
            except (UserError, OSError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
                if trouble := of_the_system(error, path):
                    raise trouble from None
                path.rename(path.with_suffix(".damaged"))  # else it would count among those that are kept
                print(f"warning: {path} is damaged ({brief(error)}): going on from the one before, if any", flush=True)
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """A checkpoint's state, on the CPU.

        Raises
        ------
        UserError
            Where it is the checkpoint of another training.
        """
        try:
            with zipfile.ZipFile(path) as file:  # PyTorch's own reader does not look at the checksums
                if sum(member.file_size for member in file.infolist()) > path.stat().st_size:
                    raise zipfile.BadZipFile("it says that it holds more than its file has")
                if (damaged := file.testzip()) is not None:
                    raise zipfile.BadZipFile(f"the checksum of {damaged} does not fit")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The file can be read: its directory points to before its beginning.
            raise zipfile.BadZipFile("its directory is wrong") from None
        # Nothing in the file is ever executed.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            differs = [name for name, value in self.settings.items() if state["settings"].get(name) != value]
            raise UserError(
                f"{path}: the checkpoint of another training ({', '.join(differs) or 'data or code'} "
                f"{'differ' if len(differs) > 1 else 'differs'}); remove it from {self.folder}"
            )
        return state
