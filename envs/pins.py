"""Write envs/{chem,train,report}.yaml with the versions of requirements.lock: ``python envs/pins.py``."""

import re
from pathlib import Path

HERE = Path(__file__).parent
BASE = ["cyclopts", "loky", "pebble", "psutil", "pydantic", "tqdm", "numpy", "pandas", "pyarrow"]
PICTURES = ["rdkit", "h5py", "hdf5plugin", "zstandard", "pillow", "pyspng", "scipy", "epam-indigo", "matplotlib"]
NETWORK = ["torch", "torchvision", "timm", "safetensors"]
# What the rules of each environment import; ocsrflow itself is found in the checkout.
ENVIRONMENTS = {
    "chem": [*BASE, *PICTURES, "isal", "requests", "scikit-learn", "tenacity"],
    "train": [*BASE, *PICTURES, *NETWORK, "mlflow", "requests", "tenacity"],
    "report": [*BASE, *PICTURES, *NETWORK, "mlflow", "scikit-learn", "seaborn", "jinja2", "snakemake"],
}


def locked() -> dict[str, str]:
    """Versions of requirements.lock by name."""
    text = (HERE.parent / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, flags=re.MULTILINE))


def environment(name: str) -> str:
    """The text of one environment file: Python from conda-forge, everything else as pip installs it."""
    versions = locked()
    pins = "".join(f"      - {package}=={versions[package]}\n" for package in sorted(ENVIRONMENTS[name]))
    return (
        "# Written by envs/pins.py from requirements.lock.\n"
        "channels:\n  - conda-forge\n  - nodefaults\n"
        f"dependencies:\n  - python=3.11\n  - pip\n  - pip:\n{pins}"
    )


if __name__ == "__main__":
    for name in ENVIRONMENTS:
        (HERE / f"{name}.yaml").write_text(environment(name), encoding="utf-8")
