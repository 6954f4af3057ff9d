"""Training pairs with fewer or less exact boxes: what AMC needs of an annotation (ablation of `BoxSettings`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amc_lib.config import BoxSettings
from amc_lib.data import FixedPairs, PairDataset, Phrase
from amc_lib.regions import Box


def seen_boxes(pairs: PairDataset, seen: BoxSettings) -> PairDataset:
    """The same pairs with the boxes that training gets to see. Raises ValueError for pictures that stay on disk."""
    if seen == BoxSettings():
        return pairs
    if not isinstance(pairs, FixedPairs):
        raise ValueError("box_share, box_shift and box_scale are for pictures in memory: drawn scenes, own pictures")
    phrases = [seen_phrases(own, seen, pairs.seed, pairs.image_name(row)) for row, own in enumerate(pairs.phrases)]
    return FixedPairs(pairs.images, phrases, pairs.seed, pairs.per_image, pairs.about)


def seen_phrases(phrases: Sequence[Phrase], seen: BoxSettings, seed: int, picture: str) -> Sequence[Phrase]:
    """The phrases of a picture with the boxes as a sparser or less exact annotation would have them.

    Drawn once for a run, by its seed and the picture's name: a picture that keeps its boxes at one share keeps them at
    every larger one.
    """
    rng = np.random.default_rng([seed, *hashlib.sha256(picture.encode()).digest()])
    if rng.random() >= seen.box_share:
        return [replace(phrase, boxes=()) for phrase in phrases]
    return [replace(p, boxes=tuple(_inexact(box, seen, rng.uniform(-1, 1, 2)) for box in p.boxes)) for p in phrases]


def _inexact(box: Box, seen: BoxSettings, direction: np.ndarray) -> Box:
    """A box (xyxy, shares of the image) moved along `direction` ([-1, 1] each), resized, and cut at the edges."""
    corners = np.array(box).reshape(2, 2)  # [x1, y1, x2, y2] -> two points
    size = corners[1] - corners[0]
    centre = corners.mean(0) + seen.box_shift * direction * size
    half = seen.box_scale * size / 2
    return tuple(np.concatenate((centre - half, centre + half)).clip(0, 1).tolist())
