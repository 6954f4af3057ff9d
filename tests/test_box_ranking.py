"""Ranking a detector's boxes by a heatmap: the authors' score written out, and the rule of a right box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amc_lib.evaluate import Pointing
from amc_lib.regions import Box, Region
from amc_study.box_ranking import RIGHT_IOU, best_box_iou, box_scores

LEFT, RIGHT = (0.0, 0.0, 40.0, 40.0), (40.0, 0.0, 80.0, 40.0)  # halves of a picture of 80 x 40
HEIGHT, WIDTH = 12, 17


def split(detections: Mapping[str, Sequence[Box]] | None) -> SimpleNamespace:
    """A split of pictures of 80 x 40 whose detections are given."""
    return SimpleNamespace(detections=detections, size=lambda region: (40, 80))


def region(*boxes: Box, image_id: str = "a") -> Region:
    return Region(f"{image_id}-{boxes}", "testA", None, image_id, "cup", boxes)


def iou(regions: Sequence[Region], heatmaps: Tensor, detections: Mapping[str, Sequence[Box]] | None) -> list[float]:
    points = np.zeros((len(regions), 2), dtype=int)
    return best_box_iou(Pointing(list(regions), heatmaps, points, np.zeros(len(regions))), split(detections)).tolist()


def side(name: str) -> Tensor:
    """A heatmap [1, 4, 4] that is warm in one half."""
    heatmap = torch.zeros(1, 4, 4)
    heatmap[..., {"left": slice(0, 2), "right": slice(2, 4), "none": slice(0, 0)}[name]] = 1e-6
    return heatmap


def hit(heatmap: Tensor, detections: Sequence[Box], *boxes: Box) -> bool:
    (answer,) = iou([region(*boxes)], heatmap, {"a": detections})
    return answer >= RIGHT_IOU


def naive_score(heatmap: np.ndarray, box: Box) -> float:
    """Pixel by pixel; what of the box lies outside the picture holds no heat but counts for its area."""
    x1, y1, x2, y2 = box
    height, width = heatmap.shape
    inside = [
        float(heatmap[y, x])
        for y in range(height)
        for x in range(width)
        if int(y1) <= y < int(y2) and int(x1) <= x < int(x2)
    ]
    return math.fsum(inside) / math.sqrt((x2 - x1) * (y2 - y1))


@st.composite
def a_box(draw) -> Box:
    x1, y1 = draw(st.floats(-4, WIDTH - 1)), draw(st.floats(-4, HEIGHT - 1))
    return x1, y1, x1 + draw(st.floats(0.5, 25)), y1 + draw(st.floats(0.5, 25))


@settings(deadline=None)  # other work may share the cores
@given(st.lists(a_box(), max_size=4), st.integers(0, 2**32 - 1))
def test_scores_are_the_naive_ones(boxes, seed):
    heatmap = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH)).astype(np.float32)
    expected = [naive_score(heatmap, box) for box in boxes]
    found = box_scores(heatmap, boxes)
    assert found.shape == (len(boxes),)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_best_box_is_the_one_with_the_heat():
    for detections in ([LEFT, RIGHT], [RIGHT, LEFT]):
        assert hit(side("left"), detections, LEFT) and hit(side("right"), detections, RIGHT)
        assert not hit(side("left"), detections, RIGHT) and not hit(side("right"), detections, LEFT)


def test_neither_the_largest_box_nor_the_densest_wins_by_that():
    around, tight, tiny = (0.0, 0.0, 80.0, 40.0), (2.0, 2.0, 38.0, 38.0), (0.0, 0.0, 4.0, 4.0)
    for detections in ([around, tight, tiny], [tiny, tight, around]):
        assert hit(side("left"), detections, tight) and not hit(side("left"), detections, around, tiny)


def test_map_without_heat_and_image_without_detections_are_misses_and_a_split_without_them_has_no_number():
    heatmaps = torch.cat((side("left"), side("none"), side("left"), side("left"), side("left")))
    regions = [region(LEFT, image_id=image_id) for image_id in "aaabc"]
    assert iou(regions, heatmaps, {"a": [LEFT], "b": []}) == [1, 0, 1, 0, 0]
    assert np.isnan(iou(regions, heatmaps, None)).all()


@pytest.mark.parametrize(
    ("box", "right"),
    [
        ((0.0, 0.0, 40.0, 20.0), True),  # half of LEFT: IoU exactly 0.5
        ((0.0, 0.0, 40.0, 19.0), False),
        ((0.0, 0.0, 80.0, 40.0), True),  # LEFT is half of it
        ((0.0, 0.0, 80.0, 41.0), False),
        ((20.0, 0.0, 60.0, 40.0), False),  # a third
    ],
)
def test_half_of_intersection_over_union_is_right(box, right):
    assert hit(side("left"), [LEFT], box) is right


def test_any_box_of_a_phrase_counts():
    assert hit(side("left"), [LEFT], RIGHT, LEFT)
    assert not hit(side("left"), [LEFT], RIGHT, (0.0, 0.0, 20.0, 20.0))


def test_heatmap_is_enlarged_to_the_picture_of_its_region():
    """A box of pixels finds the heat only where a map of 4 x 4 has become one of 40 x 80."""
    heatmap = torch.zeros(1, 4, 4)
    heatmap[0, 3, 0] = 1
    corner, others = (0.0, 30.0, 20.0, 40.0), [(60.0, 30.0, 80.0, 40.0), (0.0, 0.0, 20.0, 10.0)]
    assert hit(heatmap, [*others, corner], corner) and not hit(heatmap, [*others, corner], *others)
