"""How certain a pointing accuracy is: bootstrap intervals over images, since phrases of one image go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, all in percent."""

    value: float
    low: float
    high: float


def accuracy_interval(
    hits: np.ndarray, image_ids: Sequence[str], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Accuracy of hits [P], or [S, P] of S training seeds on the same phrases, with a percentile bootstrap interval.

    Each draw takes as many images as there are, with replacement, together with all their phrases and all seeds: the
    interval says how the accuracy, averaged over these seeds, would vary with other images. Values in percent.
    """
    hits = np.atleast_2d(np.asarray(hits, dtype=float)).mean(axis=0)  # [S, P] -> [P]
    if len(hits) == 0 or len(hits) != len(image_ids):
        raise ValueError(f"{len(hits)} hits of phrases in {len(image_ids)} images' names: need as many, at least one")
    _, image = np.unique(np.asarray(image_ids), return_inverse=True)
    totals, sums = np.bincount(image), np.bincount(image, weights=hits)  # [I] each
    counts = np.random.default_rng(seed).multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=draws)
    resampled = (counts @ sums) / (counts @ totals)  # [draws, I] @ [I] -> [draws]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(100 * hits.mean(), 100 * float(low), 100 * float(high))
