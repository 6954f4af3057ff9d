"""The second metric of ALBEF's authors: a detector's boxes ranked by the heatmap, right at IoU >= 0.5.

A box scores the sum of the heatmap in it over the square root of its area (PROTOCOL, Evaluation). An all-zero map, or
an image without detections, is a miss; the authors' code answers with the previous image's box there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from amc_lib import gradcam
from amc_lib.evaluate import Pointing
from amc_lib.regions import Box
from amc_study.rival.region_answers import RegionAnswers
from amc_study.statistics import accuracy_interval
from amc_study.tiers import Split

RIGHT_IOU = 0.5
COLUMNS = ("system", "split", "accuracy", "ci_low", "ci_high", "phrases", "seeds")


def box_scores(heatmap: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Scores [K] of boxes (xyxy, pixels) on a heatmap [H, W] of the picture's size; edges are cut to whole pixels."""
    height, width = heatmap.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = heatmap.cumsum(0, dtype=np.float64).cumsum(1)  # sums[y, x]: of all above and left of (x, y)
    corners = np.asarray(boxes, dtype=float).reshape(-1, 4)
    x1, x2 = (corners[:, k].astype(int).clip(0, width) for k in (0, 2))
    y1, y2 = (corners[:, k].astype(int).clip(0, height) for k in (1, 3))
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return inside / np.sqrt(areas)


def ranked_box_hits(pointing: Pointing, bank: Split) -> np.ndarray:
    """bool [P]: is the best-ranked detection of the region's image right? `bank.detections` holds the boxes."""
    hits = np.zeros(len(pointing.regions), dtype=bool)
    for p, region in enumerate(pointing.regions):
        boxes = bank.detections.get(region.image_id, ())
        raw = pointing.heatmaps[p].float()
        if boxes and raw.any():
            heatmap = gradcam.upsample(raw[None], bank.size(region), "bicubic")[0].numpy()
            best = boxes[box_scores(heatmap, boxes).argmax()]
            hits[p] = bool((box_iou(torch.tensor([best]), torch.tensor(region.boxes)) >= RIGHT_IOU).any())
    return hits


def _right_boxes(answers: Pointing | RegionAnswers, bank: Split) -> np.ndarray:
    return answers.right_boxes if isinstance(answers, RegionAnswers) else ranked_box_hits(answers, bank)


def ranking_table(
    pointing: Mapping[str, Sequence[Mapping[str, Pointing | RegionAnswers]]], banks: Mapping[str, Split]
) -> pd.DataFrame:
    """Accuracy in percent with its interval, for every split with detections; `pointing[system][seed][split]`.

    A system that chooses boxes itself (`RegionAnswers`) is taken at its word.
    """
    rows = []
    for name, bank in banks.items():
        if not getattr(bank, "detections", None):
            continue
        for system, of_seed in pointing.items():
            hits = np.array([_right_boxes(answers[name], bank) for answers in of_seed])  # [S, P]
            interval = accuracy_interval(hits, [region.image_id for region in of_seed[0][name].regions])
            numbers = (round(value, 2) for value in (interval.value, interval.low, interval.high))
            rows.append((system, bank.title, *numbers, hits.shape[1], len(hits)))
    return pd.DataFrame(rows, columns=COLUMNS)
