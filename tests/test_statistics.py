"""Intervals and paired differences against bootstraps written as loops, and Holm's rule by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from amc_study import statistics
from amc_study.statistics import Interval, holm, mean_interval, paired_difference, spreads


def clustered(rng: np.random.Generator, images: int, phrases: int = 4) -> tuple[np.ndarray, list[str]]:
    """Hits whose rate differs from image to image (mean 60 %), and the images' names."""
    rates = np.repeat(rng.beta(1.2, 0.8, images), phrases)
    return rng.random(len(rates)) < rates, [f"image-{i}" for i in range(images) for _ in range(phrases)]


def paired(rng: np.random.Generator, images: int, seeds: int, gain: float = 0.1) -> tuple[np.ndarray, ...]:
    """Hits of two systems on three phrases an image: images and seeds differ in difficulty; the first is better."""
    ids = [f"image-{i}" for i in range(images) for _ in range(3)]
    rate = np.repeat(rng.beta(2, 2, images) * 0.8, 3)
    of_seed = rng.normal(0, 0.02, seeds)[:, None]
    return rng.random((seeds, len(ids))) < rate + gain + of_seed, rng.random((seeds, len(ids))) < rate, ids


def naive_bootstrap(values: np.ndarray, image_ids: list[str], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw images one by one with all their phrases, then seeds one by one; means of values [S, P]."""
    names = sorted(set(image_ids))
    members = {name: [p for p, other in enumerate(image_ids) if other == name] for name in names}
    drawn = []
    for _ in range(draws):
        phrases = [p for name in rng.choice(names, len(names)) for p in members[name]]
        seeds = rng.integers(0, len(values), len(values))
        drawn.append(np.mean([values[s][phrases] for s in seeds]))
    return np.array(drawn)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_is_that_of_a_bootstrap_loop(level):
    rng = np.random.default_rng(0)
    hits, ids = clustered(rng, 40)
    hits, ids = hits[:-3], ids[:-3]  # images with unequal numbers of phrases
    hits = np.stack([hits, hits | (rng.random(len(hits)) < 0.3), hits & (rng.random(len(hits)) < 0.8)])  # three seeds
    expected = np.quantile(naive_bootstrap(hits, ids, 3000, rng), [(1 - level) / 2, (1 + level) / 2])
    interval = mean_interval(hits, ids, level=level, draws=20_000)
    assert interval.value == pytest.approx(hits.mean())
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.012)


def test_interval_covers_the_truth_as_often_as_it_says():
    """300 simulated test sets; an interval that took phrases for independent would cover fewer than 90 %."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(*clustered(rng, 60), draws=400) for _ in range(300)]
    assert np.mean([one.low <= 0.6 <= one.high for one in intervals]) == pytest.approx(0.945, abs=0.03)


def test_phrases_of_one_image_go_together():
    hits = np.repeat([1, 0], 50)
    two_images, one_each = mean_interval(hits, ["a"] * 50 + ["b"] * 50), mean_interval(hits, [*map(str, range(100))])
    assert (two_images.low, two_images.high) == (0, 1)
    assert 0.35 < one_each.low < one_each.high < 0.65


def test_neither_the_order_of_phrases_nor_the_size_of_chunks_matters(monkeypatch):
    hits, ids = clustered(np.random.default_rng(1), 20)
    expected = mean_interval(hits, ids)
    order = np.random.default_rng(2).permutation(len(hits))
    assert mean_interval(hits[order], [ids[p] for p in order]) == expected
    assert mean_interval(hits, ids, seed=1, draws=50) != mean_interval(hits, ids, draws=50)
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 7)
    assert mean_interval(hits, ids) == expected


def test_spread_is_split_into_that_of_images_and_that_of_seeds():
    rng = np.random.default_rng(6)
    hits, _, ids = paired(rng, images=40, seeds=4)
    of_images = [naive_bootstrap(row[None], ids, 2000, rng).std() for row in hits]
    means = hits.mean(axis=1)
    assert spreads(hits, ids) == pytest.approx(
        (np.mean(of_images), np.sqrt(((means - means.mean()) ** 2).sum() / 3)), rel=0.05
    )
    assert np.isnan(spreads(hits[0], ids)[1]) and spreads(np.ones((3, len(ids))), ids) == (0, 0)


