"""What the stages ask RDKit about one molecule."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from rdkit import Chem, RDLogger

# What RDKit cannot parse is a counted result here, not a message.
RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]

ROUNDS = 8  # of parsing and writing, at most: the cycles that were met have two texts


def parse(smiles: str) -> Chem.Mol | None:
    """The sanitised molecule of a SMILES, or None where RDKit cannot parse it or it has no atom.

    A SMILES is printable ASCII without spaces. RDKit would take a name or an extension after a space, and more lines.
    """
    if not (smiles.isascii() and smiles.isprintable()) or " " in smiles:
        return None
    try:
        molecule = Chem.MolFromSmiles(smiles)
    except Exception:  # noqa: BLE001  (RDKit raises C++ exceptions of several kinds)
        return None
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def canonical(smiles: str) -> str | None:
    """The text that two SMILES share if they are the same molecule (:func:`canonical_text`), or None if not parsed."""
    molecule = parse(smiles)
    return None if molecule is None else canonical_text(molecule)


def canonical_text(molecule: Chem.Mol) -> str:
    """RDKit's canonical isomeric SMILES, made a fixed point: two molecules are the same where theirs are equal.

    Of some symmetric molecules RDKit's canonical SMILES alternates: parsed and written again, it is another text, and
    the next time the first one. So the text is parsed and written until one comes round, and the smallest of the cycle
    counts. That doubles the time, and so it is done only where equal atoms leave RDKit a choice that may matter.
    """
    texts = [Chem.MolToSmiles(molecule)]
    if not _may_alternate(molecule, texts[0]):
        return texts[0]
    while len(texts) <= ROUNDS:
        again = parse(texts[-1])
        if again is None:  # RDKit does not read all that it writes
            return texts[-1]
        text = Chem.MolToSmiles(again)
        if text in texts:
            return min(texts[texts.index(text) :])
        texts.append(text)
    return min(texts)


def without_stereo(molecule: Chem.Mol) -> Chem.Mol:
    """A copy without stereo of atoms and bonds; isotopes stay, and hydrogens that were written for stereo go."""
    flat = Chem.Mol(molecule)
    Chem.RemoveStereochemistry(flat)
    return Chem.RemoveHs(flat)


def _may_alternate(molecule: Chem.Mol, text: str) -> bool:
    """Whether equal atoms leave RDKit a choice that may change the canonical SMILES ``text``.

    RDKit puts atoms that look alike into classes, by those of their neighbours (colour refinement), and breaks what
    ties are left. Classes of two atoms leave no choice that matters: to exchange the two of one class, and those of all
    classes that are bound to it one by one, is a symmetry. Nor do atoms with a single neighbour. In larger classes
    atoms may differ all the same, as the oxygens of amides and imides do where phthaloyl groups bind to two nitrogens.
    And a stereo centre with two neighbours of one class may be turned round by a symmetry, as in adamantanes.
    """
    classes = list(Chem.CanonicalRankAtoms(molecule, breakTies=False, includeChirality=False))
    sizes = Counter(classes)
    if len(sizes) == len(classes):
        return False
    if any(_is_tied(atom, classes) for atom in _centres(molecule, text)):
        return True
    large = {own for own, size in sizes.items() if size > 2}
    return any(molecule.GetAtomWithIdx(at).GetDegree() > 1 for at, own in enumerate(classes) if own in large)


def _centres(molecule: Chem.Mol, text: str) -> Iterator[Chem.Atom]:
    """The atoms that have stereo, or are at either end of a bond that has; ``text`` is the SMILES."""
    if "@" in text:
        yield from (atom for atom in molecule.GetAtoms() if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED)
    if "/" in text or "\\" in text:
        bonds = (bond for bond in molecule.GetBonds() if bond.GetStereo() != Chem.BondStereo.STEREONONE)
        yield from (atom for bond in bonds for atom in (bond.GetBeginAtom(), bond.GetEndAtom()))


def _is_tied(centre: Chem.Atom, classes: list[int]) -> bool:
    neighbours = [classes[atom.GetIdx()] for atom in centre.GetNeighbors()]
    return len(set(neighbours)) < len(neighbours)


def fraction(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on ``text`` and ``seed`` alone: eight bytes of BLAKE2b over 2⁶⁴."""
    hashed = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(hashed, "big") / 2.0**64
