"""Measures beside accuracy: groups of phrases, what misses are on, energy and IoU against pixels counted one by one."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from amc_lib import gradcam
from amc_lib.evaluate import Pointing
from amc_lib.regions import Region
from amc_study.explain.difficulty import area_share, difficulty_table, overlap
from amc_study.explain.heatmap_quality import (
    MEASURES,
    THRESHOLDS,
    energy_inside,
    even_maps,
    measure,
    picture_maps,
    pixels_inside,
    quality_table,
    rival_peaks,
    threshold_ious,
    tolerant_hits,
)
from amc_study.explain.misses import OUTCOMES, outcome_table, outcomes, random_misses
from amc_study.explain.samples import first_images, one_an_image
from amc_study.rival.region_answers import RegionAnswers
from amc_study.scenes.splits import SceneSplit
from amc_study.statistics import mean_interval
from amc_study.table import answer_rows

SIDE = 24


@dataclass(frozen=True)
class Blank:
    index: int = 0

    def open(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE))


def region(scene: int, number: int, *boxes, kind: str = "object") -> Region:
    return Region(f"{scene}-{number}", "phrases", Blank(scene), f"scene-{scene}", "cat", boxes, kind)


def box(x: float, y: float, width: float, height: float | None = None) -> tuple[float, ...]:
    return (float(x), float(y), float(x + width), float(y + (height or width)))


def split_of(scenes: list[list[Region]]) -> SceneSplit:
    return SceneSplit(SimpleNamespace(size=SIDE), "phrases", torch.zeros(len(scenes), 1), [], scenes)


def rows(split: SceneSplit, hits, points=None, seed: int = 0) -> pd.DataFrame:
    regions = split.all_regions()
    return answer_rows("AMC", seed, split.title, regions, np.asarray(hits), points)


@pytest.fixture
def split() -> SceneSplit:
    """Eight scenes: one thing of width s + 1 alone, or (odd) beside a second and a part of it."""
    more = [lambda s: [region(s, 1, box(20, 20, 4)), region(s, 2, box(21, 21, 2), kind="part")], lambda s: []]
    return split_of([[region(s, 0, box(0, 0, s + 1)), *more[1 - s % 2](s)] for s in range(8)])


def test_groups_are_quarters_and_hold_their_accuracies(split):
    regions = split.all_regions()
    single = [r for r in regions if r.kind == "object"]
    hits = np.random.default_rng(0).random((2, len(regions))) < 0.5
    answers = pd.concat([rows(split, hits[seed], seed=seed) for seed in range(2)])
    table = difficulty_table(answers.sample(frac=1, random_state=0), split)  # rows are known by phrase id
    assert table.groupby("by", sort=False)["phrases"].sum().to_dict() == dict.fromkeys(
        ("size", "things", "overlap"), len(single)
    )
    shares = np.array([area_share(r, (SIDE, SIDE)) for r in single])
    smallest = shares <= np.quantile(shares, 0.25)
    ids = [r.image_id for r, take in zip(single, smallest, strict=True) if take]
    interval = mean_interval(100 * hits[:, [r.kind == "object" for r in regions]][:, smallest], ids)
    row = table[table["by"] == "size"].iloc[0]
    assert (row.accuracy, row.ci_low, row.seeds) == (round(interval.value, 2), round(interval.low, 2), 2)
    assert row.group == f"{100 * shares.min():.1f}–{100 * shares[smallest].max():.1f} %"


def test_things_are_counted_without_parts(split):
    table = difficulty_table(rows(split, np.ones(len(split.all_regions()))), split)
    assert table[table["by"] == "things"][["group", "phrases"]].values.tolist() == [["1", 4], ["2", 8]]


def test_overlap_groups():
    mine = box(0, 0, 10)
    others = (box(15, 15, 5), box(9, 0, 10), box(5, 0, 10))
    split = split_of([[region(s, 0, mine), region(s, 1, other)] for s, other in enumerate(others)])
    table = difficulty_table(rows(split, [1, 1, 1, 1, 0, 0]), split)
    assert table[table["by"] == "overlap"][["group", "phrases", "accuracy"]].values.tolist() == [
        ["none", 2, 100], ["up to 20 %", 2, 100], ["more", 2, 0],
    ]  # fmt: skip


def test_overlap_is_the_number_of_shared_pixels():
    def pixels(boxes) -> set:
        return {(x, y) for b in boxes for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))}

    rng = np.random.default_rng(0)
    for _ in range(100):
        corners, sides = rng.integers(0, 10, (6, 2)), rng.integers(1, 7, (6, 2))
        boxes = [box(*corner, *side) for corner, side in zip(corners, sides, strict=True)]
        mine, things = boxes[:2], boxes[1:]
        others = pixels([thing for thing in things if thing not in mine])
        assert overlap(mine, things) == pytest.approx(len(pixels(mine) & others) / len(pixels(mine)))


def test_outcomes_of_known_points():
    scene = [region(0, 0, box(2, 2, 6)), region(0, 1, box(16, 2, 6)), region(0, 2, box(17, 3, 2), kind="part")]
    split = split_of([scene])
    expected = {(4, 4): "right", (18, 4): "another thing", (9, 4): "close by", (4, 20): "elsewhere", (2, 4): "close by"}
    for point, outcome in expected.items():
        points = np.array([point, (18, 6), (18, 4)])
        hits = [outcome == "right", True, True]
        assert outcomes(rows(split, hits, points), split) == [outcome, "right", "right"]
    on_its_owner = np.array([(4, 4), (18, 6), (20, 4)])
    assert outcomes(rows(split, [True, True, False], on_its_owner), split)[2] == "another thing"


def test_outcomes_add_up(split):
    n, rng = len(split.all_regions()), np.random.default_rng(0)
    hits = rng.random((2, n)) < 0.5
    table = outcome_table(pd.concat([rows(split, hits[s], rng.integers(0, SIDE, (n, 2)), s) for s in range(2)]), split)
    assert table["point_on"].tolist() == list(OUTCOMES) and table["share"].sum() == pytest.approx(100, abs=0.05)
    assert table["share"].iloc[0] == pytest.approx(100 * hits.mean(), abs=0.01)


def test_misses_are_drawn_evenly_one_a_picture():
    split = split_of([[region(s, p, box(0, 0, 10)) for p in range(2)] for s in range(10)])
    answers = rows(split, [s < 4 for s in range(10) for _ in range(2)])
    drawn = [random_misses(answers, split, 3, seed) for seed in range(400)]
    assert all(len({r.image_id for r in regions}) == 3 for regions in drawn)
    counts = [sum(r.image_id == f"scene-{s}" for regions in drawn for r in regions) for s in range(10)]
    assert counts[:4] == [0] * 4 and all(140 < count < 260 for count in counts[4:])


def test_samples_of_images(split):
    regions = split.all_regions()
    drawn = one_an_image(regions, 4)
    assert len({r.image_id for r in drawn}) == 4 and drawn == one_an_image(regions, 4) != one_an_image(regions, 4, 1)
    assert len(one_an_image(regions, 100)) == 8
    assert first_images(regions, 2) == regions[:4] and first_images(regions, 9) == regions


def pointing(regions: list[Region], maps: torch.Tensor) -> Pointing:
    return Pointing(regions, maps, np.zeros((len(regions), 2)), np.zeros(len(regions)))


def naive_iou(heatmap: np.ndarray, inside: np.ndarray, threshold: float) -> float:
    chosen = {(y, x) for y, x in np.ndindex(heatmap.shape) if heatmap[y, x] >= threshold * heatmap.max()}
    wanted = {(y, x) for y, x in np.ndindex(heatmap.shape) if inside[y, x]}
    return len(chosen & wanted) / len(chosen | wanted)


def test_energy_and_iou_are_counted_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 9, 7, generator=generator, dtype=torch.float64).pow(3)
    masks = torch.rand(5, 9, 7, generator=generator) < 0.3
    energies, ious = energy_inside(maps, masks), threshold_ious(maps, masks)
    for heatmap, inside, energy, iou in zip(maps, masks, energies, ious, strict=True):
        expected = sum(heatmap[y, x] for y, x in np.ndindex(9, 7) if inside[y, x]) / heatmap.sum()
        assert energy == pytest.approx(float(expected))
        np.testing.assert_allclose(
            iou, [naive_iou(heatmap.numpy(), inside.numpy(), threshold) for threshold in THRESHOLDS], rtol=1e-6
        )


def test_rival_is_heat_outside_that_comes_near_the_peak():
    inside = torch.zeros(4, 3, 3, dtype=torch.bool)
    inside[:, 0] = True
    maps = torch.zeros(4, 3, 3)  # the last one stays zero
    maps[:3, 0, 0] = 1
    maps[0, 2, 2], maps[1, 2, 2] = 0.95, 0.94
    assert rival_peaks(maps, inside).tolist() == [True, False, False, False]
    maps[2, 2, 2] = 2  # the peak itself lies outside
    assert rival_peaks(maps, inside)[2]


@pytest.mark.parametrize(("x", "tolerant"), [(10, 1), (12.5, 1), (12.8, 0), (7.3, 1), (7.2, 0)])
def test_tolerant_hit_may_lie_beside_the_box(x, tolerant):
    """3 % of 24 pixels are 0.72 on every side of a box from 8 to 12."""
    answers = pointing([region(0, 0, box(8, 8, 4))], torch.ones(1, 2, 2))
    answers.points = np.array([(x, 10)])
    assert tolerant_hits(answers, [(SIDE, SIDE)]).tolist() == [tolerant]


def test_map_that_is_the_box_is_perfect_one_beside_it_worthless_and_zeros_have_none():
    inside = torch.zeros(3, 8, 8, dtype=torch.bool)
    inside[:, 2:5, 2:5] = True
    maps = torch.zeros(3, 8, 8)
    maps[0, 2:5, 2:5], maps[1, 5:8, 5:8] = 0.3, 7.0
    assert energy_inside(maps, inside).tolist() == [1, 0, 0]
    assert (threshold_ious(maps, inside) == torch.tensor([1.0, 0, 0])[:, None]).all()


def test_pixels_are_inside_by_their_middle():
    inside = pixels_inside([(1.0, 0.0, 3.0, 2.0), (2.6, 1.4, 4.4, 2.5)], (3, 5))
    assert inside.tolist() == [
        [False, True, True, False, False],
        [False, True, True, True, False],
        [False, False, False, False, False],
    ]


def test_maps_are_those_that_point():
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    upsampled = gradcam.upsample(maps, (20, 30), "bicubic")
    found = picture_maps(pointing([region(0, 0, box(0, 0, 8))] * 2, maps), [1, 0], (20, 30))
    assert (upsampled < 0).any()
    torch.testing.assert_close(found, upsampled.flip(0).clamp(min=0))


def test_measures_of_answers_in_their_order():
    regions = [region(s, 0, box(0, 0, 12)) for s in range(40)]
    maps = torch.zeros(40, 2, 2)
    maps[::2, 0, 0], maps[1::2, 1, 1] = 1, 1
    quality = measure(pointing(regions, maps), split_of([[r] for r in regions]))
    assert quality.energy.shape == (40,) and quality.ious.shape == (40, len(THRESHOLDS))
    assert (quality.energy[::2] > 0.7).all() and (quality.energy[1::2] < 0.1).all()
    assert quality.best_threshold == quality.ious.mean(0).argmax()


def test_table_of_known_boxes_and_even_maps():
    """A chosen box counts as a map of ones, an even map as the share of the picture."""
    split = split_of([[region(s, 0, box(0, 0, 10))] for s in range(4)])
    regions, parts = split.all_regions(), []
    for seed, (height, tuned) in enumerate(((10, 3), (20, 1))):
        answers = RegionAnswers(regions, np.array([(0, 0, 10, height)] * 4, dtype=float), np.zeros(4))
        parts.append(rows(split, np.ones(4), seed=seed).assign(**measure(answers, split).columns(tuned)))
    even = rows(split, np.ones(4)).assign(system="chance", **even_maps(split).columns())
    table = quality_table(pd.concat([*parts, even]))
    amc, chance = (table[table["system"] == system] for system in ("AMC", "chance"))
    assert amc["measure"].tolist() == list(MEASURES[:5])  # a box has no peak that could have rivals
    values = amc.set_index("measure")[["value", "ci_low", "ci_high"]]
    assert (values.drop("tolerant hit") == [75, 50, 100]).all(axis=None)  # two seeds, of 100 and of 50
    assert (values.loc["tolerant hit"] == 100).all()
    assert set(amc["seeds"]) == {2} and set(amc["phrases"]) == {4}
    assert chance["measure"].tolist() == ["energy", "IoU, fixed", "IoU, best"]
    drawn = measure(pointing(regions, torch.ones(4, 3, 3)), split)
    np.testing.assert_allclose(chance["value"] / 100, drawn.energy[0], atol=1e-4)
    np.testing.assert_allclose(even_maps(split).ious, drawn.ious, rtol=1e-5)
