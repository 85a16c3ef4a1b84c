"""The scores, against hand-made cases and against the definitions written out again."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from ocsrflow.chem.molecules import canonical_text, parse, without_stereo
from ocsrflow.chem.scores import EXACT, Score, _look_closer, _Pair, bootstrap, evaluate, wilson
from ocsrflow.chem.similarity import tanimoto
from rdkit import Chem, RDConfig
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions
from rdkit.Chem.MolStandardize.rdMolStandardize import TautomerEnumerator


def values(predictions: list[str], references: list[str]) -> dict[str, float]:
    return {name: score.value for name, score in evaluate(predictions, references).scores.items()}


def test_tanimoto_is_rdkits_and_zero_for_what_cannot_be_parsed() -> None:
    assert tanimoto("CCO", "OCC") == 1.0
    assert 0 < tanimoto("CCO", "CCN") < 1
    assert tanimoto("CCO", "C(C") == 0.0
    assert tanimoto("", "") == 0.0


def test_the_four_exact_matches_differ_where_they_should() -> None:
    references = ["F/C=C/F", "C[C@H](N)O", "OC=CC", "CCO"]
    found = values(["F/C=C\\F", "C[C@@H](N)O", "O=CCC", "OCC"], references)
    # Right only without the bond's direction; only without stereo; only another tautomer; spelt differently.
    assert found["exact"] == 0.25
    assert found["exact_no_cis_trans"] == 0.5
    assert found["exact_no_stereo"] == 0.75
    assert found["exact_inchi"] == 0.25
    assert found["perfect"] == 0.75


def test_isotopes_count_where_stereo_does_not() -> None:
    cases = [
        ("[13CH3]CO", "CCO", False),
        ("[2H]C([2H])([2H])CO", "CCO", False),
        ("[2H]O[2H]", "O", False),
        ("C[C@H]([2H])O", "C[C@@H]([2H])O", True),  # a centre by an isotope alone
        ("C[C@@H]([2H])O", "CCO", False),
        ("[13CH3][C@@H](C)O", "CC([13CH3])O", True),
        ("[13CH3]/C=C/C", "[13CH3]/C=C\\C", True),
        ("[13CH3]/C=C/C", "C/C=C/C", False),
        ("[235U]", "[238U]", False),
        ("[H]/N=C(/C)CC", "CCC(C)=N", True),  # a hydrogen that is written for stereo alone
        ("C[S@](=O)CC", "CCS(C)=O", True),
    ]
    pairs = [_Pair(*two, exact=False) for a, b, _ in cases for two in ((a, b), (b, a))]
    found = [details.same[1] for details in _look_closer(pairs, 1, 10.0)]
    assert found == [same for *_, same in cases for _ in range(2)]
    assert values(["[13CH3]CO", "OC[13CH3]"], ["CCO", "[13CH3]CO"])["exact_no_stereo"] == 0.5


def test_standard_inchi_joins_mobile_hydrogens() -> None:
    found = values(["Cc1cnc[nH]1"], ["Cc1c[nH]cn1"])
    assert found["exact_inchi"] == 1.0
    assert found["exact"] == 0.0


def test_a_molecule_without_an_inchi_equals_none() -> None:
    found = values(["*CC", "C" * 1100], ["*CC", "C" * 1100])  # a wildcard; more atoms than InChI takes
    assert found["exact"] == found["exact_no_stereo"] == 1.0
    assert found["exact_inchi"] == 0.0


def test_equal_molecules_without_a_bond_are_perfect() -> None:
    found = values(["C", "[Cl-].[Na+]"], ["C", "[Na+].[Cl-]"])
    assert (found["tanimoto"], found["perfect"], found["exact"]) == (1.0, 1.0, 1.0)
    assert values(["C"], ["N"])["tanimoto"] == 0.0


def test_a_name_after_a_smiles_makes_it_invalid_in_both_lists() -> None:
    found = evaluate(["CCO ethanol", "CCO", "CCO"], ["CCO", "CCO ethanol", "CCO"])
    assert found.dropped.tolist() == [1]
    assert found.valid.tolist() == [False, True]
    assert found.scores["exact"].value == 0.5


def test_an_invalid_prediction_is_wrong_in_everything() -> None:
    assert set(values(["C(C", ""], ["CC", "CC"]).values()) == {0.0}


def test_a_reference_that_cannot_be_parsed_is_dropped_and_counted() -> None:
    found = evaluate(["CC", "CC", "CO"], ["CC", "C(C", "CO"])
    assert found.dropped_references == 1
    assert found.used.tolist() == [0, 2]
    assert found.dropped.tolist() == [1]
    assert found.scores["tanimoto"].value == 1.0


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1"):
        evaluate(["C", "C"], ["C"])


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (73, 200)])
def test_wilson_solves_its_own_equation(k: int, n: int) -> None:
    score = wilson(k, n)
    z = 1.959963984540054
    for bound in (score.low, score.high):
        if 0 < bound < 0.999:
            assert abs(k / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-6)
    assert score.low <= k / n <= score.high + 1e-9


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    sample = np.random.default_rng(1).normal(0.5, 0.1, 400)
    score = bootstrap(sample)
    assert score.value == pytest.approx(sample.mean())
    assert score.high - score.low == pytest.approx(2 * 1.96 * sample.std() / 20, rel=0.1)
    assert bootstrap(sample) == score


@pytest.mark.parametrize("n", [1, 7, 300, 2500])
def test_the_bootstrap_draws_what_the_plain_loop_draws(n: int) -> None:
    sample = np.random.default_rng(n).beta(5, 1, n)
    generator = np.random.default_rng(0)
    means = [generator.choice(sample, n).mean() for _ in range(1000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert bootstrap(sample) == Score(float(sample.mean()), float(low), float(high))


def plainly_same(prediction: str, reference: str) -> tuple[bool, ...]:
    """The four exact matches by their definitions, everything worked out."""
    found = []
    for text in (prediction, reference):
        molecule, flat = parse(text), parse(text.replace("/", "").replace("\\", ""))
        if molecule is None:
            return (False,) * 4
        found.append(
            (
                Chem.MolToSmiles(molecule),
                Chem.MolToSmiles(flat) if flat is not None else "",
                canonical_text(without_stereo(molecule)),
                Chem.MolToInchi(molecule),
            )
        )
    return tuple(a == b != "" for a, b in zip(*found, strict=True))


ODD = """
    [NH4+] N; [Na]Cl [Na+].[Cl-]; C[N+](=O)[O-] CN(=O)=O; [2H]C C; [2H]O[2H] O; [CH3] C; [CH2] C; *C *C; *C C; C(C) CC
    OC(=O)C [O-]C(=O)C; NCC(=O)O [NH3+]CC(=O)[O-]; C[n+]1cc[nH]c1 Cn1cc[nH+]c1; N=C(N)NC NC(=N)NC; [13CH4] C; CC C.C
    c1ccc2c(c1)/c1ccccc21 c1ccc2c(c1)c1ccccc21; C/C=C/C CC=CC; C[C@H](/C=C/C)/C=C\\C C[C@@H](/C=C/C)/C=C\\C; [H][H] [HH]
    C[S@](=O)CC C[S@@](=O)CC; CC(O)=CC(C)=O CC(=O)CC(C)=O; [Fe+2].[O-]C=O [Fe]OC=O; F[P-](F)(F)(F)(F)F FP(F)(F)(F)F
