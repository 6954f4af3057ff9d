"""How well a detector does on a split that it has not seen: average precision, proposal recall, naming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from amc_study.rival.detector import UNKNOWN, Detector, Proposals
from amc_study.rival.detector_training import boxes_of, target_of
from amc_study.rival.objects import ObjectSplit

IOU = 0.5  # intersection over union from which a box counts as found
COUNTS = (10, 30, 50, 100)  # proposals of a picture among which recall looks
SCENES_AT_ONCE = 25


@torch.inference_mode()
def measure(detector: Detector, objects: ObjectSplit) -> dict[str, float]:
    """Numbers on a split, each in [0, 1].

    map50: mean average precision of the annotated concepts, of at most 100 boxes a picture with one label each.
    recallN, recallN_unboxed: share of the things that one of the first N boxes covers, of concepts with and without
    boxes in finetuning. label, colour, pattern: share of the annotated things that are named correctly at their true
    boxes; colour and pattern where a thing has one.
    """
    return _found(detector.eval(), objects) | _named(detector.eval(), objects)


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
    if not len(proposals[:count]):
        return torch.zeros(len(true), dtype=torch.bool)
    return box_iou(true, proposals[:count]).amax(1) >= IOU


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
    if not len(hits):
        return 0.0
    precision = hits.double().cumsum(0) / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return float(best_from_here[hits].sum() / total)


def _found(detector: Detector, objects: ObjectSplit) -> dict[str, float]:
    """Mean average precision and recall."""
    found = list(_proposals(detector, objects))
    index = {name: number for number, name in enumerate(detector.vocabulary.classes)}
    annotated = [[thing for thing in scene if thing.annotated] for scene in objects.objects]
    true = [
        (boxes_of(things), torch.tensor([index[t.concept] for t in things], dtype=torch.int64)) for things in annotated
    ]
    precisions = average_precisions([(p.boxes, p.scores, p.labels) for p in found], true).values()
    numbers = {"map50": sum(precisions) / len(precisions)}
    for suffix, with_boxes in (("", True), ("_unboxed", False)):
        boxes = [boxes_of([thing for thing in scene if thing.annotated == with_boxes]) for scene in objects.objects]
        for count in COUNTS:
            hits = [recalled(p.boxes, true, count) for p, true in zip(found, boxes, strict=True)]
            numbers[f"recall{count}{suffix}"] = float(torch.cat(hits).float().mean())
    return numbers


def _named(detector: Detector, objects: ObjectSplit) -> dict[str, float]:
    """Shares of class, colour and pattern that are named correctly."""
    answers, truths = [], []
    scale = objects.side / objects.settings.size
    for scenes in _scene_ranges(objects):
        targets = [target_of(objects.objects[index], detector.vocabulary, scale) for index in scenes]
        answers.append(torch.stack(detector.name(objects.levels(scenes), [target.boxes for target in targets])))
        truths += [torch.stack((target.labels - 1, target.colours, target.patterns)) for target in targets]
    answer, truth = torch.cat(answers, dim=1), torch.cat(truths, dim=1)  # [3, things]
    right = [(named == true)[true != UNKNOWN].float().mean() for named, true in zip(answer, truth, strict=True)]
    return dict(zip(("label", "colour", "pattern"), map(float, right), strict=True))


def _proposals(detector: Detector, objects: ObjectSplit) -> Iterator[Proposals]:
    """The first 100 proposals of every scene, in its own pixels."""
    for scenes in _scene_ranges(objects):
        for proposals in detector.propose(objects.levels(scenes), max(COUNTS)):
            yield proposals.resized((objects.settings.size, objects.settings.size))


def _scene_ranges(objects: ObjectSplit) -> Iterator[list[int]]:
    """All scenes of a split, some at a time."""
    for start in range(0, len(objects), SCENES_AT_ONCE):
        yield list(range(start, min(start + SCENES_AT_ONCE, len(objects))))
