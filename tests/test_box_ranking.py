"""Ranking a detector's boxes by a heatmap: the authors' score written out, and the rule of a right box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from amc_lib.evaluate import Pointing
from amc_lib.regions import Box, Region
from amc_study.box_ranking import COLUMNS, box_scores, ranked_box_hits, ranking_table
from amc_study.statistics import accuracy_interval

LEFT, RIGHT = (0.0, 0.0, 40.0, 40.0), (40.0, 0.0, 80.0, 40.0)  # halves of a picture of 80 x 40
HEIGHT, WIDTH = 12, 17


@dataclass(frozen=True)
class Blank:
    def open(self) -> Image.Image:
        return Image.new("RGB", (80, 40))


@dataclass
class Split:
    """A split whose detections are given."""

    title: str
    detections: Mapping[str, Sequence[Box]] | None

    def size(self, region: Region) -> tuple[int, int]:
        return 40, 80


def region(*boxes: Box, image_id: str = "a") -> Region:
    return Region(f"{image_id}-{boxes}", "testA", Blank(), image_id, "cup", boxes)


def pointing(regions: Sequence[Region], heatmaps: Tensor) -> Pointing:
    return Pointing(list(regions), heatmaps, np.zeros((len(regions), 2), dtype=int), np.zeros(len(regions)))


def side(name: str) -> Tensor:
    """A heatmap [1, 4, 4] that is warm in one half."""
    heatmap = torch.zeros(1, 4, 4)
    heatmap[..., {"left": slice(0, 2), "right": slice(2, 4), "none": slice(0, 0)}[name]] = 1e-6
    return heatmap


def hit(heatmap: Tensor, detections: Sequence[Box], *boxes: Box) -> bool:
    (answer,) = ranked_box_hits(pointing([region(*boxes)], heatmap), Split("A", {"a": detections})).tolist()
    return answer


# -------------------------------------------------------------------------------------------------------------- scores


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


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_score_inside_the_picture_is_that_of_the_authors(shares, seed):
    """The sum of heatmap[int(y1):int(y2), int(x1):int(x2)] over the square root of width times height."""
    heatmap = np.random.default_rng(seed).random((HEIGHT, WIDTH), dtype=np.float32)
    boxes = [(a * 10, b * 8, a * 10 + 1 + c * (WIDTH - 11), b * 8 + 1 + d * (HEIGHT - 9)) for a, b, c, d in shares]
    authors = [
        heatmap[int(y1) : int(y2), int(x1) : int(x2)].sum(dtype=np.float64) / ((x2 - x1) * (y2 - y1)) ** 0.5
        for x1, y1, x2, y2 in boxes
    ]
    np.testing.assert_allclose(box_scores(heatmap, boxes), authors, rtol=1e-9, atol=1e-12)


def test_faint_heat_far_from_strong_heat_keeps_its_digits():
    heatmap = np.full((600, 600), 1e-6, dtype=np.float32)
    heatmap[:300] = 1
    assert box_scores(heatmap, [(0, 400, 10, 410)]) == pytest.approx(1e-6 * 100 / 10, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------- hits


def test_best_box_is_the_one_with_the_heat():
    for detections in ([LEFT, RIGHT], [RIGHT, LEFT]):
        assert hit(side("left"), detections, LEFT) and hit(side("right"), detections, RIGHT)
        assert not hit(side("left"), detections, RIGHT) and not hit(side("right"), detections, LEFT)


def test_neither_the_largest_box_nor_the_densest_wins_by_that():
    around, tight, tiny = (0.0, 0.0, 80.0, 40.0), (2.0, 2.0, 38.0, 38.0), (0.0, 0.0, 4.0, 4.0)
    for detections in ([around, tight, tiny], [tiny, tight, around]):
        assert hit(side("left"), detections, tight) and not hit(side("left"), detections, around, tiny)


def test_map_without_heat_is_a_miss_also_after_one_with_heat():
    heatmaps = torch.cat((side("left"), side("none"), side("left")))
    bank = Split("A", {"a": [LEFT]})
    assert ranked_box_hits(pointing([region(LEFT)] * 3, heatmaps), bank).tolist() == [True, False, True]


def test_image_without_detections_is_a_miss():
    regions = [region(LEFT, image_id=image_id) for image_id in ("a", "b", "c")]
    bank = Split("A", {"a": [LEFT], "b": []})
    assert ranked_box_hits(pointing(regions, side("left").expand(3, 4, 4)), bank).tolist() == [True, False, False]


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


# --------------------------------------------------------------------------------------------------------------- table


def test_table_holds_accuracies_of_splits_with_detections():
    regions = [region(LEFT, image_id=image_id) for image_id in "abcc"]
    detections = dict.fromkeys("abc", (LEFT, RIGHT))
    banks = {"A": Split("RefCOCO+ testA", detections), "B": Split("none", None), "C": Split("RefCLEF", detections)}

    def answers(*sides: str) -> dict[str, Pointing]:
        return {name: pointing(regions, torch.cat([side(where) for where in sides])) for name in banks}

    systems = {
        "ALBEF": [answers("left", "right", "none", "right")],
        "AMC": [answers("left", "left", "left", "right"), answers("left", "left", "right", "right")],
    }
    table = ranking_table(systems, banks)
    assert tuple(table.columns) == COLUMNS
    assert table[["system", "split"]].values.tolist() == [
        ["ALBEF", "RefCOCO+ testA"], ["AMC", "RefCOCO+ testA"], ["ALBEF", "RefCLEF"], ["AMC", "RefCLEF"]
    ]  # fmt: skip
    assert table["accuracy"].tolist() == [25, 62.5] * 2 and table["seeds"].tolist() == [1, 2] * 2
    assert (table["phrases"] == 4).all()
    hits = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    interval = accuracy_interval(hits, list("abcc"))
    assert table.loc[1, ["ci_low", "ci_high"]].tolist() == [round(interval.low, 2), round(interval.high, 2)]
    assert interval.low < 62.5 < interval.high


def test_table_without_detections_is_empty():
    table = ranking_table({"AMC": [{"A": pointing([region(LEFT)], side("left"))}]}, {"A": Split("scenes", None)})
    assert table.empty and tuple(table.columns) == COLUMNS
