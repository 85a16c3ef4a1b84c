"""The methods of an ensemble, against cases worked by hand and against plain versions."""

import itertools
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.chem.similarity import ParsedMolecule, parse_cached, tanimoto
from ocsrflow.ensemble.voting_methods import (
    METHODS,
    Candidates,
    PoolEntry,
    oracle,
    pair_points,
    pair_rule,
    pair_vote,
    similarities,
)

NAN = math.nan


def parsed(*texts: str) -> dict[str, ParsedMolecule | None]:
    """What RDKit makes of some texts, in this process."""
    return {text: parse_cached(text) for text in texts}


def decide(
    method: str, answers: Sequence[str], log_probabilities: Sequence[float] = (), pool: Sequence[PoolEntry] = ()
) -> tuple[str, int | None]:
    """Text and winner; members without log-probabilities are equally sure."""
    candidates = Candidates(tuple(answers), tuple(log_probabilities or [-1.0] * len(answers)), tuple(pool))
    found = METHODS[method](candidates, parsed(*answers, *(entry.text for entry in pool)))
    return found.text, found.winner


# The pair rule


def test_the_slides_totals() -> None:
    # Pair(1,2) > Pair(1,3) > Pair(2,3)
    assert pair_points({(0, 1): 0.9, (0, 2): 0.8, (1, 2): 0.7}, 3) == (5, 4, 3)


def test_four_members_by_hand() -> None:
    ranked = {(2, 3): 0.9, (0, 3): 0.8, (1, 3): 0.7, (0, 1): 0.6, (0, 2): 0.5, (1, 2): 0.4}
    # 6 to 2 and 3; 5 to 0 and 3; 4 to 1 and 3; 3 to 0 and 1; 2 to 0 and 2; 1 to 1 and 2
    assert pair_points(ranked, 4) == (5 + 3 + 2, 4 + 3 + 1, 6 + 2 + 1, 6 + 5 + 4)


def test_nothing_valid_gives_the_first_members_text() -> None:
    assert pair_rule(["C(C", "xx", ""]).winner == 0
    for method in METHODS:
        assert decide(method, ["C(C", "xx", ""], [-3.0, -2.0, -1.0]) == ("C(C", 0)


def test_one_valid_prediction_wins() -> None:
    assert pair_rule(["C(C", "xx", "CCO"]).winner == 2
    for method in METHODS:
        assert decide(method, ["C(C", "xx", "CCO"]) == ("CCO", 2)


def test_a_perfect_pair_wins_without_a_vote() -> None:
    found = pair_rule(["CCCCCCN", "OCC", "CCO"])
    assert found.winner == 1
    assert found.points == (0, 0, 0)


def test_the_most_points_win_and_invalid_ones_get_none() -> None:
    texts = ["CCCCO", "C(C", "CCCCCO", "CCCCN"]
    found = pair_rule(texts)
    assert tanimoto(texts[0], texts[2]) > tanimoto(texts[0], texts[3]) > tanimoto(texts[2], texts[3])
    assert found.points == (5, 0, 4, 3)
    assert found.winner == 0


def test_ties_go_to_the_earlier_member() -> None:
    # Two valid predictions have one pair, and one point each.
    assert pair_rule(["CCO", "CCN"]).winner == 0
    assert pair_rule(["CCN", "CCO"]).winner == 0


@pytest.mark.parametrize(("text", "again"), [("C", "[CH4]"), ("[Na+].[Cl-]", "[Cl-].[Na+]"), ("[2H+]", "[2H+]")])
def test_equal_molecules_without_a_bond_are_a_perfect_pair(text: str, again: str) -> None:
    found = pair_rule(["CC", text, again])
    assert (found.winner, found.points) == (1, (0, 0, 0))
    for method in METHODS:  # by agreement too, where a method goes by it
        assert METHODS[method](Candidates((text, again), (-1.0, -1.0)), parsed(text, again)).agreement == 1.0
    # Different ones are similar to nothing: three pairs of 0 keep their order.
    assert pair_rule(["[K+].[Br-]", text, "CC"]).points == (5, 4, 3)