def test_training_seeds_are_averaged_and_resampled():
    hits, ids = clustered(np.random.default_rng(3), 20)
    opposite = mean_interval(np.array([hits, ~hits]), ids)
    either = sorted((hits.mean(), 1 - hits.mean()))  # two seeds: some draws hold one of them alone
    assert opposite.value == 0.5 and opposite.low < either[0] < either[1] < opposite.high
    assert mean_interval(np.array([hits] * 3), ids) == mean_interval(hits, ids)
    assert mean_interval([True] * 6, list("aabbcc")) == Interval(1, 1, 1)


@pytest.mark.parametrize(("hits", "ids"), [([], []), ([1, 0], ["a"]), ([[1, 0]], ["a", "b", "c"])])
def test_values_and_images_must_be_as_many(hits, ids):
    number = np.atleast_2d(hits).shape[1]
    with pytest.raises(ValueError, match=re.escape(f"{number} values of phrases with {len(ids)} images' names")):
        mean_interval(hits, ids)


@pytest.mark.parametrize("seeds", [1, 3])
def test_difference_is_that_of_two_loops(seeds):
    rng = np.random.default_rng(0)
    first, second, ids = paired(rng, 40, seeds, gain=0.05)
    first, second, ids = first[:, :-2], second[:, :-2], ids[:-2]  # an image with fewer phrases
    drawn = 100 * naive_bootstrap(first * 1.0 - second, ids, 3000, rng)
    found = paired_difference(first, second, ids)
    assert found.value == pytest.approx(100 * (first.mean() - second.mean()))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.8)
    expected = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert found.p == pytest.approx(expected, abs=0.05)
    assert paired_difference(second, first, ids).p == pytest.approx(found.p, abs=0.05)


def test_difference_covers_the_truth_and_is_seldom_found_where_there_is_none():
    rng = np.random.default_rng(2)
    found = [paired_difference(*paired(rng, 50, 1, gain=0.0), draws=400) for _ in range(300)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(0.945, abs=0.035)
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.055, abs=0.035)


def test_pairing_leaves_out_what_both_share():
    """Hard and easy images widen the interval of each accuracy and not that of their difference."""
    rng = np.random.default_rng(3)
    hard, ids = np.repeat(rng.random(80) < 0.5, 4), [str(i) for i in range(80) for _ in range(4)]
    better = hard | (rng.random(320) < 0.1)
    alone, together = mean_interval(hard, ids), paired_difference(better, hard, ids)
    assert together.high - together.low < 50 * (alone.high - alone.low)
    assert together.low > 0 and together.p < 0.01


def test_seeds_that_disagree_widen_the_interval():
    ids, rng = [str(i) for i in range(200)], np.random.default_rng(4)
    second = rng.random(200) < 0.5
    same = np.stack([second | (rng.random(200) < 0.2)] * 3)
    apart = np.stack([second, second | (rng.random(200) < 0.2), second | (rng.random(200) < 0.4)])
    widths = [found.high - found.low for found in (paired_difference(hits, second, ids) for hits in (same, apart))]
    assert widths[1] > 1.5 * widths[0]


def test_one_checkpoint_is_compared_with_every_seed():
    first, second, ids = paired(np.random.default_rng(5), 30, 3)
    assert paired_difference(first, second[:1], ids) == paired_difference(first, second[[0, 0, 0]], ids)
    with pytest.raises(ValueError, match="3 seeds cannot be paired with 2"):
        paired_difference(first, second[:2], ids)


def test_extremes():
    first, _, ids = paired(np.random.default_rng(6), 20, 2)
    none = paired_difference(first, first, ids)
    assert (none.value, none.low, none.high, none.p) == (0, 0, 0, 1)
    assert paired_difference(np.ones(60), np.zeros(60), ids, draws=999).p == 2 / 1000  # never 0


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1] and holm([]).tolist() == []
