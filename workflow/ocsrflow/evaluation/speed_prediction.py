"""Stage ``speed_prediction``: an ensemble reads one picture at a time, its members in turn and side by side."""

import hashlib
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..chem.similarity import parse_cached
from ..config.reading import Reading
from ..ensemble.voting_methods import pair_rule
from ..network.model import load_model
from ..network.model_reader import ModelReader, timed
from ..pictures.packed_file import Packed
from ..runtime.errors import UserError
from ..runtime.files import read_json, write_json
from ..runtime.gpu_lease import PARENT, device_of, die_with_parent, present, take
from ..runtime.isolated import without_ctrl_c
from ..runtime.slurm_job import of_cluster


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
        context = multiprocessing.get_context("spawn")
        self.names = [description.parent.name for description, _ in members]
        self._connections: list[Connection] = []
        self._processes = []
        os.environ[PARENT] = str(os.getpid())  # they must not use a GPU longer than this process leases it
        try:
            for i, (description, weights) in enumerate(members):
                own_end, child_end = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(description, weights, devices[i % len(devices)], threads, reading, child_end),
                    daemon=True,
                )
                with without_ctrl_c():
                    process.start()
                child_end.close()
                self._connections.append(own_end)
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
    torch_device = torch.device(device)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    else:
        torch.set_num_threads(threads)
    try:
        model, facts = load_model(description, weights, torch_device)
        model_reader = ModelReader(model, int(facts["training"]["decode_length"]), reading, torch_device)
        connection.send(torch.cuda.get_device_name() if torch_device.type == "cuda" else "CPU")
        while True:
            connection.send(model_reader.read_one(connection.recv()))
    except UserError as error:
        connection.send(error)
    except (EOFError, OSError):
        return


Picture = NDArray[np.uint8]  # (1, channels, size, size)