def plain_rule(
    similarity: Mapping[tuple[int, int], float], valid: Sequence[int], members: int
) -> tuple[int, list[float]]:
    """The rule once more, as the design words it, rank by rank, pair by pair; and the points."""
    none = [0.0] * members
    if not valid:
        return 0, none
    if len(valid) == 1:
        return valid[0], none
    left = [pair for pair in sorted(similarity) if pair[0] in valid and pair[1] in valid]
    totals = [0.0] * members
    for place in range(len(left), 0, -1):
        highest = max(similarity[pair] for pair in left)
        best = next(pair for pair in left if similarity[pair] == highest)
        if highest == 1.0:
            return best[0], none
        left.remove(best)
        totals[best[0]] += place
        totals[best[1]] += place
    most = max(totals[i] for i in valid)
    return next(i for i in valid if totals[i] == most), totals


@given(st.data(), st.integers(1, 6))
def test_the_pair_rule_is_the_plain_one(data: st.DataObject, members: int) -> None:
    pairs = list(itertools.combinations(range(members), 2))
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)  # so that there are ties
    similarity = {pair: data.draw(value) for pair in pairs}
    valid = data.draw(st.lists(st.integers(0, members - 1), unique=True).map(sorted))
    matrix = [[1.0 if i == j else similarity[min(i, j), max(i, j)] for j in range(members)] for i in range(members)]
    found = pair_vote(matrix, valid)
    assert (found.winner, list(found.points)) == plain_rule(similarity, valid, members)


def test_similarities_are_rdkits() -> None:
    texts = ["CCO", "CCN", "C(C", "CCO", "C", "OCC"]
    expected = [[tanimoto(a, b) for b in texts] for a in texts]
    assert similarities([parse_cached(text) for text in texts]) == expected


# The others that pick an answer


def test_the_medoid_is_the_one_most_like_the_others() -> None:
    # By the pair rule two that are equal win; by the sum of similarities it may be the one in the middle.
    texts = ["CCCCCCCO", "CCCCO", "CCCCCCO", "CCCCCO"]
    sums = [sum(tanimoto(a, b) for j, b in enumerate(texts) if j != i) for i, a in enumerate(texts)]
    assert decide("medoid", texts)[1] == sums.index(max(sums)) != 0


def test_the_medoid_goes_to_the_earlier_of_equal_ones() -> None:
    # Two and two, in either order: the same sums.
    assert decide("medoid", ["CCO", "CCN", "CCO", "CCN"])[1] == 0
    assert decide("medoid", ["CCO", "CCN", "CCN", "OCC"])[1] == 0


def test_votes_weigh_the_members_certainty_and_join_spellings() -> None:
    # 0.3 + 0.3 for ethanol in two spellings, against 0.5.
    certain = [math.log(0.5), math.log(0.3), math.log(0.3)]
    assert decide("votes", ["CCN", "OCC", "CCO"], certain) == ("OCC", 1)
    assert decide("votes", ["CCN", "OCC", "CO"], certain) == ("CCN", 0)
    # An invalid one has no vote, however certain.
    assert decide("votes", ["C(C", "CCO", "CCN"], [0.0, -2.0, -3.0]) == ("CCO", 1)


def test_votes_of_equal_weight_go_to_the_earlier_member() -> None:
    assert decide("votes", ["CCO", "CCN", "CCN", "CCO"]) == ("CCO", 0)
    assert decide("votes", ["CCN", "CCO"], [-2000.0, -2000.0]) == ("CCN", 0)
    assert decide("votes", ["CCN", "CCO"], [NAN, -20.0]) == ("CCO", 1)


# Those that look at the pool


def test_rescored_takes_the_molecule_that_all_find_likeliest() -> None:
    pool = [PoolEntry("CCN", (-0.1, -9.0), NAN), PoolEntry("CCO", (-2.0, -2.0), NAN), PoolEntry("C(C", (0.0, 0.0), NAN)]
    assert decide("rescored", ["CCN", "CCC"], pool=pool) == ("CCO", None)  # nobody's own answer


def test_spellings_of_a_molecule_are_added_up() -> None:
    half = math.log(0.2)
    pool = [
        PoolEntry("CCN", (math.log(0.3), math.log(0.3)), NAN),
        PoolEntry("OCC", (half, half), NAN),
        PoolEntry("CCO", (half, half + 0.01), NAN),
    ]
    candidates = Candidates(("CCN", "OCC"), (-1.0, -1.0), tuple(pool))
    found = METHODS["rescored"](candidates, parsed("CCN", "OCC", "CCO"))
    assert (found.text, found.winner) == ("CCO", 1)  # the likelier spelling, and who answered that molecule
    both = [math.log(0.4), math.log(0.2 + 0.2 * math.exp(0.01))]
    assert found.log_probability == pytest.approx(sum(both) / 2)


