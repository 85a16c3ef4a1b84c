"""What the stages ask RDKit about one molecule."""

import hashlib

from rdkit import Chem, RDLogger

# What RDKit cannot parse is a counted result here, not a message.
RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]


def parse(smiles: str) -> Chem.Mol | None:
    """The sanitised molecule of a SMILES, or None where RDKit cannot parse it or it has no atom."""
    try:
        molecule = Chem.MolFromSmiles(smiles)
    except Exception:  # noqa: BLE001  (RDKit raises C++ exceptions of several kinds)
        return None
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def canonical(smiles: str) -> str | None:
    """RDKit's canonical isomeric SMILES, or None where RDKit cannot parse it."""
    molecule = parse(smiles)
    return None if molecule is None else Chem.MolToSmiles(molecule)


def fraction(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on ``text`` and ``seed`` alone: eight bytes of BLAKE2b over 2⁶⁴."""
    hashed = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(hashed, "big") / 2.0**64
