"""The second metric of ALBEF's authors: a detector's boxes ranked by the heatmap, right at IoU >= 0.5.

A box scores the sum of the heatmap in it over the square root of its area (data/PROTOCOL.md, Evaluation). An all-zero
map, or an image without detections, is a miss; the authors' code answers with the previous image's box there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

from amc_lib import gradcam
from amc_lib.evaluate import Pointing
from amc_lib.regions import Box
from amc_study.tiers import Split

RIGHT_IOU = 0.5


def box_scores(heatmap: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Scores [K] of boxes (xyxy, pixels) on a heatmap [H, W] of the picture's size; edges are cut to whole pixels."""
    cut = np.array(boxes).reshape(-1, 4).astype(int).clip(0)
    sums = [heatmap[y1:y2, x1:x2].sum(dtype=np.float64) for x1, y1, x2, y2 in cut]
    return np.array(sums) / np.sqrt([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes])


def best_box_iou(pointing: Pointing, split: Split) -> np.ndarray:
    """float [P]: IoU of the best-ranked detection with the phrase's nearest box, 0 where none can be ranked.

    `split.detections` holds the boxes of each image; a split without them gives NaN.
    """
    if not getattr(split, "detections", None):
        return np.full(len(pointing.regions), np.nan)
    found = np.zeros(len(pointing.regions))
    for p, region in enumerate(pointing.regions):
        boxes = split.detections.get(region.image_id, ())
        raw = pointing.heatmaps[p].float()
        if boxes and raw.any():
            heatmap = gradcam.upsample(raw[None], split.size(region), "bicubic")[0].numpy()
            best = boxes[box_scores(heatmap, boxes).argmax()]
            found[p] = float(box_iou(torch.tensor([best]), torch.tensor(region.boxes)).max())
    return found