def test_redrawn_takes_the_nearest_drawing_and_then_the_likelier() -> None:
    pool = [PoolEntry("CCN", (-0.1,), 0.3), PoolEntry("CCO", (-5.0,), 0.2), PoolEntry("CCC", (-4.0,), 0.2)]
    assert decide("redrawn", ["CCN"], pool=pool) == ("CCC", None)
    unknown = [PoolEntry("CCN", (-0.1,), NAN), PoolEntry("CCO", (-5.0,), 1.0)]
    assert decide("redrawn", ["CCN"], pool=unknown) == ("CCO", None)
    nothing = [PoolEntry("CCN", (-0.3,), NAN), PoolEntry("CCO", (-0.2,), NAN)]
    assert decide("redrawn", ["CCN"], pool=nothing) == ("CCO", None)


@pytest.mark.parametrize("method", ["rescored", "redrawn"])
def test_without_a_valid_candidate_it_is_the_pair_rule(method: str) -> None:
    texts = ["CCCCCCN", "OCC", "CCO"]
    assert decide(method, texts) == decide("pairs", texts) == ("OCC", 1)
    assert decide(method, texts, pool=[PoolEntry("C(C", (-0.1, -0.1, -0.1), 0.0)]) == ("OCC", 1)


# What is said of every decision


def test_agreement_is_with_all_members_and_invalid_ones_count_nothing() -> None:
    answers = ("CCO", "C(C", "OCC", "CCN")
    found = METHODS["pairs"](Candidates(answers, (-1.0,) * 4), parsed(*answers))
    assert found.agreement == pytest.approx((1 + 0 + 1 + tanimoto("CCO", "CCN")) / 4)
    nothing = METHODS["pairs"](Candidates(("C(C", "C(C"), (-1.0, -1.0)), parsed("C(C"))
    assert nothing.agreement == 0.0


def test_likelihood_and_distance_are_those_of_the_pool_where_it_has_them() -> None:
    candidates = Candidates(
        ("CCO", "OCC"), (-1.0, -2.0), (PoolEntry("OCC", (-3.0, -5.0), 0.25), PoolEntry("CCN", (-9.0, -9.0), 0.5))
    )
    for method in METHODS:
        found = METHODS[method](candidates, parsed("CCO", "OCC", "CCN"))
        assert (found.winner, found.log_probability, found.distance) == (0, -4.0, 0.25)
    unscored = Candidates(("CCO", "OCC"), (-1.0, -2.0), (PoolEntry("CCO", (), 0.25),))
    without = METHODS["pairs"](unscored, parsed("CCO", "OCC"))
    assert (without.log_probability, without.distance) == (-1.0, 0.25)
    bare = METHODS["pairs"](Candidates(("CCO", "OCC"), (-1.0, -2.0)), parsed("CCO", "OCC"))
    assert bare.log_probability == -1.0
    assert math.isnan(bare.distance)


@given(st.sampled_from(["CCO", "C", "[Na+].[Cl-]", "c1ccccc1", "C(C"]), st.integers(1, 5), st.sampled_from([*METHODS]))
def test_members_that_agree_get_their_answer(text: str, members: int, method: str) -> None:
    pool = [PoolEntry(text, (-1.0,) * members, 0.5)]
    assert decide(method, [text] * members, pool=pool) == (text, 0)


# The ceiling


def test_the_oracle_takes_the_member_nearest_to_the_reference() -> None:
    def best(answers: Sequence[str], reference: str) -> int | None:
        return oracle(Candidates(tuple(answers), (-1.0,) * len(answers)), reference, parsed(*answers, reference)).winner

    assert best(["CCN", "CCCO", "CCCCCCO"], "CCO") == 1
    assert best(["CCN", "CCN"], "CCO") == 0
    # Tanimoto similarity does not see stereochemistry, exact matches do.
    assert best(["C[C@H](N)O", "C[C@@H](N)O"], "C[C@@H](N)O") == 1
    assert best(["C(C", "CCC"], "not parsed") == 1


@given(st.lists(st.sampled_from(["CCO", "CCN", "CCCO", "C(C", "OCC"]), min_size=1, max_size=4))
def test_no_method_that_picks_an_answer_beats_the_oracle(answers: list[str]) -> None:
    molecules, candidates = parsed(*answers, "CCO"), Candidates(tuple(answers), (-1.0,) * len(answers))
    ceiling = tanimoto(oracle(candidates, "CCO", molecules).text, "CCO")
    for method in METHODS.values():
        assert tanimoto(method(candidates, molecules).text, "CCO") <= ceiling
