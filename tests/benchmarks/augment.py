"""What each augmentation of pictures costs on this machine.

Run by hand: ``python tests/benchmarks/augment.py [DEVICE]`` (cpu). It prints a Markdown table: median milliseconds per
picture over the rounds, in which all settings take turns, so that a busy machine slows them alike.
"""

import statistics
import sys
import time

import torch
from ocsrflow.config.augmentation import Augmentation
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.training.augment import augment
from rdkit import Chem

BATCH, ROUNDS, WARM_UP = 32, 9, 2
SIZES = (64, 300)
STRENGTHS = {"rotation": 5, "scale": 0.1, "shift": 0.05, "blur": 0.8, "noise": 12, "thickness": 0.7, "grey": 0.15}
SETTINGS = {
    "off": Augmentation(),
    **{f"{name} {strength}": Augmentation(**{name: strength}) for name, strength in STRENGTHS.items()},
    "rotation, scale, shift": Augmentation(rotation=5, scale=0.1, shift=0.05),
    "all": Augmentation(**STRENGTHS),
}


def batch(size: int, device: torch.device) -> torch.Tensor:
    picture = torch.from_numpy(draw(Chem.MolFromSmiles("C[C@H](N)c1ccc(/C=C/C(=O)O)cc1Cl"), Depiction(size=size)))
    return picture.permute(2, 0, 1).expand(BATCH, -1, -1, -1).contiguous().to(device)


def milliseconds(pictures: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> float:
    """Of one picture."""
    wait = torch.cuda.synchronize if pictures.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    augment(pictures, settings, generator)
    wait()
    return 1e3 * (time.perf_counter() - start) / len(pictures)


def main() -> None:
    device = torch.device(sys.argv[1] if sys.argv[1:] else "cpu")
    generator = torch.Generator().manual_seed(0)
    batches = {size: batch(size, device) for size in SIZES}
    taken: dict[tuple[str, int], list[float]] = {(name, size): [] for name in SETTINGS for size in SIZES}
    for _ in range(WARM_UP + ROUNDS):
        for name, size in taken:
            taken[name, size].append(milliseconds(batches[size], SETTINGS[name], generator))
    print(f"{BATCH} colour pictures at once on {device}, {torch.get_num_threads()} threads: ms per picture\n")
    print("| option | " + " | ".join(f"{size} × {size}" for size in SIZES) + " |")
    print("| :- |" + " -: |" * len(SIZES))
    for name in SETTINGS:
        print(f"| {name} | " + " | ".join(f"{statistics.median(taken[name, s][WARM_UP:]):.3f}" for s in SIZES) + " |")


if __name__ == "__main__":
    main()
