"""What a drawing writes in letters in place of bonds: abbreviated groups, methyls, chains; hydrogens; salts.

The text that a picture stands for is always the whole molecule.
"""

import random
from functools import cache

from rdkit import Chem
from rdkit.Chem import rdAbbreviations, rdqueries

LABEL, LABEL_WEST = "_displayLabel", "_displayLabelW"  # RDKit's properties: as read from left, and from right

# Groups that papers and patents abbreviate and RDKit's own list does not have. Each line: name, SMARTS with the atom it
# hangs on as *, label, label where the bond comes from the right. Larger groups first: the first match counts.
_MORE = """
NHBoc *[NX3;H1]C(=O)OC([CH3])([CH3])[CH3] NHBoc BocHN
NHCbz *[NX3;H1]C(=O)O[CH2]c1[cH][cH][cH][cH][cH]1 NHCbz CbzHN
OTBS *O[Si]([CH3])([CH3])C([CH3])([CH3])[CH3] OTBS TBSO
Boc *C(=O)OC([CH3])([CH3])[CH3] Boc Boc
Cbz *C(=O)O[CH2]c1[cH][cH][cH][cH][cH]1 Cbz Cbz
PMB *[CH2]c1[cH][cH]c(O[CH3])[cH][cH]1 PMB PMB
CO2tBu *C(=O)OC([CH3])([CH3])[CH3] CO<sub>2</sub>tBu tBuO<sub>2</sub>C
Ts *S(=O)(=O)c1[cH][cH]c([CH3])[cH][cH]1 Ts Ts
OBn *O[CH2]c1[cH][cH][cH][cH][cH]1 OBn BnO
NHBn *[NX3;H1][CH2]c1[cH][cH][cH][cH][cH]1 NHBn BnHN
Bz *C(=O)c1[cH][cH][cH][cH][cH]1 Bz Bz
OPh *Oc1[cH][cH][cH][cH][cH]1 OPh PhO
NHPh *[NX3;H1]c1[cH][cH][cH][cH][cH]1 NHPh PhHN
SPh *Sc1[cH][cH][cH][cH][cH]1 SPh PhS
COPh *C(=O)c1[cH][cH][cH][cH][cH]1 COPh PhOC
Bn *[CH2]c1[cH][cH][cH][cH][cH]1 Bn Bn
CH2Ph *[CH2]c1[cH][cH][cH][cH][cH]1 CH<sub>2</sub>Ph PhCH<sub>2</sub>
Ph *c1[cH][cH][cH][cH][cH]1 Ph Ph
C6H5 *c1[cH][cH][cH][cH][cH]1 C<sub>6</sub>H<sub>5</sub> H<sub>5</sub>C<sub>6</sub>
TMS *[Si]([CH3])([CH3])[CH3] TMS TMS
OTf *OS(=O)(=O)C(F)(F)F OTf TfO
OMs *OS(=O)(=O)[CH3] OMs MsO
NHMs *[NX3;H1]S(=O)(=O)[CH3] NHMs MsHN
SO2Me *S(=O)(=O)[CH3] SO<sub>2</sub>Me MeO<sub>2</sub>S
SO2CH3 *S(=O)(=O)[CH3] SO<sub>2</sub>CH<sub>3</sub> H<sub>3</sub>CO<sub>2</sub>S
SO2NH2 *S(=O)(=O)[NH2] SO<sub>2</sub>NH<sub>2</sub> H<sub>2</sub>NO<sub>2</sub>S
SO2Cl *S(=O)(=O)Cl SO<sub>2</sub>Cl ClO<sub>2</sub>S
CO2Me *C(=O)O[CH3] CO<sub>2</sub>Me MeO<sub>2</sub>C
COOMe *C(=O)O[CH3] COOMe MeOOC
COOCH3 *C(=O)O[CH3] COOCH<sub>3</sub> H<sub>3</sub>COOC
COOEt *C(=O)O[CH2][CH3] COOEt EtOOC
COOC2H5 *C(=O)O[CH2][CH3] COOC<sub>2</sub>H<sub>5</sub> H<sub>5</sub>C<sub>2</sub>OOC
CONH2 *C(=O)[NH2] CONH<sub>2</sub> H<sub>2</sub>NOC
CONHMe *C(=O)[NX3;H1][CH3] CONHMe MeHNOC
CONMe2 *C(=O)N([CH3])[CH3] CONMe<sub>2</sub> Me<sub>2</sub>NOC
COCF3 *C(=O)C(F)(F)F COCF<sub>3</sub> F<sub>3</sub>COC
COCl *C(=O)Cl COCl ClOC
COMe *C(=O)[CH3] COMe MeOC
COCH3 *C(=O)[CH3] COCH<sub>3</sub> H<sub>3</sub>COC
NHCOCH3 *[NX3;H1]C(=O)[CH3] NHCOCH<sub>3</sub> H<sub>3</sub>COCHN
OCF3 *OC(F)(F)F OCF<sub>3</sub> F<sub>3</sub>CO
SCF3 *SC(F)(F)F SCF<sub>3</sub> F<sub>3</sub>CS
OCHF2 *O[CH](F)F OCHF<sub>2</sub> F<sub>2</sub>HCO
CHF2 *[CH](F)F CHF<sub>2</sub> F<sub>2</sub>HC
CH2CF3 *[CH2]C(F)(F)F CH<sub>2</sub>CF<sub>3</sub> F<sub>3</sub>CCH<sub>2</sub>
NMe2 *N([CH3])[CH3] NMe<sub>2</sub> Me<sub>2</sub>N
NEt2 *N([CH2][CH3])[CH2][CH3] NEt<sub>2</sub> Et<sub>2</sub>N
N(CH3)2 *N([CH3])[CH3] N(CH<sub>3</sub>)<sub>2</sub> (H<sub>3</sub>C)<sub>2</sub>N
NHMe *[NX3;H1][CH3] NHMe MeHN
NHCH3 *[NX3;H1][CH3] NHCH<sub>3</sub> H<sub>3</sub>CHN
NHEt *[NX3;H1][CH2][CH3] NHEt EtHN
NHNH2 *[NX3;H1][NH2] NHNH<sub>2</sub> H<sub>2</sub>NHN
OC2H5 *O[CH2][CH3] OC<sub>2</sub>H<sub>5</sub> H<sub>5</sub>C<sub>2</sub>O
OCH3 *O[CH3] OCH<sub>3</sub> H<sub>3</sub>CO
SCH3 *S[CH3] SCH<sub>3</sub> H<sub>3</sub>CS
C2H5 *[CH2][CH3] C<sub>2</sub>H<sub>5</sub> H<sub>5</sub>C<sub>2</sub>
CH2CH3 *[CH2][CH3] CH<sub>2</sub>CH<sub>3</sub> H<sub>3</sub>CH<sub>2</sub>C
CH2OH *[CH2][OH] CH<sub>2</sub>OH HOH<sub>2</sub>C
CH2Cl *[CH2]Cl CH<sub>2</sub>Cl ClH<sub>2</sub>C
CH2Br *[CH2]Br CH<sub>2</sub>Br BrH<sub>2</sub>C
CH2NH2 *[CH2][NH2] CH<sub>2</sub>NH<sub>2</sub> H<sub>2</sub>NH<sub>2</sub>C
CH2CO2H *[CH2]C(=O)[OH] CH<sub>2</sub>CO<sub>2</sub>H HO<sub>2</sub>CH<sub>2</sub>C
CH(CH3)2 *[CH]([CH3])[CH3] CH(CH<sub>3</sub>)<sub>2</sub> (H<sub>3</sub>C)<sub>2</sub>HC
C(CH3)3 *C([CH3])([CH3])[CH3] C(CH<sub>3</sub>)<sub>3</sub> (H<sub>3</sub>C)<sub>3</sub>C
CH=CH2 *[CH]=[CH2] CH=CH<sub>2</sub> H<sub>2</sub>C=HC
iBu *[CH2][CH]([CH3])[CH3] iBu iBu
CHO *[CX3H1]=O CHO OHC
N3 *N=[N+]=[N-] N<sub>3</sub> N<sub>3</sub>
N3 *[N-][N+]#N N<sub>3</sub> N<sub>3</sub>
NCS *N=C=S NCS SCN
NCO *N=C=O NCO OCN
"""
# Of RDKit's list: what is labelled iBu and iPent there is sec-butyl and 2-pentyl, and NMe and NCF3 lack a hydrogen.
_WRONG = {"iBu", "iPent", "NMe", "NCF3"}
_METHYLENE = "[CX4;H2;D2;!R;0*]"
_CHAIN = Chem.MolFromSmarts("-".join(["[!#1]", *[_METHYLENE] * 3]))
_SALT = ("{0}", "x {0}", ". {0}", ".{0}")  # in ASCII: of other letters RDKit draws each byte


