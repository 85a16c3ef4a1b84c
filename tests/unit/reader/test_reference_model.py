"""The model that comes with the repository reads drawings on any machine, without a training."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
from ocsrflow.chem.molecules import canonical
from rdkit import Chem
from rdkit.Chem import Draw

MOLECULES = {
    "aspirin.png": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine.png": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "ibuprofen.png": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
}


def test_drawings_are_read_by_the_model_of_the_repository(tmp_path: Path) -> None:
    for name, smiles in MOLECULES.items():
        Draw.MolToFile(Chem.MolFromSmiles(smiles), str(tmp_path / name), size=(300, 300))
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "ocsrflow", "read", tmp_path, "--gpus", "0", "-o", out]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 pictures read by resnet18-384" in run.stdout
    found = pd.read_csv(out).set_index("id")
    assert {name: canonical(text) for name, text in found["smiles"].items()} == {
        name: canonical(smiles) for name, smiles in MOLECULES.items()
    }
    assert found["confidence"].min() > 0.5