def speed_prediction(
    data: Path,
    *,
    name: str,
    weights: list[Path],
    descriptions: list[Path],
    reading: Reading,
    out: Path,
    choice: Path | None = None,
    test_set: str = "test",
    split: str = "test",
    size: int | None = None,
    timed_images: int = 100,
    gpus: int = 0,
    granted: int | None = None,
    threads: int = 1,
) -> None:
    """Measure the seconds per image of an ensemble, and of each member alone.

    One picture at a time, warm, from the decoded picture in the memory of the process that asks to the SMILES.

    Parameters
    ----------
    data
        Packed data set.
    name
        Name of the ensemble.
    weights, descriptions
        What the stage ``train`` wrote of each model.
    reading
        How texts are searched for.
    out
        JSON file: the median seconds per image of each of ``members``; of them ``one_after_the_other`` in one process,
        and ``side_by_side``, each in a process of its own, both with the vote and with the quartiles (``low``,
        ``high``); how many times as fast the latter is (``speed_up``); and whether both gave the ``same_texts``.
    choice
        JSON file of the stage ``choose``: which of them are members, in which order; by default all, as given.
    test_set
        Name of the test set, for the record.
    split, size
        Split of the data set, and at most so many pictures of it.
    timed_images
        Pictures that are read.
    gpus
        GPUs that the members share, side by side; as many of them as there are. 0 reads on the CPU.
    granted
        GPUs that Snakemake granted, at least one if any are asked for.
    threads
        Threads on the CPU; side by side they are divided.

    Raises
    ------
    UserError
        When a member's weights are damaged, it was trained with another vocabulary, the split is empty, or GPUs are
        asked for and none can be used.
    RuntimeError
        When a member reads another text side by side than in turn.
    """
    lease = take(min(gpus, max(1, len(present())), granted or gpus) if gpus else 0, granted)
    if device_of(lease) == "cpu":
        lease = None
    devices = [f"cuda:{i}" for i in range(len(lease.ids))] if lease else ["cpu"]
    packed = Packed(data)
    positions = packed.first(split, size)[:timed_images]
    files = _members(list(zip(descriptions, weights, strict=True)), choice)
    each = 1 if lease else max(1, threads // len(files))
    in_turn = _in_turn(packed, positions, files, torch.device(devices[0]), threads, each, reading)
    with SideBySide(files, devices, each, reading) as together:
        kinds = set(together.ready())
        times, answers = timed(lambda picture: _voted(together.read(picture)), packed, positions)
    same = answers == in_turn.expected
    # GPUs of several kinds may round in several ways; all else is an error of ours.
    if len(kinds) == 1 and not same:
        compared = zip(positions, answers, in_turn.expected, strict=True)
        different = [int(packed.cid[at]) for at, answer, expected in compared if answer != expected]
        raise RuntimeError(f"{name} reads other texts side by side than one after the other, of CIDs {different}")
    digest = hashlib.sha256(
        json.dumps(
            [packed.digest, in_turn.keys, positions.tolist(), gpus, threads, sorted(kinds), reading.model_dump()]
        ).encode()
    ).hexdigest()
    facts = {
        "name": name,
        "key": f"speed-prediction:{name}:{digest[:12]}",
        "test_set": test_set,
        "data": packed.digest,
        **of_cluster(),
        "images": len(positions),
        "device": ", ".join(sorted(kinds)) if lease else f"CPU, {threads} threads",
        "gpus": len(lease.ids) if lease else 0,
        "threads": threads,
        "threads_each": each,
        "beams": reading.beams,
        "members": in_turn.alone,
        "one_after_the_other": _quartiles(in_turn.times),
        "side_by_side": _quartiles(times),
        "same_texts": same,
        "speed_up": round(statistics.median(in_turn.times) / statistics.median(times), 4),
    }
    write_json(out, facts)
    print(
        f"{name} on {facts['device']}: {statistics.median(in_turn.times):.4f} s an image one after the other, "
        f"{statistics.median(times):.4f} s side by side"
    )


def _members(files: list[tuple[Path, Path]], choice: Path | None) -> list[tuple[Path, Path]]:
    """Description and weights of the members, in their order."""
    if choice is None:
        return files
    named = {read_json(description)["name"]: (description, weights) for description, weights in files}
    return [named[member] for member in read_json(choice)["members"] if member in named]


@dataclass(frozen=True)
class InTurn:
    """What one process measured and read."""

    keys: list[str]  # of the members
    alone: list[dict[str, Any]]  # name and seconds_per_image of each member
    times: list[float]  # seconds of each picture, all members and the vote
    expected: list[tuple[list[str], str]]  # the texts of the members and the one voted for, with the threads of each


def _in_turn(
    packed: Packed,
    pictures: NDArray[np.int64],
    files: list[tuple[Path, Path]],
    device: torch.device,
    threads: int,
    each: int,
    reading: Reading,
) -> InTurn:
    """Read pictures with every member alone, and with all of them one after the other.

    Parameters
    ----------
    packed, pictures
        The data set, and positions in it.
    files
        Description and weights of each member.
    device
        Where all of them compute.
    threads
        Threads on the CPU.
    each
        Threads that each member has there when they read side by side.
    reading
        How texts are searched for.
    """
    if device.type == "cpu":
        torch.set_num_threads(threads)
    reads: list[Callable[[Picture], str]] = []
    keys, alone = [], []
    for description, weights in files:
        model, model_facts = load_model(description, weights, device)
        packed.expect_vocabulary(model_facts["vocabulary"], weights)
        reads.append(ModelReader(model, int(model_facts["training"]["decode_length"]), reading, device).read_one)
        seconds = statistics.median(timed(reads[-1], packed, pictures)[0])
        keys.append(str(model_facts["key"]))
        alone.append({"name": model_facts["name"], "seconds_per_image": round(seconds, 6)})

    def all_of_them(picture: Picture) -> tuple[list[str], str]:
        return _voted([read(picture) for read in reads])

    times, answers = timed(all_of_them, packed, pictures)
    if device.type == "cpu" and each != threads:
        # Sums of another number of threads are rounded in another way, which may decide between two tokens.
        torch.set_num_threads(each)
        answers = timed(all_of_them, packed, pictures)[1]
    return InTurn(keys, alone, times, answers)


def _voted(texts: list[str]) -> tuple[list[str], str]:
    """The texts of the members, and the one they vote for."""
    parse_cached.cache_clear()  # else a vote on a picture that was voted on before would cost nothing
    return texts, texts[pair_rule(texts).winner]


def _quartiles(times: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return {"seconds_per_image": round(middle, 6), "low": round(low, 6), "high": round(high, 6)}