@cache
def _abbreviations() -> list[rdAbbreviations.AbbreviationDefinition]:
    of_rdkit = [a for a in rdAbbreviations.GetDefaultAbbreviations() if a.label not in _WRONG]
    found = [*rdAbbreviations.ParseAbbreviations(_MORE.strip()), *of_rdkit]
    for abbreviation in found:
        # A label says nothing of isotopes, radicals and charges that the group itself does not have.
        group = abbreviation.mol
        for atom in list(group.GetAtoms())[1:]:
            atom.ExpandQuery(rdqueries.IsotopeEqualsQueryAtom(0))
            atom.ExpandQuery(rdqueries.NumRadicalElectronsEqualsQueryAtom(0))
            atom.ExpandQuery(rdqueries.FormalChargeEqualsQueryAtom(atom.GetFormalCharge()))
        abbreviation.mol = group
    return found


def abbreviated(molecule: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """A copy in which some groups, at ends and within chains, are one labelled atom; not sanitised.

    Which of the abbreviations a drawing uses is decided for the drawing as a whole: some authors write every ester so,
    others none. Stereo is kept: the bond to the group stays where it was.
    """
    share = rng.choice((0.3, 0.6, 1.0))
    used = [definition for definition in _abbreviations() if rng.random() < share]
    # One of several labels for the same group is used, and not always the first.
    rng.shuffle(used)
    used.sort(key=lambda definition: -definition.mol.GetNumAtoms())
    condensed = rdAbbreviations.CondenseMolAbbreviations(molecule, used, maxCoverage=0.9, sanitize=False)
    if _centres(condensed) < _centres(molecule):  # a group of RDKit's list has swallowed one, as sec-butyl's
        return molecule
    if rng.random() < 0.3:
        Chem.FastFindRings(condensed)
        condensed = _short_chains(condensed)
    return condensed


def _short_chains(molecule: Chem.Mol) -> Chem.Mol:
    """A copy in which each chain of three or more CH2 groups is one atom, labelled (CH2)n."""
    result = Chem.RWMol(molecule)
    removed: set[int] = set()
    for match in molecule.GetSubstructMatches(_CHAIN):
        chain = list(match[1:])
        if removed & set(chain):
            continue
        while (following := _next_methylene(molecule, chain)) is not None:
            chain.append(following)
        beyond = [n.GetIdx() for n in molecule.GetAtomWithIdx(chain[-1]).GetNeighbors() if n.GetIdx() != chain[-2]]
        if not beyond or any(_has_stereo(molecule.GetAtomWithIdx(i)) for i in beyond):
            continue  # the new bond would come last among its neighbours', and turn its stereo round
        first = result.GetAtomWithIdx(chain[0])
        first.SetNoImplicit(True)
        _label(first, f"(CH<sub>2</sub>)<sub>{len(chain)}</sub>")
        result.AddBond(chain[0], beyond[0], Chem.BondType.SINGLE)
        removed |= set(chain[1:])
    for index in sorted(removed, reverse=True):
        result.RemoveAtom(index)
    return result.GetMol()


def _next_methylene(molecule: Chem.Mol, chain: list[int]) -> int | None:
    for atom in molecule.GetAtomWithIdx(chain[-1]).GetNeighbors():
        plain = atom.GetAtomicNum() == 6 and atom.GetTotalNumHs() == 2 and not atom.IsInRing() and not atom.GetIsotope()
        if atom.GetIdx() not in chain and plain and atom.GetDegree() == 2 and not _has_stereo(atom):
            return int(atom.GetIdx())
    return None


def _centres(molecule: Chem.Mol) -> int:
    """Stereocentres that are drawn as atoms."""
    atoms = (atom for atom in molecule.GetAtoms() if not atom.HasProp(LABEL))
    return sum(atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for atom in atoms)


def _has_stereo(atom: Chem.Atom) -> bool:
    double = any(bond.GetStereo() != Chem.BondStereo.STEREONONE for bond in atom.GetBonds())
    neighbours = any(b.GetStereo() != Chem.BondStereo.STEREONONE for n in atom.GetNeighbors() for b in n.GetBonds())
    return atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED or double or neighbours


def _is_plain_carbon(atom: Chem.Atom) -> bool:
    """Whether a label of letters says all of a carbon: it has no charge, no isotope and no label yet."""
    marked = atom.GetFormalCharge() or atom.GetIsotope() or atom.HasProp(LABEL)
    return atom.GetAtomicNum() == 6 and not marked


def _label(atom: Chem.Atom, text: str, west: str | None = None) -> None:
    """Have an atom drawn as a text, and as another one where its bond comes from the right."""
    atom.SetProp(LABEL, text)
    atom.SetProp(LABEL_WEST, text if west is None else west)


def write_methyls(molecule: Chem.Mol, rng: random.Random) -> None:
    """Label the methyl groups: as CH3 or Me, all of them in the same way."""
    label, west = rng.choice((("CH<sub>3</sub>", "H<sub>3</sub>C"), ("Me", "Me")))
    for atom in molecule.GetAtoms():
        if _is_plain_carbon(atom) and atom.GetDegree() == 1 and atom.GetTotalNumHs() == 3:
            _label(atom, label, west)


def write_carbons(molecule: Chem.Mol) -> None:
    """Label every carbon outside rings with its hydrogens, as older patents do: H3C–CH2–CH=."""
    for atom in molecule.GetAtoms():
        if _is_plain_carbon(atom) and not atom.IsInRing():
            hydrogens = atom.GetTotalNumHs()
            text = "" if not hydrogens else "H" if hydrogens == 1 else f"H<sub>{hydrogens}</sub>"
            _label(atom, f"C{text}", f"{text}C")


def write_salts(molecule: Chem.Mol, rng: random.Random) -> None:
    """Label hydrogen halides that stand beside a molecule: HCl, ClH, x HCl, . HCl."""
    form = rng.choice(_SALT)
    for atom in molecule.GetAtoms():
        alone = atom.GetDegree() == 0 and not atom.GetIsotope() and not atom.GetFormalCharge()
        if alone and atom.GetSymbol() in ("F", "Cl", "Br", "I") and atom.GetTotalNumHs() == 1:
            text = rng.choice((f"H{atom.GetSymbol()}", f"H{atom.GetSymbol()}", f"{atom.GetSymbol()}H"))
            _label(atom, form.format(text))


def number_atoms(molecule: Chem.Mol, rng: random.Random) -> None:
    """Put a small number beside each atom, or beside those of its rings."""
    only_rings = rng.random() < 0.5
    for number, atom in enumerate(molecule.GetAtoms(), start=rng.choice((0, 1, 1))):
        if atom.IsInRing() or not only_rings:
            atom.SetProp("atomNote", str(number))


def with_hydrogens(molecule: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """A copy with some hydrogens as atoms of their own: those of stereocentres, and of heteroatoms or of CH."""
    centres = [a for a in molecule.GetAtoms() if a.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]
    others = [a for a in molecule.GetAtoms() if a.GetAtomicNum() in (7, 8) or (a.GetAtomicNum() == 6 and a.IsInRing())]
    others = [a for a in others if a.GetTotalNumHs() == 1 and a.GetDegree() <= 3]
    chosen = [a.GetIdx() for a in centres if a.GetTotalNumHs() == 1]
    if others and (not chosen or rng.random() < 0.3):
        chosen += [a.GetIdx() for a in rng.sample(others, min(len(others), rng.randint(1, 2)))]
    return Chem.AddHs(molecule, onlyOnAtoms=sorted(set(chosen))) if chosen else molecule
