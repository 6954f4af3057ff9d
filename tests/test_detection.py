"""How a detector is measured: average precision and recall against plain versions and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from amc_study.rival.detection import average_precisions, recalled


def plain_average_precision(found, true, label: int) -> float:
    """Every found box of a label in one list, walked from the top; the curve is then summed step by step."""
    listed = [
        (score, picture, box)
        for picture, (boxes, scores, labels) in enumerate(found)
        for box, score, of_box in zip(boxes, scores.tolist(), labels.tolist(), strict=True)
        if of_box == label
    ]
    free = {picture: boxes[labels == label] for picture, (boxes, labels) in enumerate(true)}
    total, taken, curve = sum(map(len, free.values())), set(), []
    for rank, (_, picture, box) in enumerate(sorted(listed, key=lambda entry: -entry[0]), start=1):
        overlaps = box_iou(box[None], free[picture])[0].tolist()
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= 0.5:
            taken.add((picture, best))
        curve.append((len(taken) / total, len(taken) / rank))
    recalls = [0.0, *(recall for recall, _ in curve)]
    best_after = [max(precision for _, precision in curve[index:]) for index in range(len(curve))]
    return sum((recalls[i + 1] - recalls[i]) * precision for i, precision in enumerate(best_after))


def random_boxes(seed: int, pictures: int = 6, labels: int = 3):
    """Random true boxes, and found ones of which most lie near a true one; labels are right three times in four."""
    generator = torch.Generator().manual_seed(seed)
    found, true = [], []
    for _ in range(pictures):
        number = int(torch.randint(0, 6, (), generator=generator))
        corner = 80 * torch.rand(number, 2, generator=generator)
        boxes = torch.cat((corner, corner + 10 + 15 * torch.rand(number, 2, generator=generator)), dim=1)
        names = torch.randint(0, labels, (number,), generator=generator)
        moved = boxes.repeat(2, 1) + 3 * torch.randn(2 * number, 4, generator=generator)
        moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
        wrong = torch.rand(2 * number, generator=generator) < 0.25
        guesses = names.repeat(2).where(~wrong, torch.randint(0, labels, (2 * number,), generator=generator))
        found.append((moved, torch.rand(2 * number, generator=generator), guesses))
        true.append((boxes, names))
    return found, true


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_and_recall_equal_plain_versions(seed):
    found, true = random_boxes(seed)
    present = set(torch.cat([labels for _, labels in true]).tolist())
    precisions = average_precisions(found, true)
    assert precisions == {label: pytest.approx(plain_average_precision(found, true, label)) for label in present}
    for (boxes, *_), (truth, _) in zip(found, true, strict=True):
        plain = [any(box_iou(a[None], b[None]) >= 0.5 for b in boxes[:3]) for a in truth]
        assert recalled(boxes, truth, 3).tolist() == plain


def test_average_precision_worked_out_by_hand():
    square, far = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[50.0, 50.0, 60.0, 60.0]])
    hit_miss_hit = (torch.cat((square, far + 100, far)), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1]))
    # precision 1 up to recall 1/2, then 2/3 up to recall 1; no box of label 3
    true = (torch.cat((square, far, far)), torch.tensor([1, 1, 3]))
    assert average_precisions([hit_miss_hit], [true]) == {1: pytest.approx(5 / 6), 3: 0.0}
