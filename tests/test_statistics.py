"""Intervals against a bootstrap written as a loop, areas against counted pixels, table 1 on hand-made hits."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.evaluate import Pointing
from amc_lib.regions import Region
from amc_study.comparison import accuracy_by_kind, accuracy_table, baseline_hits, pick_examples, union_area
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import accuracy_interval

SIDE = 20


def clustered(rng: np.random.Generator, images: int, phrases: int = 4) -> tuple[np.ndarray, list[str]]:
    """Hits whose rate differs from image to image (mean 60 %), and the images' names."""
    rates = np.repeat(rng.beta(1.2, 0.8, images), phrases)
    return rng.random(len(rates)) < rates, [f"image-{i}" for i in range(images) for _ in range(phrases)]


def naive_bootstrap(hits: np.ndarray, image_ids: list[str], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw images one by one with all their phrases; accuracies in percent."""
    names = sorted(set(image_ids))
    of_image = {name: [hits[p] for p, other in enumerate(image_ids) if other == name] for name in names}
    drawn = []
    for _ in range(draws):
        sample = [hit for name in rng.choice(names, len(names)) for hit in of_image[name]]
        drawn.append(100 * np.mean(sample))
    return np.array(drawn)


# ---------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_is_that_of_a_bootstrap_loop(level):
    rng = np.random.default_rng(0)
    hits, ids = clustered(rng, 40)
    hits, ids = hits[:-3], ids[:-3]  # images with unequal numbers of phrases
    expected = np.quantile(naive_bootstrap(hits, ids, 3000, rng), [(1 - level) / 2, (1 + level) / 2])
    interval = accuracy_interval(hits, ids, level=level, draws=20_000)
    assert interval.value == pytest.approx(100 * hits.mean())
    assert (interval.low, interval.high) == (pytest.approx(expected[0], abs=0.7), pytest.approx(expected[1], abs=0.7))


def test_interval_covers_the_truth_as_often_as_it_says():
    """300 simulated test sets; an interval that took phrases for independent would cover fewer than 90 %."""
    rng = np.random.default_rng(0)
    intervals = [accuracy_interval(*clustered(rng, 60), draws=400) for _ in range(300)]
    assert np.mean([one.low <= 60 <= one.high for one in intervals]) == pytest.approx(0.945, abs=0.03)


def test_phrases_of_one_image_go_together():
    hits = np.repeat([1, 0], 50)
    one_each, two_images = [str(i) for i in range(100)], ["a"] * 50 + ["b"] * 50
    assert (accuracy_interval(hits, two_images).low, accuracy_interval(hits, two_images).high) == (0, 100)
    assert 35 < accuracy_interval(hits, one_each).low < accuracy_interval(hits, one_each).high < 65


def test_order_of_phrases_does_not_matter():
    hits, ids = clustered(np.random.default_rng(1), 20)
    order = np.random.default_rng(2).permutation(len(hits))
    assert accuracy_interval(hits[order], [ids[p] for p in order]) == accuracy_interval(hits, ids)


def test_same_seed_same_interval_and_another_seed_another():
    hits, ids = clustered(np.random.default_rng(1), 20)
    assert accuracy_interval(hits, ids) == accuracy_interval(hits, ids)
    assert accuracy_interval(hits, ids, seed=1, draws=50) != accuracy_interval(hits, ids, draws=50)


def test_training_seeds_are_averaged():
    hits, ids = clustered(np.random.default_rng(3), 20)
    both = np.array([hits, ~hits])
    assert accuracy_interval(both, ids) == accuracy_interval(np.full(len(hits), 0.5), ids)
    assert accuracy_interval(np.array([hits] * 3), ids) == accuracy_interval(hits, ids)


def test_fractions_are_accepted():
    interval = accuracy_interval([0.25, 0.75, 0.5], ["a", "b", "c"])
    assert interval.value == 50
    assert 25 <= interval.low < 50 < interval.high <= 75


def test_all_hits_have_no_width():
    interval = accuracy_interval([True] * 6, list("aabbcc"))
    assert (interval.value, interval.low, interval.high) == (100, 100, 100)


@pytest.mark.parametrize(("hits", "ids"), [([], []), ([1, 0], ["a"]), ([[1, 0]], ["a", "b", "c"])])
def test_hits_and_images_must_be_as_many(hits, ids):
    number = np.atleast_2d(hits).shape[1]
    with pytest.raises(ValueError, match=re.escape(f"{number} hits of phrases in {len(ids)} images' names")):
        accuracy_interval(hits, ids)


# --------------------------------------------------------------------------------------------------------- union area


@st.composite
def a_box(draw) -> tuple[int, int, int, int]:
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(st.integers(0, 12), min_size=2, max_size=2))) for _ in range(2))
    return x1, y1, x2 + 1, y2 + 1


@given(st.lists(a_box(), max_size=5))
def test_union_area_is_the_number_of_pixels(boxes):
    covered = np.zeros((13, 13), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        covered[y1:y2, x1:x2] = True
    assert union_area(boxes) == covered.sum()


def test_union_area_of_fractions():
    assert union_area([(0.0, 0.0, 0.5, 0.5), (0.25, 0.0, 0.75, 0.5)]) == pytest.approx(0.375)


# -------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Blank:
    def open(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE))


def region(scene: int, phrase: int, **values) -> Region:
    values = {"boxes": ((0.0, 0.0, 10.0, 5.0),), **values}
    return Region(f"{scene}-{phrase}", "phrases", Blank(), f"scene-{scene}", "cat", **values)


@pytest.fixture
def bank() -> SceneSplit:
    """Ten scenes of four phrases; the last phrase of each means a concept that is never boxed."""
    regions = [[region(s, p, annotated=p < 3) for p in range(4)] for s in range(10)]
    return SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(10, 1), [[] for _ in regions], regions)


def test_table_of_hand_made_hits(bank):
    boxed = np.tile([True, True, True, False], 10)
    table = accuracy_table(
        {"AMC": {"phrases": boxed}, "ALBEF": {"phrases": np.array([boxed, ~boxed])}}, {"phrases": bank}
    )
    assert table.columns.tolist() == (
        ["system", "split", "concepts", "accuracy", "ci_low", "ci_high", "phrases", "seeds"]
    )
    rows = table.drop(columns=["ci_low", "ci_high"]).itertuples(index=False, name=None)
    assert list(rows) == [
        ("AMC", "phrases", "all", 75.0, 40, 1),
        ("AMC", "phrases", "boxed", 100.0, 30, 1),
        ("AMC", "phrases", "unboxed", 0.0, 10, 1),
        ("ALBEF", "phrases", "all", 50.0, 40, 2),
        ("ALBEF", "phrases", "boxed", 50.0, 30, 2),
        ("ALBEF", "phrases", "unboxed", 50.0, 10, 2),
    ]
    assert (table["ci_low"] == table["accuracy"]).all()  # every image has the same hits: nothing varies


def test_table_takes_its_intervals_over_images(bank):
    hits = np.repeat([True] * 4 + [False] * 6, 4)
    table = accuracy_table({"AMC": {"phrases": hits}}, {"phrases": bank}).set_index("concepts")
    interval = accuracy_interval(hits, [r.image_id for r in bank.all_regions()])
    row = table.loc["all"]
    assert (row.ci_low, row.ci_high) == (round(interval.low, 2), round(interval.high, 2))
    assert row.ci_low < 20 and row.ci_high > 60


def test_splits_have_readable_names(bank):
    hits = {split: np.ones(40) for split in ("phrases", "referring_a", "referring_b")}
    table = accuracy_table({"AMC": hits}, {split: replace(bank, split=split) for split in hits})
    assert table["split"].unique().tolist() == ["phrases", "referring A", "referring B"]


def test_baselines_are_the_covered_share_and_the_middle(bank):
    regions = bank.regions
    regions[0][0] = region(0, 0, boxes=((0.0, 0.0, 10.0, 10.0), (5.0, 5.0, 15.0, 15.0)))
    regions[0][1] = region(0, 1, boxes=((10.0, 0.0, 20.0, 20.0),))  # its edge runs through the middle
    baselines = baseline_hits(replace(bank, regions=regions))
    assert baselines["chance"].tolist()[:3] == [175 / 400, 200 / 400, 50 / 400]
    assert baselines["centre"].tolist() == [True] + [False] * 39


def pointing(regions: list[Region], hits: list[bool]) -> Pointing:
    points = np.array([(5, 2) if hit else (15, 15) for hit in hits])
    return Pointing(regions, torch.ones(len(hits), 2, 2), points, np.zeros(len(hits)))


def test_accuracy_by_kind():
    regions = [region(i, 0, kind=kind) for i, kind in enumerate(["object", "object", "group", "group"])]
    answers = {"AMC": [pointing(regions, [1, 0, 1, 1]), pointing(regions, [1, 1, 1, 1])]}
    expected = pd.DataFrame({"system": ["AMC"] * 2, "kind": ["object", "group"], "accuracy": [75.0, 100.0]})
    pd.testing.assert_frame_equal(accuracy_by_kind(answers), expected)


# ----------------------------------------------------------------------------------------------------------- examples


@pytest.fixture
def asked() -> dict[str, Pointing]:
    """Six scenes of each outcome (both, AMC alone, ALBEF alone, none), three phrases each."""
    outcomes = np.array(list(itertools.product([True, False], repeat=2)))[np.repeat(np.arange(24) % 4, 3)]
    regions = [region(s, p) for s in range(24) for p in range(3)]
    return {name: pointing(regions, outcomes[:, column]) for column, name in enumerate(["ALBEF", "AMC"])}


@pytest.mark.parametrize("count", [3, 6, 7, 18])
def test_examples_show_three_outcomes_in_equal_parts(asked, count):
    chosen = pick_examples(asked, count)
    albef, amc = (asked[name].hits[chosen] for name in ("ALBEF", "AMC"))
    parts = [(amc & ~albef).sum(), (amc & albef).sum(), (~amc).sum()]
    assert sum(parts) == len(chosen) == count
    assert max(parts) - min(parts) <= 1
    images = [asked["AMC"].regions[p].image_id for p in chosen]
    assert len(set(images)) == count  # one phrase an image


def test_examples_run_out_without_repeating(asked):
    chosen = pick_examples(asked, 100)
    assert len(chosen) == len(set(chosen)) == 24


def test_examples_depend_on_the_seed_alone(asked):
    assert pick_examples(asked, 6) == pick_examples(asked, 6) != pick_examples(asked, 6, seed=1)
