"""How good a heatmap is beyond its peak: how much of it lies inside the boxes, and how well its shape fits them.

Maps are measured as pointing measures them: upsampled bicubically to the picture, and what undershoots zero set to
zero. The box that a detector-based system chooses counts as a map that is 1 inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amc_lib import gradcam
from amc_lib.evaluate import Pointing, point_hits
from amc_lib.regions import Box
from amc_study.comparison import baseline_hits
from amc_study.rival.region_answers import RegionAnswers
from amc_study.table import PHRASE, accuracy
from amc_study.tiers import Split

THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # shares of the map's peak
FIXED = 0.5  # threshold of the IoU that needs no choice
TOLERANCE = 0.03  # of the picture's sides, by which a point may lie beside a box
RIVAL = 0.95  # of the peak, from which on heat outside the boxes is a rival of it
MEASURES = ("energy", "IoU, fixed", "IoU, tuned", "IoU, best", "tolerant hit", "rival peak")
MAPS_AT_ONCE = 32


@dataclass
class MapQuality:
    """For P phrases the share of the map inside the boxes, [P], and the IoU at each of T thresholds, [P, T].

    IoU: intersection over union of the union of the boxes and of where the map is at least the threshold times its
    peak. A map of zeros has none of either. tolerant: does the point lie in a box that is larger by TOLERANCE on every
    side? rival: is there heat of RIVAL times the peak outside the boxes, so that the peak might as well lie there?
    (NaN where there is no map.)
    """

    energy: np.ndarray
    ious: np.ndarray
    tolerant: np.ndarray  # float [P]
    rival: np.ndarray  # float [P]

    @property
    def best_threshold(self) -> int:
        """Index of the one threshold at which the mean IoU is largest."""
        return int(self.ious.mean(axis=0).argmax())

    def columns(self, tuned: int | None = None) -> dict[str, np.ndarray | float]:
        """MEASURES as columns of the tidy table; `tuned` is the index of the threshold chosen on validation.

        "IoU, fixed" is at FIXED. "IoU, best" takes each phrase at its own best threshold: an upper bound.
        """
        tuned_iou = np.nan if tuned is None else self.ious[:, tuned]
        fixed = self.ious[:, THRESHOLDS.index(FIXED)]
        values = self.energy, fixed, tuned_iou, self.ious.max(axis=1), self.tolerant, self.rival
        return dict(zip(MEASURES, values, strict=True))


def measure(answers: Pointing | RegionAnswers, split: Split) -> MapQuality:
    """Energy and IoU of every phrase that is answered, maps of pictures of one size together."""
    sizes, measured = [split.size(region) for region in answers.regions], []
    for size, members in groupby(range(len(sizes)), key=sizes.__getitem__):
        members = list(members)
        for start in range(0, len(members), MAPS_AT_ONCE):
            part = members[start : start + MAPS_AT_ONCE]
            maps = picture_maps(answers, part, size)  # [B, H, W]
            inside = torch.stack([pixels_inside(answers.regions[p].boxes, size) for p in part])  # [B, H, W]
            measured.append((energy_inside(maps, inside), threshold_ious(maps, inside), rival_peaks(maps, inside)))
    energies, ious, rivals = (torch.cat(parts).numpy() for parts in zip(*measured, strict=True))
    rivals = np.full(len(sizes), np.nan) if isinstance(answers, RegionAnswers) else rivals.astype(float)
    return MapQuality(energies, ious, tolerant_hits(answers, sizes), rivals)


def even_maps(split: Split) -> MapQuality:
    """What a map that is the same everywhere gives: in energy and IoU the share of the picture that the boxes cover."""
    shares = baseline_hits(split)["chance"]
    ious, none = np.repeat(shares[:, None], len(THRESHOLDS), axis=1), np.full(len(shares), np.nan)
    return MapQuality(shares, ious, tolerant=none, rival=none)


def quality_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Means of MEASURES, columns of the tidy table `answers`, in percent with intervals over images and seeds.

    Columns: system, split, measure, value, ci_low, ci_high, phrases, seeds. A system without a measure has no row.
    """
    long = answers.melt(["system", "seed", *PHRASE], MEASURES, "measure").dropna(subset="value")
    table = accuracy(long, by=["system", "split", "measure"], column="value")
    return table.rename(columns={"accuracy": "value"}).round(2)


def energy_inside(maps: Tensor, inside: Tensor) -> Tensor:
    """Share [B] of non-negative maps [B, H, W] that lies where `inside` [B, H, W] is true; 0 of a map of zeros."""
    total = maps.flatten(1).sum(1)
    return (maps * inside).flatten(1).sum(1) / total.where(total > 0, 1)


def rival_peaks(maps: Tensor, inside: Tensor) -> Tensor:
    """bool [B]: do maps [B, H, W] reach RIVAL of their peak where `inside` [B, H, W] is false? A map of zeros: no."""
    peak = maps.flatten(1).amax(1)
    return (peak > 0) & ((maps * ~inside).flatten(1).amax(1) >= RIVAL * peak)


def tolerant_hits(answers: Pointing | RegionAnswers, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """float [P]: does the point lie strictly inside a box with TOLERANCE of the picture's sides around it?"""
    wider = []
    for region, (height, width) in zip(answers.regions, sizes, strict=True):
        x, y = TOLERANCE * width, TOLERANCE * height
        boxes = tuple((x1 - x, y1 - y, x2 + x, y2 + y) for x1, y1, x2, y2 in region.boxes)
        wider.append(replace(region, boxes=boxes))
    return point_hits(answers.points, wider).astype(float)


def threshold_ious(maps: Tensor, inside: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """[B, T]: IoU of `inside` bool [B, H, W] and maps [B, H, W] at each threshold (ascending, shares of the peak)."""
    B, T = len(maps), len(thresholds)
    peak = maps.flatten(1).max(1).values[:, None]  # [B, 1]
    shares = maps.flatten(1) / peak.where(peak > 0, 1)  # [B, H * W]
    level = torch.bucketize(shares, shares.new_tensor(thresholds), right=True)  # thresholds reached, 0 to T
    cell = (torch.arange(B)[:, None] * (T + 1) + level) * 2 + inside.flatten(1)
    counts = torch.bincount(cell.flatten(), minlength=B * (T + 1) * 2).view(B, T + 1, 2)
    reached = counts.flip(1).cumsum(1).flip(1)  # [B, T + 1, 2]: pixels outside and inside that reach each threshold
    outside_there, inside_there = reached[:, 1:].unbind(-1)  # [B, T] each
    return inside_there / (outside_there + inside.flatten(1).sum(1, keepdim=True)).clamp(min=1)


def pixels_inside(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """bool [H, W]: pixels of a picture of `size` whose middle lies in any of the boxes (xyxy, pixels)."""
    height, width = size
    xs, ys = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = torch.zeros(height, width, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        inside |= ((y1 <= ys) & (ys < y2))[:, None] & ((x1 <= xs) & (xs < x2))
    return inside


def picture_maps(answers: Pointing | RegionAnswers, phrases: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Non-negative maps [B, H, W] of some phrases, of a picture's (height, width)."""
    if isinstance(answers, RegionAnswers):
        return torch.stack([pixels_inside([answers.boxes[p].tolist()], size) for p in phrases]).float()
    return gradcam.upsample(answers.heatmaps[list(phrases)].float(), size, "bicubic").clamp(min=0)
