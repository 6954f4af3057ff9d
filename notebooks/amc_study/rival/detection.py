"""How well a detector does on a split that it has not seen: average precision, proposal recall, naming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from amc_study.rival.detector import UNKNOWN, Detector
from amc_study.rival.detector_training import boxes_of, target_of
from amc_study.rival.objects import ObjectSplit

IOU = 0.5  # intersection over union from which a box counts as found
COUNTS = (10, 30, 50, 100)  # proposals of a picture among which recall looks
PICTURES_AT_ONCE = 25


@torch.inference_mode()
def measure(detector: Detector, objects: ObjectSplit) -> dict[str, float]:
    """Numbers on a split, each in [0, 1].

    map50: mean average precision of what is annotated, of at most 100 boxes a picture with one label each.
    recallN, recallN_unboxed: share of the things that one of the first N boxes covers, of concepts with and without
    boxes in finetuning. label, colour, pattern: share of the annotated things that are named correctly at their true
    boxes; colour and pattern where any thing has one.
    """
    detector.eval()
    targets = [target_of(things, detector.vocabulary, objects.scale) for things in objects.objects]
    proposals, names = [], []
    for indices in torch.arange(len(objects)).split(PICTURES_AT_ONCE):
        levels = objects.levels(indices.tolist())
        proposals += [p.resized((objects.size,) * 2) for p in detector.propose(levels, max(COUNTS))]
        names.append(torch.stack(detector.name(levels, [targets[index].boxes for index in indices])))
    boxed = [boxes_of([thing for thing in scene if thing.annotated]) for scene in objects.objects]
    unboxed = [boxes_of([thing for thing in scene if not thing.annotated]) for scene in objects.objects]
    true = [(boxes, target.labels - 1) for boxes, target in zip(boxed, targets, strict=True)]
    precisions = average_precisions([(p.boxes, p.scores, p.labels) for p in proposals], true).values()
    numbers = {"map50": sum(precisions) / len(precisions)}
    for suffix, boxes in (("", boxed), ("_unboxed", unboxed)):
        for count in COUNTS if any(map(len, boxes)) else ():
            hits = [recalled(p.boxes, true, count) for p, true in zip(proposals, boxes, strict=True)]
            numbers[f"recall{count}{suffix}"] = float(torch.cat(hits).float().mean())
    truth = torch.cat([torch.stack((t.labels - 1, t.colours, t.patterns)) for t in targets], dim=1)  # [3, things]
    for kind, named, values in zip(("label", "colour", "pattern"), torch.cat(names, dim=1), truth, strict=True):
        if (known := values != UNKNOWN).any():
            numbers[kind] = float((named == values)[known].float().mean())
    return numbers


def average_precisions(
    found: Sequence[tuple[Tensor, Tensor, Tensor]], true: Sequence[tuple[Tensor, Tensor]]
) -> dict[int, float]:
    """Average precision at IoU 0.5 of each label that has a true box, with all-point interpolation (PASCAL VOC 2010).

    found: (boxes [n, 4] xyxy, scores [n], labels [n]) of each picture; true: (boxes [m, 4], labels [m]) likewise.
    From the best score down, a box hits the true box of its label that it overlaps most, if that is still free;
    otherwise it is a false alarm.
    """
    totals = torch.cat([labels for _, labels in true]).bincount()
    hits = torch.cat([_hits(*detections, *truth) for detections, truth in zip(found, true, strict=True)])
    scores, labels = (torch.cat([detections[k] for detections in found]) for k in (1, 2))
    order = scores.argsort(descending=True, stable=True)
    hits, labels = hits[order], labels[order]
    return {label: _area(hits[labels == label], total) for label, total in enumerate(totals.tolist()) if total}


def recalled(proposals: Tensor, true: Tensor, count: int) -> Tensor:
    """Which true boxes [m, 4] one of the first `count` proposals [n, 4] overlaps by IoU 0.5 or more: bool [m]."""
    return (box_iou(true, proposals[:count]) >= IOU).any(1)


def _hits(boxes: Tensor, scores: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor) -> Tensor:
    """Which boxes of one picture hit a true box that is still free: bool [n], in the given order."""
    overlaps = box_iou(boxes, true_boxes).where(labels[:, None] == true_labels, -1.0)  # [n, m]
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    taken = torch.zeros(len(true_boxes), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist() if len(true_boxes) else ():
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= IOU and not taken[best]:
            hits[index] = taken[best] = True
    return hits


def _area(hits: Tensor, total: int) -> float:
    """Area below the precision-recall curve, precision at a recall being the best at this or any higher recall.

    hits: bool [n], from the best score down; total: number of true boxes.
    """
    precision = hits.double().cumsum(0) / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float(best_from_here[hits].sum() / total)
