"""Training pairs with fewer, less exact or wrong boxes: what AMC needs of an annotation (`BoxSettings`)."""

from __future__ import annotations

import copy
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
        raise ValueError("box_* settings are for phrases in memory: drawn scenes, features of photographs, own data")
    other = copy.copy(pairs)  # mirrored and named as before
    other.phrases = [seen_phrases(p, seen, pairs.seed, pairs.image_name(row)) for row, p in enumerate(pairs.phrases)]
    return other


def seen_phrases(phrases: Sequence[Phrase], seen: BoxSettings, seed: int, picture: str) -> Sequence[Phrase]:
    """The phrases of a picture with the boxes as a sparser or less exact annotation would have them.

    Drawn once for a run, by its seed and the picture's name: a picture that keeps its boxes at one share keeps them at
    every larger one.
    """
    rng = np.random.default_rng([seed, *hashlib.sha256(picture.encode()).digest()])
    if rng.random() >= seen.box_share:
        return [replace(phrase, boxes=()) for phrase in phrases]
    boxes = [tuple(_inexact(box, seen, rng.uniform(-1, 1, 2)) for box in phrase.boxes) for phrase in phrases]
    if seen.box_of == "other":
        boxes = [_of_another(own, boxes, rng) for own in boxes]
    if seen.box_of == "anywhere":
        boxes = [tuple(_anywhere(box, rng) for box in own) for own in boxes]
    return [replace(phrase, boxes=own) for phrase, own in zip(phrases, boxes, strict=True)]


def _of_another(own: tuple[Box, ...], boxes: Sequence[tuple[Box, ...]], rng: np.random.Generator) -> tuple[Box, ...]:
    """The boxes of another phrase of the picture, drawn by lot; none where no other boxes are there."""
    others = [other for other in boxes if other and other != own]
    return others[rng.integers(len(others))] if own and others else ()


def _anywhere(box: Box, rng: np.random.Generator) -> Box:
    """A box (xyxy, shares of the image) of the same size at a place drawn by lot."""
    corners = np.array(box).reshape(2, 2)  # [x1, y1, x2, y2] -> two points
    size = corners[1] - corners[0]
    start = rng.uniform(0, 1, 2) * (1 - size)
    return tuple(np.concatenate((start, start + size)).clip(0, 1).tolist())


def _inexact(box: Box, seen: BoxSettings, direction: np.ndarray) -> Box:
    """A box (xyxy, shares of the image) moved along `direction` ([-1, 1] each), resized, and cut at the edges."""
    corners = np.array(box).reshape(2, 2)  # [x1, y1, x2, y2] -> two points
    size = corners[1] - corners[0]
    centre = corners.mean(0) + seen.box_shift * direction * size
    half = seen.box_scale * size / 2
    return tuple(np.concatenate((centre - half, centre + half)).clip(0, 1).tolist())