"""


def misread(reference: str, generator: random.Random) -> str:
    """What a model may make of a molecule."""
    molecule = parse(reference)
    assert molecule is not None
    at = generator.randrange(len(reference) - 1)
    match generator.randrange(7):
        case 0:
            return Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=at + 1)[0]
        case 1:
            return reference.replace("@@", "!").replace("@", "@@").replace("!", "@")
        case 2:
            return reference.replace("/", "!").replace("\\", "/").replace("!", "\\")
        case 3:
            return reference.replace("@", "").replace("/", "")
        case 4:
            return reference[:at] + generator.choice("CNOSFc1n()=+-/") + reference[at + 1 :]
        case 5:
            return reference[:at] + reference[at + 1] + reference[at] + reference[at + 2 :]
    tautomers = TautomerEnumerator()
    tautomers.SetMaxTautomers(4)
    return generator.choice([Chem.MolToSmiles(other) for other in tautomers.Enumerate(molecule)])


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Predictions and references: odd ones, and molecules of the NCI, half of them with stereo."""
    text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
    generator = random.Random(0)
    one_isomer = StereoEnumerationOptions(maxIsomers=1, rand=1)
    found = [tuple(pair.split()) for line in ODD.strip().splitlines() for pair in line.split(";")]
    for line in text.splitlines()[:2600]:
        reference = line.split("\t")[0]
        molecule = parse(reference)
        if molecule is None or not 2 < len(reference) < 60:
            continue
        if generator.random() < 0.5:
            reference = Chem.MolToSmiles(next(iter(EnumerateStereoisomers(molecule, options=one_isomer))))
        found.append((misread(reference, generator), reference))
    return [prediction for prediction, _ in found], [reference for _, reference in found]


