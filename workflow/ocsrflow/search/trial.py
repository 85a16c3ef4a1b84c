"""Stage ``trial``: the settings of one trial, trained up to the end of a rung by the stage ``train``."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from ..config.network import Network
from ..config.searches import space_from_json, with_values
from ..config.training import Training
from ..runtime import parent_watch
from ..runtime.errors import TrainingFailed
from ..runtime.files import read_json
from ..training.launch import on_stop
from .points import point
from .results import Result

SCORES = ("validation_tanimoto", "validation_loss", "validation_validity")
LONGEST_REASON = 200  # characters


def trial(
    data: Path,
    *,
    out: Path,
    search: str,
    rung: int,
    place: int,
    epochs: int,
    space: str,
    seed: int,
    network: Network,
    training: Training,
    promoted: Path | None = None,
    dataset: str = "",
    weights: tuple[Path, ...] = (),
    checkpoints: Path = Path("checkpoints"),
    checkpoint_minutes: float = 10.0,
    gpus: int = 0,
    granted: int = 0,
    threads: int = 1,
) -> None:
    """Train a trial of a search up to the end of a rung, from the checkpoint of the rung before.

    A trial that fails by its own settings (out of memory, a loss that is no number) is a result like others, with the
    reason. All other failures are the machine's, and end this stage as they ended the training; so does a signal.

    Parameters
    ----------
    data
        Packed data set.
    out
        JSON file: a :class:`ocsrflow.search.results.Result`.
    search
        Name of the search.
    rung
        Number of the rung, from 0.
    place
        Number of the trial in the first rung; in later ones its rank among those that were promoted, from 0.
    epochs
        That the rung ends after, from the beginning of the training.
    space
        JSON: what is varied.
    seed
        Seed of the points that are tried.
    network, training
        The model's settings, which the trial's are put into; the training has its whole length.
    promoted
        JSON file of the stage ``promote`` of the rung before.
    dataset
        Name of the data set, for the record.
    weights
        ImageNet weights, ENCODER.pth, of each encoder that trials may have.
    checkpoints
        Folder for the checkpoints of all trainings.
    checkpoint_minutes
        Minutes between two checkpoints.
    gpus
        GPUs of the training.
    granted
        GPUs that Snakemake granted.
    threads
        As for the stage ``train``.
    """
    numbers = read_json(promoted) if promoted else range(place + 1)
    if place >= len(numbers):  # too many trials of the rung before failed
        Result(search, rung, None).write(out)
        print(f"search {search}, rung {rung}: no trial is left for place {place}")
        return
    number = int(numbers[place])
    settings = {"network": network.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    of_encoder = {path.stem: path for path in weights}
    values = point(space_from_json(space), seed, number)
    own = with_values(settings, values)
    print(f"search {search}, rung {rung}, trial {number}: {_shown(values)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ocsrflow-trial-") as folder:
        options = {
            "name": f"{search}.{number}",
            "dataset": dataset,
            "network": json.dumps(own["network"]),
            "training": json.dumps(own["training"]),
            "until": epochs,
            "checkpoints": checkpoints,
            "checkpoint-minutes": checkpoint_minutes,
            "threads": threads,
            "out": f"{folder}/weights.safetensors",
            "metrics": f"{folder}/metrics.jsonl",
            "description": f"{folder}/model.json",
        }
        if own["network"]["encoder"] in of_encoder:
            options["weights"] = of_encoder[own["network"]["encoder"]]
        words = [f"--{name}={value}" for name, value in options.items()]
        launched = ["launch", "--gpus", str(gpus), "--granted", str(granted), "--", "train", str(data), *words]
        began = time.monotonic()
        status, last = _run([sys.executable, "-m", "ocsrflow", *launched])
        if status == TrainingFailed.status:
            reason, seconds = _reason(last, f"{search}.{number}: "), round(time.monotonic() - began, 1)
            found: dict[str, Any] = {"failed": reason, "seconds": seconds, "processes": gpus or 1}
            print(f"search {search}, rung {rung}, trial {number} failed, which is its result", flush=True)
        elif status:
            sys.exit(status if status > 0 else 128 - status)
        else:
            found = _finished(Path(folder), epochs)
    made_with = {**settings, "space": json.loads(space), "seed": seed}
    Result(search, rung, number, epochs, values, made_with=made_with, **found).write(out)


def _reason(line: str, name: str) -> str:
    """The first sentence of an error; the others name what another run may not have, as its last checkpoint."""
    said = (line.partition("error: ")[2] or line).removeprefix(name).partition(". ")[0]
    return textwrap.shorten(said, LONGEST_REASON, placeholder=" …")


def _finished(folder: Path, epochs: int) -> dict[str, Any]:
    """What a training left; it may have gone on beyond these epochs, in a later rung."""
    facts = read_json(folder / "model.json")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shown = ("epoch", "step", "time", *SCORES)
    curve = [{key: line[key] for key in shown} for line in lines if SCORES[0] in line and line["epoch"] <= epochs]
    return {"curve": curve, **{key: facts[key] for key in ("key", "seconds", "processes", "device")}}


def _run(command: list[str]) -> tuple[int, str]:
    """The exit status of a training, and the last line that is an error of a command; its words are passed on.

    A signal to this process stops the training, which saves; so does the death of this process.
    """
    last = ""
    watched = {**os.environ, parent_watch.SNAKEMAKE: str(os.getpid())}
    with subprocess.Popen(
        command, env=watched, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            on_stop(lambda *_: launcher.terminate())
            assert launcher.stdout is not None
            for line in launcher.stdout:
                print(line, end="", flush=True)
                if line.startswith("ocsrflow "):
                    last = line.strip()
        except BaseException:  # a signal's, before it is handled
            launcher.terminate()
            raise
    return launcher.returncode, last


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
