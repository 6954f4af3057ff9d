"""How well boxes are found: average precision and proposal recall, both at an intersection over union of 0.5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

IOU = 0.5


def average_precisions(
    found: Sequence[tuple[Tensor, Tensor, Tensor]], true: Sequence[tuple[Tensor, Tensor]], iou: float = IOU
) -> dict[int, float]:
    """Average precision of each label that has a true box, with all-point interpolation.

    found: (boxes [n, 4] xyxy, scores [n], labels [n]) of each picture; true: (boxes [m, 4], labels [m]) likewise.
    Boxes are taken from the best score down; each hits the true box of its label that it overlaps most, if by at least
    `iou` and if no better one hit it before; otherwise it is a false alarm.
    """
    totals = torch.cat([labels for _, labels in true]).bincount()
    scores = torch.cat([of_picture for _, of_picture, _ in found])
    labels = torch.cat([of_picture for _, _, of_picture in found])
    hits = torch.cat([_hits(*of_picture, *truth, iou) for of_picture, truth in zip(found, true, strict=True)])
    order = scores.argsort(descending=True, stable=True)
    hits, labels = hits[order], labels[order]
    return {label: _area(hits[labels == label], total) for label, total in enumerate(totals.tolist()) if total}


def mean_average_precision(precisions: dict[int, float]) -> float:
    """The mean over labels."""
    return sum(precisions.values()) / len(precisions)


def recalled(proposals: Tensor, true: Tensor, count: int, iou: float = IOU) -> Tensor:
    """Which true boxes [m, 4] one of the first `count` proposals [n, 4] overlaps by at least `iou`: bool [m]."""
    if not len(proposals[:count]):
        return torch.zeros(len(true), dtype=torch.bool)
    return box_iou(true, proposals[:count]).amax(1) >= iou


def _hits(boxes: Tensor, scores: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor, iou: float) -> Tensor:
    """Which boxes of one picture hit a true box that is still free: bool [n], in the given order."""
    overlaps = box_iou(boxes, true_boxes).where(labels[:, None] == true_labels, -1.0)  # [n, m]
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    taken = torch.zeros(len(true_boxes), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not len(true_boxes):
            break
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= iou and not taken[best]:
            hits[index] = taken[best] = True
    return hits


def _area(hits: Tensor, total: int) -> float:
    """Area below the precision-recall curve, precision at a recall being the best at this or any higher recall.

    hits: bool [n], from the best score down; total: number of true boxes.
    """
    if not len(hits):
        return 0.0
    precision = hits.double().cumsum(0) / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return float(best_from_here[hits].sum() / total)
