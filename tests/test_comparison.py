"""What is compared: areas against counted pixels, baselines, examples, and where checkpoints lie."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amc_lib.regions import Region
from amc_study.comparison import baseline_hits, pick_examples
from amc_study.explain.difficulty import union_area
from amc_study.scenes.splits import SceneSplit
from amc_study.table import answer_rows

SIDE = 20


@dataclass(frozen=True)
class Blank:
    def open(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE))


def region(scene: int, phrase: int, **values) -> Region:
    values = {"boxes": ((0.0, 0.0, 10.0, 5.0),), **values}
    return Region(f"{scene}-{phrase}", "phrases", Blank(), f"scene-{scene}", "cat", **values)


def test_baselines_are_the_covered_share_and_the_middle():
    regions = [
        region(0, 0, boxes=((0.0, 0.0, 10.0, 10.0), (5.0, 5.0, 15.0, 15.0))),
        region(0, 1, boxes=((10.0, 0.0, 20.0, 20.0),)),  # its edge runs through the middle
        region(0, 2),
    ]
    split = SceneSplit(SimpleNamespace(size=SIDE), "phrases", torch.zeros(1, 1), [[]], [regions])
    baselines = baseline_hits(split)
    assert baselines["chance"].tolist() == [175 / 400, 200 / 400, 50 / 400]
    assert baselines["centre"].tolist() == [True, False, False]


@given(st.lists(st.tuples(*[st.integers(0, 11)] * 4), max_size=5))
def test_union_area_is_the_number_of_pixels(corners):
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    covered = np.zeros((13, 13), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        covered[y1:y2, x1:x2] = True
    assert union_area(boxes) == covered.sum()
    assert union_area([tuple(edge / 4 for edge in box) for box in boxes]) == pytest.approx(covered.sum() / 16)


@pytest.fixture
def table() -> pd.DataFrame:
    """Six scenes of each outcome (both, AMC alone, ALBEF alone, none), three phrases each."""
    outcomes = np.array([*itertools.product([True, False], repeat=2)])[np.repeat(np.arange(24) % 4, 3)]
    regions = [region(s, p) for s in range(24) for p in range(3)]
    rows = [answer_rows(name, 0, "phrases", regions, outcomes[:, k]) for k, name in enumerate(["ALBEF", "AMC"])]
    return pd.concat(rows)


@pytest.mark.parametrize("count", [3, 6, 7, 18])
def test_examples_show_three_outcomes_in_equal_parts(table, count):
    chosen = pick_examples(table, ["ALBEF", "AMC"], count)
    hits = table.pivot(index="phrase_id", columns="system", values="hit").loc[chosen]
    parts = [(hits.AMC > hits.ALBEF).sum(), (hits.AMC * hits.ALBEF).sum(), (hits.AMC == 0).sum()]
    assert sum(parts) == len(chosen) == count and max(parts) - min(parts) <= 1
    images = table.drop_duplicates("phrase_id").set_index("phrase_id")["image_id"].loc[chosen]
    assert images.is_unique


def test_examples_run_out_without_repeating_and_depend_on_the_seed_alone(table):
    assert len(set(pick_examples(table, ["ALBEF", "AMC"], 100))) == 24
    chosen = [pick_examples(table, ["ALBEF", "AMC"], 6, seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
