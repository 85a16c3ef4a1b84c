"""The points of a search: a trial's settings depend on its number, the space and the seed alone."""

import math

import pytest
from ocsrflow.config.searches import space_from_json
from ocsrflow.search.points import point

SPACE = space_from_json(
    '{"training.encoder_lr": {"log": [0.00011, 0.0033]}, "network.dim": [256, 384, 512], '
    '"training.augmentation.share": {"uniform": [0, 0.5]}, "training.warmup_steps": {"integers": [3, 5]}}'
)


def test_a_point_is_the_same_however_many_there_are() -> None:
    points = [point(SPACE, 7, number) for number in range(16)]
    assert [point(SPACE, 7, number) for number in reversed(range(16))] == points[::-1]
    assert len({tuple(values.values()) for values in points}) == 16
    assert point(dict(reversed(SPACE.items())), 7, 3) == points[3]
    assert all(point(SPACE, 8, number) != points[number] for number in range(16))


def test_points_fill_the_space_evenly() -> None:
    points = [point(SPACE, 1, number) for number in range(32)]
    rates = [values["training.encoder_lr"] for values in points]
    middle = math.sqrt(0.00011 * 0.0033)
    assert sum(rate < middle for rate in rates) == 16  # as many below the middle of the logarithms as above
    assert min(rates) >= 0.00011
    assert max(rates) <= 0.0033
    assert sum(values["training.augmentation.share"] < 0.25 for values in points) == 16
    for key, wanted in (("network.dim", {256, 384, 512}), ("training.warmup_steps", {3, 4, 5})):
        found = [values[key] for values in points]
        assert set(found) == wanted
        assert all(8 <= found.count(value) <= 13 for value in wanted)
        assert all(type(value) is int for value in found)


@pytest.mark.parametrize("number", range(8))
def test_real_numbers_have_few_digits(number: int) -> None:
    for value in point(SPACE, 3, number).values():
        assert float(f"{value:.4g}") == value
