"""Put a trained model among those that come with this repository, in half precision.

Run by hand: ``python tests/benchmarks/ship_model.py RESULTS/models/NAME [--confidence RESULTS/calibration/NAME.json]``

Into ``results/reference/models/NAME`` go the weights (numbers of 32 bits become 16 bits: half the size), the
description and the curve, into ``results/reference/calibration/NAME.json`` what was learnt about its confidence. That
is where ``ocsrflow read`` and ``pretrained: reference`` look.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save

REFERENCE = Path(__file__).parents[2] / "results/reference"
LARGEST = 15_000_000  # bytes


def ship(model: Path, confidence: Path | None) -> None:
    """Copy a model, and say how large its weights are."""
    folder = REFERENCE / "models" / model.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(model / "weights.safetensors")
    halved = {name: values.half() if values.dtype == torch.float32 else values for name, values in weights.items()}
    if lost := [name for name, values in halved.items() if not values.isfinite().all()]:
        raise SystemExit(f"too large for 16 bits: {', '.join(lost)}")
    (folder / "weights.safetensors").write_bytes(save(halved))
    facts = json.loads((model / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copy(model / "metrics.jsonl", folder)
    if confidence is not None:
        (REFERENCE / "calibration").mkdir(exist_ok=True)
        shutil.copy(confidence, REFERENCE / "calibration" / f"{model.name}.json")
    size = (folder / "weights.safetensors").stat().st_size
    print(f"{folder.name}: {size / 1e6:.1f} MB")
    if size > LARGEST:
        raise SystemExit(f"more than {LARGEST / 1e6:.0f} MB: too large for a repository")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--confidence", type=Path)
    given = parser.parse_args()
    ship(given.model, given.confidence)
