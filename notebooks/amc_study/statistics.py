"""How certain a number is: bootstrap over images (all phrases of an image together), paired differences, Holm.

Values have one row for each training seed and one column for each phrase, [S, P], or are [P] for a single seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS_AT_ONCE = 250  # counts of 250 draws from 10,000 images take 20 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the unit of what was averaged."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference in percentage points with its interval, and the two-sided p of no difference."""

    p: float


def mean_interval(
    values: np.ndarray, image_ids: Sequence[str], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of values [P] or [S, P] with a percentile bootstrap interval, in the values' own unit.

    Two levels are resampled, as in `paired_difference`: images with all their phrases, and training seeds.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))  # [S, P]
    low, high = np.quantile(_means(values, image_ids, draws, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    image_ids: Sequence[str],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean of `first` minus mean of `second` (hits [P] or [S, P] on the same phrases), in percentage points.

    Two levels are resampled: images with all their phrases, and training seeds. Rows of one seed stay together; a
    system with a single row (one checkpoint, no seeds) is compared with every row of the other. Few seeds show too
    little of their spread: with S of them the bootstrap sees (S - 1) / S of its variance.
    """
    first, second = (np.atleast_2d(np.asarray(hits, dtype=float)) for hits in (first, second))
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise ValueError(f"{len(first)} seeds cannot be paired with {len(second)}: need as many, or one")
    differences = first - second  # [S, P]
    resampled = _means(differences, image_ids, draws, seed)
    low, high = 100 * np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    tail = 1 + min((resampled <= 0).sum(), (resampled >= 0).sum())
    return Difference(100 * float(differences.mean()), float(low), float(high), min(1.0, float(2 * tail / (draws + 1))))


def spreads(values: np.ndarray, image_ids: Sequence[str], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """How a mean of values [P] or [S, P] spreads, as standard deviations in the values' own unit: (images, seeds).

    images: of one seed's mean, if as many other images were asked (bootstrap); seeds: of the seeds' means on these
    images, NaN for a single seed.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))  # [S, P]
    sums, phrases = _resample(values, image_ids, draws, seed)
    of_images = (sums / phrases[:, None]).std(axis=0).mean()  # [draws, S] -> []
    of_seeds = values.mean(axis=1).std(ddof=1) if len(values) > 1 else np.nan
    return float(of_images), float(of_seeds)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction of p values, in their order: the chance of any error among all of them stays below each."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected


def _means(values: np.ndarray, image_ids: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """Means [draws] of values [S, P] over the images and the seeds drawn, with replacement, as many as there are."""
    seeds = len(values)
    weights = np.random.default_rng((seed, 1)).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    sums, phrases = _resample(values, image_ids, draws, seed)  # [draws, S], [draws]
    return (sums * weights).sum(1) / phrases


def _resample(values: np.ndarray, image_ids: Sequence[str], draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values [S, P] over the phrases of the images drawn, [draws, S], and the number of phrases, [draws]."""
    phrases = values.shape[1]
    if phrases == 0 or phrases != len(image_ids):
        raise ValueError(f"{phrases} values of phrases with {len(image_ids)} images' names: need as many, at least one")
    image = np.unique(np.asarray(image_ids), return_inverse=True)[1]  # [P]
    rows = [np.bincount(image, weights=row) for row in (*values, np.ones(phrases))]
    per_image = np.stack(rows, axis=1)  # [I, S + 1]
    images, rng = len(per_image), np.random.default_rng(seed)
    sizes = [min(DRAWS_AT_ONCE, draws - start) for start in range(0, draws, DRAWS_AT_ONCE)]
    drawn = [rng.multinomial(images, np.full(images, 1 / images), size=size) @ per_image for size in sizes]
    totals = np.concatenate(drawn)  # [draws, S + 1]
    return totals[:, :-1], totals[:, -1]
