"""What unit boxes betray: every other one than pixels where they show it, and pixels never among many boxes."""

from __future__ import annotations

import numpy as np
import pytest

from amc_lib.datasets.units import UNITS, evident_unit, likely_unit


def boxes(count: int, size: tuple[int, int], unit: str, seed: int = 0) -> list[tuple]:
    """Of two random points in pictures of `size`, the last one down to the far corner."""
    ends = np.sort(np.random.default_rng(seed).uniform(size=(count, 2, 2)), axis=1)
    ends[-1, 1] = 1
    return [(tuple((end * (UNITS[unit] or size)).ravel()), size) for end in ends]


@pytest.mark.parametrize("size", [(90, 120), (500, 375), (1000, 1000), (1920, 1080), (4000, 3000)])
def test_random_pixels_are_taken_for_no_other_unit(size):
    for seed in range(300):
        assert not likely_unit(boxes(5, size, "pixel", seed))


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("share", (500, 375)),
        ("percent", (500, 375)),
        ("percent", (60, 80)),
        ("permille", (500, 375)),
        ("permille", (1280, 720)),
        ("permille", (4000, 3000)),
    ],
)
def test_other_units_are_recognised(unit, size):
    found = boxes(30, size, unit)
    assert evident_unit(found) == likely_unit(found) == unit
    (x1, y1, *_), size = found[-1]
    assert evident_unit([*found, ((x1, y1, 1.03 * UNITS[unit], y1 + 1), size)]) == ("" if unit == "share" else unit)


def test_pixels_of_which_some_lie_outside_by_little_or_seldom_stay_pixels():
    found = boxes(30, (950, 700), "pixel")
    assert not evident_unit([*found, ((10, 10, 1000, 700), (950, 700))])
    assert not evident_unit([((0, 0, 955, 704), size) for _, size in found])


def test_pixels_that_end_beyond_percent_or_near_the_edge_stay_pixels():
    corner = [((10, 10, 50 + 20 * n, 60), (400, 300)) for n in range(4)]  # to 110
    assert not likely_unit(corner) and evident_unit([*corner[:3], ((1, 2, 103, 9), (400, 300))]) == "percent"
    assert not likely_unit(
        [(tuple(0.97 * end for end in box), size) for box, size in boxes(200, (1024, 1024), "pixel")]
    )


def test_one_box_in_the_corner_is_doubted_and_not_evident():
    found = [((10, 20, 50, 90), (400, 300))]
    assert likely_unit(found) == "percent" and evident_unit(found) == ""
