"""Stage ``speed_training``: how many pictures a second one model learns from, with one process and with several."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..config.network import Network
from ..config.training import Training
from ..pictures.packed_file import Packed
from ..runtime.files import read_json, write_json
from ..runtime.gpu_lease import present
from ..runtime.slurm_job import of_cluster


def speed_training(
    data: Path,
    *,
    out: Path,
    name: str,
    network: Network,
    training: Training,
    processes: list[int],
    dataset: str = "",
    steps: int = 30,
    gpus: int = 0,
    granted: int = 0,
    threads: int = 1,
) -> None:
    """Measure the training speed of one model with several numbers of processes, one after the other.

    A step is the same for each of them: it has ``training.batch`` pictures, whoever shares them. What this machine is
    too small for is left out and reported.

    Parameters
    ----------
    data
        Packed data set.
    out
        JSON file: the model, the device, and for each number of processes a row: ``processes`` with what
        :mod:`ocsrflow.evaluation.clocked_training` measured, ``speed_up`` against one process and ``efficiency``
        (speed-up for each process) where one was measured; or ``processes`` and ``not_measured``, the reason.
    name
        Name of the model.
    network
        Shape of the network.
    training
        How it is trained.
    processes
        Numbers of processes; on GPUs, one each.
    dataset
        Name of the data set, for the record.
    steps
        Steps measured for each number, after a warm-up; fewer on a slow machine.
    gpus
        GPUs that the largest number takes; 0 measures on the CPU.
    granted
        GPUs that Snakemake granted.
    threads
        Threads of all processes together on a CPU, or worker processes of all that read pictures for GPUs.
    """
    packed = Packed(data)
    here = len(present()) if gpus else 0
    work = [
        "--",
        "clocked_training",
        data,
        "--name",
        name,
        "--network",
        network.model_dump_json(),
        "--training",
    ]
    work += [training.model_dump_json(), "--steps", steps, "--threads", threads]
    rows: list[dict[str, Any]] = []
    for count in processes:
        if gpus:
            reason = _too_few_gpus(count, training.batch, here, granted)
            where = ["--gpus", count, "--granted", granted]
        else:
            reason = _too_few_threads(count, training.batch, threads)
            where = ["--gpus", 0, "--processes", count]
        row = {"processes": count, "not_measured": reason} if reason else _measured([*where, *work])
        rows.append(row)
        print(_line(name, row), flush=True)
    _compare(rows)
    device = next((row["device"] for row in rows if "device" in row), None)
    settings = {"network": network.model_dump(), "training": training.model_dump()}
    defined = [packed.digest, settings, processes, steps, device]
    key = hashlib.sha256(json.dumps(defined, sort_keys=True).encode()).hexdigest()[:12]
    facts = {
        "name": name,
        "key": f"speed-training:{name}:{key}",
        "dataset": dataset,
        "data": packed.digest,
        **of_cluster(),
        **settings,
        "steps": steps,
        "threads": threads,
        "on": "gpu" if gpus else "cpu",
        "device": device,
        "rows": rows,
    }
    write_json(out, facts)


def _too_few_threads(count: int, batch: int, threads: int) -> str:
    """Why so many processes cannot be measured on the CPU; empty where they can."""
    if count > batch:
        return f"a step has only {batch} pictures"
    return f"only {threads} {'threads' if threads > 1 else 'thread'} here" if count > threads else ""


def _too_few_gpus(count: int, batch: int, here: int, granted: int) -> str:
    """Why so many GPUs cannot be measured; empty where they can."""
    if count > batch:
        return f"a step has only {batch} pictures"
    if count > here:
        return f"only {here} {'GPUs' if here > 1 else 'GPU'} here" if here else "no GPU here"
    if count > granted:
        return f"only {granted} of {here} GPUs granted by Snakemake: --resources gpu={count} grants more"
    return ""


def _measured(words: list[Any]) -> dict[str, Any]:
    """Start the processes and wait for what they measured.

    Raises
    ------
    SystemExit
        When they failed; they have reported why.
    """
    with tempfile.TemporaryDirectory(prefix="ocsrflow-speed-") as folder:
        command = [sys.executable, "-m", "ocsrflow", "launch", *map(str, words), "--out", f"{folder}/speed.json"]
        with subprocess.Popen(command) as launcher:
            try:
                status = launcher.wait()
            except BaseException:  # a signal's: they end at their next step
                launcher.terminate()
                raise
        found: list[dict[str, Any]] = [read_json(path) for path in sorted(Path(folder).glob("*.json"))]
    if status and not found:
        sys.exit(status)
    return found[0]


def _compare(rows: list[dict[str, Any]]) -> None:
    """Hold each row against the one of one process, where that is measured."""
    alone = next((row["images_per_second"] for row in rows if row["processes"] == 1 and "device" in row), None)
    for row in rows:
        if alone and "device" in row:
            row["speed_up"] = round(row["images_per_second"] / alone, 4)
            row["efficiency"] = round(row["images_per_second"] / alone / row["processes"], 4)


def _line(name: str, row: dict[str, Any]) -> str:
    who = f"{name} with {row['processes']} {'processes' if row['processes'] > 1 else 'process'}"
    if "device" not in row:
        return f"{who}: not measured: {row['not_measured']}"
    return f"{who}: {row['images_per_second']:.1f} images/s, {100 * row['data_wait']:.1f} % waiting for data"