def test_working_out_no_more_than_is_needed_changes_nothing(pairs: tuple[list[str], list[str]]) -> None:
    predictions, references = pairs
    assert len(references) > 2000
    found = evaluate(predictions, references, processes=2)
    plain = np.array([plainly_same(predictions[at], references[at]) for at in found.used])
    assert [found.scores[name].value for name in EXACT] == plain.mean(axis=0).tolist()
    assert found.exact.tolist() == plain[:, 0].tolist()
    assert found.valid.tolist() == [parse(predictions[at]) is not None for at in found.used]
    similar = [tanimoto(predictions[at], references[at]) for at in found.used[:1000]]
    assert found.similarity[:1000].tolist() == similar
    # Each of the senses is met without the others, the InChI's mobile hydrogens included.
    assert (plain[:, 3] & ~plain[:, 2]).sum() > 20
    assert (plain[:, 2] & ~plain[:, 3]).sum() > 20
    assert (plain[:, 1] & ~plain[:, 0]).sum() > 20
    # And pair by pair.
    own = [
        _Pair(predictions[at] if valid else None, references[at], exact)
        for at, valid, exact in zip(found.used, found.valid, found.exact, strict=True)
    ]
    wrong = [
        (pair, details.same, expected)
        for pair, details, (_, *expected) in zip(own, _look_closer(own, 2, 10.0), plain.tolist(), strict=True)
        if list(details.same) != expected
    ]
    assert wrong == []


def test_the_number_of_processes_changes_nothing(pairs: tuple[list[str], list[str]]) -> None:
    predictions, references = (texts[:150] for texts in pairs)
    one, two = (evaluate(predictions, references, processes=processes) for processes in (1, 2))
    assert one.scores == two.scores
    assert one.groups == two.groups
    assert one.similarity.tolist() == two.similarity.tolist()


def test_groups_are_by_what_the_reference_is() -> None:
    references = [
        "C",
        "CCCCCCCCCC",  # ten characters
        "CCCCCCCCCCC",
        "C[C@H](F)Cl",
        "F/C=C/F",
        "C[C@H](F)/C=C/Br",
        "C[C@H](C)C",  # not a centre: no stereo
        "c1ccc2ccccc2c1[Se]",
        "C1C2C3C1C1C2C31",
        "[Na+].[Cl-]",
    ]
    predictions = [*references[:-1], "C(C"]
    found = evaluate(predictions, references).groups
    images = {kind: {row["group"]: row["images"] for row in rows} for kind, rows in found.items()}
    assert images == {
        "length": {"1-10": 4, "11-20": 6},
        "stereo": {"none": 7, "tetrahedral": 1, "cis-trans": 1, "both": 1},
        "rings": {"0": 8, "2": 1, "4": 1},
        "elements": {"C": 9, "F": 3, "Cl": 2, "Br": 1, "other": 2},
    }
    assert [row["group"] for row in found["elements"]] == ["C", "F", "Cl", "Br", "other"]
    chlorine = found["elements"][2]
    assert chlorine["exact"] == wilson(1, 2)
    assert chlorine["validity"] == wilson(1, 2)
    assert chlorine["tanimoto"] == bootstrap(np.array([1.0, 0.0]))


def test_no_pairs_have_no_scores() -> None:
    for found in (evaluate([], []), evaluate(["C"], ["C(C"])):
        assert all(math.isnan(score.value) for score in found.scores.values())
        assert found.groups == {"length": [], "stereo": [], "rings": [], "elements": []}


def test_a_pair_that_cannot_be_looked_at_closer_is_in_an_unknown_group() -> None:
    large = "C(C)" * 2500
    (details,) = _look_closer([_Pair(large, large, True)], 1, 0.05)
    assert details == ((True, True, False), "unknown", ())
