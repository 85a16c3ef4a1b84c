"""Models that read the same picture at the same time, each in a process of its own."""

import os
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import UserError
from .gpus import PARENT, die_with_parent
from .guarded import Spawn
from .model import load_reader
from .reading import Eye
from .settings.reading import Reading


class SideBySide:
    """Some models, loaded and waiting for pictures; to be used in a ``with`` block."""

    def __init__(self, members: list[tuple[Path, Path]], devices: list[str], threads: int, reading: Reading) -> None:
        """Start the processes.

        Parameters
        ----------
        members
            Description and weights of each model.
        devices
            Where they compute, one after the other and over again: ``cpu``, or ``cuda:0`` and so on.
        threads
            Threads of each of them, on the CPU.
        reading
            How texts are searched for.
        """
        context = Spawn()
        self.names = [description.parent.name for description, _ in members]
        self._connections: list[Connection] = []
        self._processes = []
        os.environ[PARENT] = str(os.getpid())  # they must not use a GPU longer than this process leases it
        try:
            for i, (description, weights) in enumerate(members):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(description, weights, devices[i % len(devices)], threads, reading, theirs),
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        finally:
            del os.environ[PARENT]

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()  # what they end at
        for process in self._processes:
            process.join(timeout=10 if error is None else 0)
            process.kill()

    def ready(self) -> list[str]:
        """Wait until all have loaded their model; the name of the device of each.

        Raises
        ------
        UserError
            When one ended.
        """
        return [str(self._receive(i)) for i in range(len(self.names))]

    def read(self, picture: NDArray[np.uint8]) -> list[str]:
        """The SMILES of each model.

        Parameters
        ----------
        picture
            (1, channels, size, size).

        Raises
        ------
        UserError
            When one ended.
        """
        for i, connection in enumerate(self._connections):
            try:
                connection.send(picture)
            except OSError:
                raise self._lost(i) from None
        return [str(self._receive(i)) for i in range(len(self.names))]

    def _receive(self, i: int) -> Any:
        try:
            answer = self._connections[i].recv()
        except (EOFError, OSError):
            raise self._lost(i) from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _lost(self, i: int) -> UserError:
        self._processes[i].join(timeout=10)
        return UserError(
            f"the process of {self.names[i]} ended (status {self._processes[i].exitcode}) while the ensemble read; "
            "it may have been out of memory: give the job more"
        )


def _work(
    description: Path, weights: Path, device: str, threads: int, reading: Reading, connection: Connection
) -> None:
    """One model's process: answers pictures until there is nobody who asks."""
    die_with_parent()
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    else:
        torch.set_num_threads(threads)
    try:
        reader, facts = load_reader(description, weights, place)
        eye = Eye(reader, int(facts["training"]["decode_length"]), reading, place)
        connection.send(torch.cuda.get_device_name() if place.type == "cuda" else "CPU")
        while True:
            connection.send(eye.read_one(connection.recv()))
    except UserError as error:
        connection.send(error)
    except (EOFError, OSError):
        return
