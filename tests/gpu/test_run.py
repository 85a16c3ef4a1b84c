"""The script for a GPU, at toy size on the CPU; what it would find on a GPU, no test here can tell."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import hdf5plugin
import torch
from ocsrflow.network.model import load_model

HERE = Path(__file__).parent


def run(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = [HERE / "run.sh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_all_steps_run_and_the_model_comes_back(tmp_path: Path) -> None:
    done = run("--toy", "--minutes", 15, "--out", tmp_path)
    tables = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, (done.stderr, tables, (tmp_path / "log.txt").read_text())
    assert len(tables) == 11
    assert all(table["rows"] and not table["failures"] for table in tables.values())
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {title}" in text for title in tables)
    folder = tmp_path / "models/resnet18-384-gpu"
    model, facts = load_model(folder / "model.json", folder / "weights.safetensors", torch.device("cpu"))
    assert facts["parent"]["name"] == "resnet18-384"
    assert (folder / "metrics.jsonl").read_text()
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_without_a_gpu_it_refuses_in_one_line(tmp_path: Path) -> None:
    done = run("--out", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "no GPU that PyTorch can use here: --toy runs it at toy size on the CPU"
    assert not list(tmp_path.iterdir())


def test_the_stand_in_for_hdf5plugin_names_the_same_filter() -> None:
    found = runpy.run_path(str(HERE / "standin/hdf5plugin.py"))["Zstd"](clevel=3)
    assert found == {**hdf5plugin.Zstd(clevel=3), "allow_unknown_filter": True}
