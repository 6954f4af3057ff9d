"""Energy and IoU against pixels counted one by one, and cases whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amc_lib import gradcam
from amc_lib.config import SceneSettings
from amc_lib.evaluate import Pointing
from amc_lib.regions import Region
from amc_study.explain.heatmap_quality import (
    FIXED,
    THRESHOLDS,
    energy_inside,
    even_maps,
    measure,
    picture_maps,
    pixels_inside,
    quality_table,
    threshold_ious,
)
from amc_study.rival.region_answers import RegionAnswers
from amc_study.scenes.splits import SceneSplit

SIDE = 24
PROPERTY = settings(deadline=None, max_examples=60)  # no deadline: other work may share the cores


@dataclass(frozen=True)
class Blank:
    index: int = 0

    def open(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE))


def region(*boxes, scene: int = 0) -> Region:
    return Region(f"{scene}-{boxes}", "phrases", Blank(scene), f"scene-{scene}", "cat", boxes)


def bank_of(regions: list[Region]) -> SceneSplit:
    return SceneSplit(SceneSettings(size=SIDE), "phrases", torch.zeros(len(regions), 1), [], [[r] for r in regions])


def pointing(regions: list[Region], maps: torch.Tensor) -> Pointing:
    return Pointing(regions, maps, np.zeros((len(regions), 2)), np.zeros(len(regions)))


def naive_iou(heatmap: np.ndarray, inside: np.ndarray, threshold: float) -> float:
    chosen = {(y, x) for y, x in np.ndindex(heatmap.shape) if heatmap[y, x] >= threshold * heatmap.max()}
    wanted = {(y, x) for y, x in np.ndindex(heatmap.shape) if inside[y, x]}
    return len(chosen & wanted) / len(chosen | wanted)


@pytest.fixture
def random_maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 9, 7, generator=generator, dtype=torch.float64).pow(3)
    return maps, torch.rand(5, 9, 7, generator=generator) < 0.3


# ------------------------------------------------------------------------------------------------------------- measures


def test_energy_is_a_sum_over_pixels(random_maps):
    for heatmap, inside, energy in zip(*random_maps, energy_inside(*random_maps), strict=True):
        expected = sum(heatmap[y, x] for y, x in np.ndindex(9, 7) if inside[y, x]) / heatmap.sum()
        assert energy == pytest.approx(float(expected))


def test_iou_is_counted_pixel_by_pixel(random_maps):
    ious = threshold_ious(*random_maps)
    assert ious.shape == (5, len(THRESHOLDS))
    for b, (heatmap, inside) in enumerate(zip(*random_maps, strict=True)):
        expected = [naive_iou(heatmap.numpy(), inside.numpy(), threshold) for threshold in THRESHOLDS]
        np.testing.assert_allclose(ious[b], expected, rtol=1e-6)


def test_map_that_is_the_box_is_perfect_and_one_beside_it_worthless():
    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[:, 2:5, 2:5] = True
    maps = torch.zeros(2, 8, 8)
    maps[0, 2:5, 2:5], maps[1, 5:8, 5:8] = 0.3, 7.0
    assert energy_inside(maps, inside).tolist() == [1, 0]
    assert (threshold_ious(maps, inside)[0] == 1).all() and (threshold_ious(maps, inside)[1] == 0).all()


def test_even_map_has_the_share_of_the_box():
    maps, inside = torch.ones(1, 10, 10), torch.zeros(1, 10, 10, dtype=torch.bool)
    inside[0, :2, :5] = True
    assert energy_inside(maps, inside).item() == pytest.approx(0.1)
    torch.testing.assert_close(threshold_ious(maps, inside)[0], torch.full((len(THRESHOLDS),), 0.1))


def test_map_of_zeros_has_none():
    maps, inside = torch.zeros(1, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    inside[0, 3:] = False
    assert energy_inside(maps, inside).item() == 0
    assert threshold_ious(maps, inside).tolist() == [[0.0] * len(THRESHOLDS)]


@PROPERTY
@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_scale_changes_nothing(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    maps, inside = torch.rand(2, 6, 6, generator=generator, dtype=torch.float64), torch.zeros(2, 6, 6).bool()
    inside[:, 1:4, 2:5] = True
    torch.testing.assert_close(energy_inside(maps * scale, inside), energy_inside(maps, inside))
    assert (threshold_ious(maps * scale, inside) - threshold_ious(maps, inside)).abs().max() < 0.2  # a pixel at a step
    assert ((threshold_ious(maps, inside) >= 0) & (threshold_ious(maps, inside) <= 1)).all()


def test_pixels_are_inside_by_their_middle():
    inside = pixels_inside([(1.0, 0.0, 3.0, 2.0), (2.6, 1.4, 4.4, 2.5)], (3, 5))
    assert inside.tolist() == [
        [False, True, True, False, False],
        [False, True, True, True, False],
        [False, False, False, False, False],
    ]


# --------------------------------------------------------------------------------------------------------- of answers


def test_maps_are_those_that_point():
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    regions = [region((0.0, 0.0, 8.0, 8.0))] * 2
    upsampled = gradcam.upsample(maps, (20, 30), "bicubic")
    shown = picture_maps(pointing(regions, maps), [1, 0], (20, 30))
    assert (upsampled < 0).any()
    torch.testing.assert_close(shown, upsampled.flip(0).clamp(min=0))


def test_measures_of_answers_in_their_order():
    regions = [region((0.0, 0.0, 12.0, 12.0), scene=s) for s in range(40)]
    maps = torch.zeros(40, 2, 2)
    maps[::2, 0, 0], maps[1::2, 1, 1] = 1, 1
    quality = measure(pointing(regions, maps), bank_of(regions))
    assert quality.energy.shape == (40,) and quality.ious.shape == (40, len(THRESHOLDS))
    assert (quality.energy[::2] > 0.7).all() and (quality.energy[1::2] < 0.1).all()
    assert (quality.ious[::2].max(1) > 0.7).all()


def test_chosen_box_counts_as_a_map():
    regions = [region((0.0, 0.0, 10.0, 10.0), scene=s) for s in range(2)]
    answers = RegionAnswers(regions, np.array([(0, 0, 10, 10), (5, 0, 15, 10)], dtype=float), np.zeros(2))
    quality = measure(answers, bank_of(regions))
    assert quality.energy.tolist() == [1, 0.5]
    assert quality.ious[0].tolist() == [1] * len(THRESHOLDS)
    np.testing.assert_allclose(quality.ious[1], 50 / 150)


def test_even_maps_are_measured_as_maps_are():
    regions = [region((0.0, 0.0, 12.0, 6.0)), region((0.0, 0.0, 12.0, 12.0), (6.0, 6.0, 18.0, 18.0), scene=1)]
    bank = bank_of(regions)
    drawn = measure(pointing(regions, torch.ones(2, 3, 3)), bank)
    np.testing.assert_allclose(even_maps(bank).energy, drawn.energy, rtol=1e-5)
    np.testing.assert_allclose(even_maps(bank).ious, drawn.ious, rtol=1e-5)


def test_table_of_known_maps():
    regions = [region((0.0, 0.0, 10.0, 10.0), scene=s) for s in range(4)]
    bank = bank_of(regions)
    right = RegionAnswers(regions, np.array([(0, 0, 10, 10)] * 4, dtype=float), np.zeros(4))
    half = RegionAnswers(regions, np.array([(0, 0, 10, 20)] * 4, dtype=float), np.zeros(4))
    of_seeds = [measure(right, bank), measure(half, bank)]
    table = quality_table({"AMC": {"phrases": of_seeds}}, {"AMC": [3, 1]}, {"phrases": bank})
    assert table["measure"].tolist() == ["energy", "IoU, fixed", "IoU, tuned", "IoU, best"]
    assert table["value"].tolist() == [75.0] * 4
    assert (table[["ci_low", "ci_high"]] == 75.0).all(axis=None)
    assert table["threshold"].tolist() == ["", f"{FIXED:.2f}", "0.20 0.10", ""]
    assert set(table["seeds"]) == {2} and set(table["phrases"]) == {4}
    without = quality_table({"AMC": {"phrases": of_seeds}}, {}, {"phrases": bank})
    assert "IoU, tuned" not in set(without["measure"])


def test_tuned_threshold_is_that_of_the_largest_mean():
    quality = measure(
        pointing([region((0.0, 0.0, 12.0, 12.0))], torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])),
        bank_of([region((0.0, 0.0, 12.0, 12.0))]),
    )
    assert quality.best_threshold == quality.ious[0].argmax()
    assert quality.ious[0].max() > quality.ious[0].min()
