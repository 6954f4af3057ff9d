"""Groups of phrases by size, fullness and overlap; what points are on when they miss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_heatmap_quality import SIDE, Blank, bank_of

from amc_lib.config import SceneSettings
from amc_lib.evaluate import Pointing
from amc_lib.regions import Region
from amc_study.explain.difficulty import area_share, difficulty_table, neighbours, overlap
from amc_study.explain.failures import OUTCOMES, distance, outcome_table, outcomes, random_misses
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import accuracy_interval

PROPERTY = settings(deadline=None, max_examples=60)  # no deadline: other work may share the cores


def region(scene: int, number: int, *boxes, kind: str = "object") -> Region:
    return Region(f"{scene}-{number}", "phrases", Blank(scene), f"scene-{scene}", "cat", boxes, kind)


def box(x: float, y: float, width: float, height: float | None = None) -> tuple[float, ...]:
    return (float(x), float(y), float(x + width), float(y + (height or width)))


@pytest.fixture
def bank() -> SceneSplit:
    """Eight scenes: one thing of width s + 1 alone, or (odd) beside a second and a part of it."""
    scenes = []
    for s in range(8):
        of_scene = [region(s, 0, box(0, 0, s + 1))]
        if s % 2:
            of_scene += [region(s, 1, box(20, 20, 4)), region(s, 2, box(21, 21, 2), kind="part")]
        scenes.append(of_scene)
    return SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(8, 1), [], scenes)


# ----------------------------------------------------------------------------------------------------------- difficulty


def test_groups_are_quarters_and_hold_their_accuracies(bank):
    regions = bank.all_regions()
    single = [r for r in regions if r.kind == "object"]
    hits = np.random.default_rng(0).random((2, len(regions))) < 0.5
    table = difficulty_table({"AMC": hits}, bank)
    assert set(table["by"]) == {"size", "things", "overlap"}
    for variable in ("size", "things", "overlap"):
        assert table[table["by"] == variable]["phrases"].sum() == len(single)
    shares = np.array([area_share(r, (SIDE, SIDE)) for r in single])
    smallest = shares <= np.quantile(shares, 0.25)
    of_single = hits[:, [r.kind == "object" for r in regions]]
    ids = [r.image_id for r, take in zip(single, smallest, strict=True) if take]
    interval = accuracy_interval(of_single[:, smallest], ids)
    row = table[table["by"] == "size"].iloc[0]
    assert (row.accuracy, row.ci_low) == (round(interval.value, 2), round(interval.low, 2))
    assert row.group == f"{100 * shares.min():.1f}–{100 * shares[smallest].max():.1f} %"


def test_things_are_counted_without_parts(bank):
    counts = {image_id: len(boxes) for image_id, boxes in neighbours(bank.all_regions()).items()}
    assert counts == {f"scene-{s}": 1 + s % 2 for s in range(8)}
    table = difficulty_table({"AMC": np.ones(len(bank.all_regions()))}, bank)
    assert table[table["by"] == "things"][["group", "phrases"]].values.tolist() == [["1", 4], ["2", 8]]


def test_overlap_groups():
    own = box(0, 0, 10)
    scenes = [
        [region(0, 0, own), region(0, 1, box(15, 15, 5))],
        [region(1, 0, own), region(1, 1, box(9, 0, 10))],
        [region(2, 0, own), region(2, 1, box(5, 0, 10))],
    ]
    table = difficulty_table(
        {"AMC": np.array([1, 1, 1, 1, 0, 0])},
        SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(3, 1), [], scenes),
    )
    rows = table[table["by"] == "overlap"][["group", "phrases", "accuracy"]].values.tolist()
    assert rows == [["none", 2, 100], ["up to 20 %", 2, 100], ["more", 2, 0]]


BOX = st.tuples(*[st.integers(0, 10)] * 2, *[st.integers(1, 6)] * 2).map(lambda t: box(*t))


@PROPERTY
@given(st.lists(BOX, min_size=1, max_size=3, unique=True), st.lists(BOX, max_size=4))
def test_overlap_is_the_number_of_shared_pixels(own, things):
    def pixels(boxes) -> set:
        return {(x, y) for b in boxes for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))}

    others = pixels([thing for thing in things if thing not in own])
    assert overlap(own, things) == pytest.approx(len(pixels(own) & others) / len(pixels(own)))


# ------------------------------------------------------------------------------------------------------------- failures


def pointing(regions: list[Region], points: list[tuple[float, float]]) -> Pointing:
    return Pointing(regions, torch.ones(len(regions), 2, 2), np.array(points), np.zeros(len(regions)))


def test_outcomes_of_known_points():
    of_scene = [region(0, 0, box(2, 2, 6)), region(0, 1, box(16, 2, 6)), region(0, 2, box(17, 3, 2), kind="part")]
    bank = SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(1, 1), [], [of_scene])
    expected = {(4, 4): "right", (18, 4): "another thing", (9, 4): "close by", (4, 20): "elsewhere"}
    for point, outcome in expected.items():
        found = outcomes(pointing(of_scene, [point, (18, 6), (18, 4)]), bank)
        assert found.tolist() == [outcome, "right", "right"]


def test_own_edge_is_close_by_and_a_part_misses_onto_its_owner():
    of_scene = [region(0, 0, box(2, 2, 6)), region(0, 1, box(3, 3, 2), kind="part")]
    bank = SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(1, 1), [], [of_scene])
    assert outcomes(pointing(of_scene, [(2, 4), (7, 7)]), bank).tolist() == ["close by", "another thing"]


@pytest.mark.parametrize(
    ("point", "expected"), [((5, 5), 0), ((12, 5), 2), ((5, -3), 3), ((13, 14), 5), ((-1, 0), 1), ((10, 10), 0)]
)
def test_distance_to_a_box(point, expected):
    assert distance(point, box(0, 0, 10)) == expected


def test_outcomes_add_up(bank):
    regions = bank.all_regions()
    rng = np.random.default_rng(0)
    answers = [{"phrases": pointing(regions, rng.integers(0, SIDE, (len(regions), 2)).tolist())} for _ in range(2)]
    table = outcome_table({"AMC": answers}, {"phrases": bank})
    assert table["point_on"].tolist() == list(OUTCOMES)
    assert table["share"].sum() == pytest.approx(100, abs=0.05)
    hits = np.mean([one["phrases"].hits for one in answers])
    assert table["share"].iloc[0] == pytest.approx(100 * hits, abs=0.01)


def test_shown_misses_are_drawn_evenly_from_all_misses():
    regions = [region(s, p, box(0, 0, 10)) for s in range(10) for p in range(2)]
    points = [(5, 5) if s < 4 else (20, 20) for s in range(10) for _ in range(2)]
    answers = pointing(regions, points)
    drawn = [random_misses(answers, 3, seed) for seed in range(400)]
    assert all(len({r.image_id for r in of_seed}) == 3 for of_seed in drawn)
    counts = {scene: sum(r.image_id == f"scene-{scene}" for of_seed in drawn for r in of_seed) for scene in range(10)}
    assert all(counts[scene] == 0 for scene in range(4))
    assert all(150 < counts[scene] < 250 for scene in range(4, 10))  # 200 each
    assert random_misses(answers, 3, 0) == random_misses(answers, 3, 0) != random_misses(answers, 3, 1)
    assert len(random_misses(answers, 100)) == 6


def test_bank_without_misses_shows_none():
    regions = [region(0, 0, box(0, 0, 10))]
    assert random_misses(pointing(regions, [(5, 5)]), 3) == []
    assert outcomes(pointing(regions, [(5, 5)]), bank_of(regions)).tolist() == ["right"]
