"""Paired comparisons against a bootstrap written as a loop, the binomial formula, and Holm's rule by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_study.statistics import Discordance, accuracy_interval, holm, mcnemar, mean_interval, paired_difference

PROPERTY = settings(deadline=None, max_examples=60)  # no deadline: other work may share the cores


def paired(rng: np.random.Generator, images: int, seeds: int, gain: float = 0.1) -> tuple[np.ndarray, ...]:
    """Hits of two systems on three phrases an image: images and seeds differ in difficulty; the first is better."""
    ids = [f"image-{i}" for i in range(images) for _ in range(3)]
    rate = np.repeat(rng.beta(2, 2, images) * 0.8, 3)
    of_seed = rng.normal(0, 0.02, seeds)[:, None]
    first = rng.random((seeds, len(ids))) < rate + gain + of_seed
    second = rng.random((seeds, len(ids))) < rate
    return first, second, ids


def naive_differences(first, second, ids, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw images, then seeds, one by one; differences in points."""
    names, drawn = sorted(set(ids)), []
    members = {name: [p for p, other in enumerate(ids) if other == name] for name in names}
    for _ in range(draws):
        phrases = [p for name in rng.choice(names, len(names)) for p in members[name]]
        rows = rng.integers(0, len(first), len(first))
        drawn.append(100 * np.mean([np.mean(first[s][phrases] * 1.0 - second[s][phrases]) for s in rows]))
    return np.array(drawn)


# ----------------------------------------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("seeds", [1, 3])
def test_interval_is_that_of_two_loops(seeds):
    rng = np.random.default_rng(0)
    first, second, ids = paired(rng, 40, seeds)
    first, second, ids = first[:, :-2], second[:, :-2], ids[:-2]  # an image with fewer phrases
    expected = np.quantile(naive_differences(first, second, ids, 4000, rng), [0.025, 0.975])
    found = paired_difference(first, second, ids)
    assert found.value == pytest.approx(100 * (first.mean() - second.mean()))
    assert (found.low, found.high) == (pytest.approx(expected[0], abs=0.8), pytest.approx(expected[1], abs=0.8))


def test_p_is_twice_the_smaller_tail():
    rng = np.random.default_rng(1)
    first, second, ids = paired(rng, 40, 1, gain=0.05)
    drawn = naive_differences(first, second, ids, 4000, rng)
    expected = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert 0.02 < expected < 0.9
    assert paired_difference(first, second, ids).p == pytest.approx(expected, abs=0.05)
    assert paired_difference(second, first, ids).p == pytest.approx(paired_difference(first, second, ids).p, abs=0.05)


def test_interval_covers_the_truth_and_no_difference_is_seldom_rejected():
    rng = np.random.default_rng(2)
    found = [paired_difference(*paired(rng, 50, 1, gain=0.0), draws=400) for _ in range(300)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.945, abs=0.035)
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.055, abs=0.035)


def test_pairing_leaves_out_what_both_share():
    """Hard and easy images widen the interval of each accuracy and not that of their difference."""
    rng = np.random.default_rng(3)
    hard, ids = np.repeat(rng.random(80) < 0.5, 4), [str(i) for i in range(80) for _ in range(4)]
    better = hard | (rng.random(320) < 0.1)
    alone, together = accuracy_interval(hard, ids), paired_difference(better, hard, ids)
    assert together.high - together.low < 0.5 * (alone.high - alone.low)
    assert together.low > 0 and together.p < 0.01


def test_seeds_that_disagree_widen_the_interval():
    ids = [str(i) for i in range(200)]
    rng = np.random.default_rng(4)
    second = rng.random(200) < 0.5
    same = np.stack([second | (rng.random(200) < 0.2)] * 3)
    apart = np.stack([second, second | (rng.random(200) < 0.2), second | (rng.random(200) < 0.4)])
    widths = [found.high - found.low for found in (paired_difference(hits, second, ids) for hits in (same, apart))]
    assert widths[1] > 1.5 * widths[0]


def test_one_checkpoint_is_compared_with_every_seed():
    first, second, ids = paired(np.random.default_rng(5), 30, 3)
    one = second[:1]
    assert paired_difference(first, one, ids) == paired_difference(first, np.repeat(one, 3, axis=0), ids)
    assert paired_difference(first, one, ids).value == pytest.approx(100 * (first.mean() - one.mean()))


def test_equal_systems_differ_by_nothing():
    first, _, ids = paired(np.random.default_rng(6), 20, 2)
    found = paired_difference(first, first, ids)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_p_is_never_zero():
    ids = [str(i) for i in range(30)]
    assert paired_difference(np.ones(30), np.zeros(30), ids, draws=999).p == 2 / 1000


def test_unequal_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match=re.escape("2 seeds cannot be paired with 3: need as many, or one")):
        paired_difference(np.ones((2, 4)), np.ones((3, 4)), list("aabb"))
    with pytest.raises(ValueError, match="4 hits of phrases in 2 images' names"):
        paired_difference(np.ones(4), np.ones(4), list("ab"))


def test_mean_interval_keeps_the_unit_of_its_values():
    values, ids = np.random.default_rng(7).normal(0, 1, 60), [str(i // 3) for i in range(60)]
    mean, percent = mean_interval(values, ids), accuracy_interval(values, ids)
    assert mean.value == pytest.approx(values.mean())
    assert (percent.value, percent.low, percent.high) == (100 * mean.value, 100 * mean.low, 100 * mean.high)


# ----------------------------------------------------------------------------------------------------- McNemar and Holm


@PROPERTY
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_tail(pairs):
    first, second = np.array(pairs).T
    found = mcnemar(first, second)
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert found.p == pytest.approx(min(1, 2 * tail))


def test_effect_sizes_of_known_cases():
    assert Discordance(30, 10, 0.0).odds_ratio == 3
    assert Discordance(30, 10, 0.0).cohens_g == 0.25
    assert Discordance(5, 0, 0.0).odds_ratio == math.inf and Discordance(0, 5, 0.0).cohens_g == -0.5
    assert (Discordance(0, 0, 1.0).odds_ratio, Discordance(0, 0, 1.0).cohens_g) == (1, 0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@PROPERTY
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_stepwise_rule_rejects(p_values, level):
    ordered, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
    for step, index in enumerate(ordered):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(p_values) <= level)) == rejected
