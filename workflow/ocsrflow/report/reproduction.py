"""What the report says of how a run was made, so that others can make it again."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ..runtime.files import read_json, sha256

VERSIONS = (
    "snakemake", "torch", "torchvision", "timm", "rdkit", "h5py", "numpy", "pandas", "scikit-learn", "seaborn",
    "mlflow",
)  # fmt: skip


def read_run(results: Path) -> dict[str, Any]:
    """The configuration, as text and parsed, and the state of the checkout; empty where Snakemake does not run it."""
    config, workflow = results / "experiment.yaml", results / "workflow.json"
    if not config.is_file() or not workflow.is_file():
        return {}
    text = config.read_text(encoding="utf-8")
    return {"text": text, "config": yaml.safe_load(text), **read_json(workflow)}


def sources(results: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each source what the stage ``filter`` remembers: sha256, bytes, lines, kept; what it does not is left out."""
    found = []
    for name in names:
        path = results / "corpus" / name / "source.json"
        found.append({"name": name, **(read_json(path) if path.is_file() else {})})
    return found


def weights(paths: Sequence[Path], described: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each model its name, key (of all that decided the weights) and the SHA-256 of its weights' file.

    ``paths`` are of the descriptions, beside which the weights lie.
    """
    return [
        {"name": facts["name"], "key": facts["key"], "sha256": sha256(path.with_name("weights.safetensors"))}
        for path, facts in zip(paths, described, strict=True)
    ]


def versions() -> dict[str, str]:
    """Versions of the packages that matter most."""
    return {name: version(name) for name in VERSIONS}


def machine() -> str:
    """Processor, cores, memory and system of this machine; not its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} {'cores' if cores > 1 else 'core'}, {memory:.0f} GiB of memory, {system}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
