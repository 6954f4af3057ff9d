"""Average precision and proposal recall: against plain versions, and on cases that a hand can work out."""

from __future__ import annotations

import pytest
import torch

from amc_study.rival.detection import average_precisions, mean_average_precision, recalled

SQUARE = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
FAR = torch.tensor([[50.0, 50.0, 60.0, 60.0]])
NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def ids(*labels: int) -> torch.Tensor:
    return torch.tensor(labels, dtype=torch.int64)


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_average_precision(found, true, label: int) -> float:
    """Every found box of a label in one list, walked from the top; the curve is then summed step by step."""
    listed = [
        (score, picture, box)
        for picture, (boxes, scores, labels) in enumerate(found)
        for box, score, of_box in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
        if of_box == label
    ]
    wanted = {
        (picture, number): box
        for picture, (boxes, labels) in enumerate(true)
        for number, (box, of_box) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True))
        if of_box == label
    }
    free, curve, hits = set(wanted), [], 0
    for rank, (_, picture, box) in enumerate(sorted(listed, key=lambda entry: -entry[0]), start=1):
        overlaps = {key: overlap(box, other) for key, other in wanted.items() if key[0] == picture}
        best = max(overlaps, key=overlaps.get, default=None)
        if best in free and overlaps[best] >= 0.5:
            free.remove(best)
            hits += 1
        curve.append((hits / len(wanted), hits / rank))
    area, reached = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - reached) * max(precision for _, precision in curve[index:])
        reached = recall
    return area


def drawn(seed: int, pictures: int = 6, labels: int = 3):
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


@pytest.mark.parametrize("seed", range(8))
def test_precision_equals_the_plain_version(seed):
    found, true = drawn(seed)
    present = set(torch.cat([labels for _, labels in true]).tolist())
    precisions = average_precisions(found, true)
    assert set(precisions) == present
    for label in present:
        assert precisions[label] == pytest.approx(plain_average_precision(found, true, label))
    assert 0 < mean_average_precision(precisions) < 1


def test_curve_worked_out_by_hand():
    """Hit, miss, hit of two true boxes: precision 1 up to recall 1/2, then 2/3 up to recall 1."""
    boxes = torch.cat((SQUARE, FAR + 100, FAR))
    found = [(boxes, torch.tensor([0.9, 0.8, 0.7]), ids(1, 1, 1))]
    true = [(torch.cat((SQUARE, FAR)), ids(1, 1))]
    assert average_precisions(found, true) == {1: pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)}


def test_second_box_on_one_thing_is_a_false_alarm():
    twice = (torch.cat((SQUARE, SQUARE)), torch.tensor([0.9, 0.8]), ids(0, 0))
    other = (FAR, torch.tensor([0.7]), ids(0))
    assert average_precisions([twice, other], [(SQUARE, ids(0)), (FAR, ids(0))]) == {0: pytest.approx(1 / 2 + 1 / 3)}


def test_other_label_and_other_picture_do_not_count():
    true = [(SQUARE, ids(2)), (NO_BOXES, NO_LABELS)]
    one = torch.tensor([0.9])
    assert average_precisions([(SQUARE, one, ids(1)), (SQUARE, one, ids(2))], true) == {2: 0.0}
    assert average_precisions([(SQUARE, one, ids(2)), (NO_BOXES, one[:0], NO_LABELS)], true) == {2: 1.0}


def test_label_that_nothing_was_found_of_counts_as_zero():
    true = [(torch.cat((SQUARE, FAR)), ids(0, 3))]
    assert average_precisions([(SQUARE, torch.tensor([0.9]), ids(0))], true) == {0: 1.0, 3: 0.0}


@pytest.mark.parametrize("count", [1, 3, 10])
def test_recall_equals_the_plain_version(count):
    for (boxes, *_), (true, _) in zip(*drawn(3), strict=True):
        plain = [any(overlap(a, b) >= 0.5 for b in boxes[:count].tolist()) for a in true.tolist()]
        assert recalled(boxes, true, count).tolist() == plain


def test_recall_grows_with_the_number_of_proposals():
    proposals, true = torch.cat((FAR + 100, SQUARE, FAR)), torch.cat((SQUARE, FAR))
    assert [int(recalled(proposals, true, count).sum()) for count in (1, 2, 3)] == [0, 1, 2]
    assert recalled(NO_BOXES, true, 10).tolist() == [False, False]
    assert recalled(proposals, NO_BOXES, 10).shape == (0,)
