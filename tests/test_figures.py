"""Figures are legible and draw what they are given: the overlay, files, the method, examples, sheets of scenes."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from legibility import assert_texts_are_legible
from matplotlib import rcParams
from PIL import Image

from amc_study.figures import (
    Example,
    Shown,
    heat_overlay,
    learning_curves,
    method_figure,
    qualitative_figure,
    save,
    scene_sheet,
    to_image,
)
from amc_study.figures.method import sketch
from amc_study.figures.scene_sheet import choose_regions, tag_corner


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


class TestOverlay:
    def test_shape_and_type(self, picture):
        heat = np.linspace(0, 1, 2400).reshape(40, 60)
        overlay = heat_overlay(Image.fromarray(picture), heat)
        assert overlay.shape == picture.shape and overlay.dtype == np.uint8
        assert np.array_equal(overlay, heat_overlay(picture, heat))

    def test_the_image_shows_where_it_is_cold_and_still_a_little_where_it_is_hot(self, picture):
        cold = heat_overlay(picture, np.zeros((40, 60)))
        assert np.corrcoef(cold.ravel(), picture.ravel())[0, 1] > 0.9
        hot = heat_overlay(picture, np.ones((40, 60)))
        assert np.corrcoef(hot[..., 0].ravel(), picture[..., 0].ravel())[0, 1] > 0.5

    def test_hot_is_brighter_than_warm(self):
        grey = np.full((1, 3, 3), 128, dtype=np.uint8)
        overlay = heat_overlay(grey, np.array([[0.4, 0.7, 1.0]])).astype(float).mean(axis=2)[0]
        assert overlay[2] > overlay[1]

    @pytest.mark.parametrize(
        ("heat", "complaint"),
        [
            (np.zeros((40, 61)), "40, 61"),
            (np.full((40, 60), 1.5), "normalise"),
            (np.full((40, 60), np.nan), "normalise"),
        ],
    )
    def test_wrong_heatmaps_are_refused(self, picture, heat, complaint):
        with pytest.raises(ValueError, match=complaint):
            heat_overlay(picture, heat)

    def test_a_float_image_is_refused(self, picture):
        with pytest.raises(ValueError, match="uint8"):
            heat_overlay(picture / 255, np.zeros((40, 60)))


class TestSave:
    def test_two_saves_are_the_same_bytes(self, tmp_path):
        for name in ("a", "b"):
            save(method_figure(), tmp_path, name)
        for kind in ("png", "svg"):
            assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()

    def test_files_and_provenance(self, tmp_path):
        path = save(method_figure(), tmp_path / "figures", "method", {"seed": 1})
        assert path == tmp_path / "figures" / "method.png"
        assert sorted(file.name for file in path.parent.iterdir()) == ["method.json", "method.png", "method.svg"]
        assert json.loads((path.parent / "method.json").read_text()) == {"seed": 1}
        with Image.open(path) as image:
            assert image.size == to_image(method_figure()).size
        assert b"<dc:date>" not in (path.parent / "method.svg").read_bytes()

    def test_drawing_leaves_the_callers_style_alone(self):
        before = dict(rcParams)
        to_image(learning_curves(pd.DataFrame([(0, "itc", 1.0, "AMC")], columns=["step", "name", "value", "run"])))
        assert dict(rcParams) == before


class TestMethod:
    @pytest.mark.parametrize("phrase", ["red helicopter", "the small striped umbrella next to a dog", "cat"])
    def test_legible_with_any_phrase(self, phrase):
        texts = assert_texts_are_legible(method_figure(*sketch(), phrase=phrase))
        assert f"“{phrase}”" in " ".join(" ".join(texts).split())
        assert {"(1)", "(2)", "(3)", "GradCAM", "fusion encoder"} <= set(texts)

    def test_the_given_arrays_are_drawn(self):
        image, heatmap, mask = sketch()
        drawn = [axes_image.get_array() for axes_image in method_figure(image, heatmap, mask).axes[0].images]
        assert np.array_equal(drawn[0], image)
        assert np.array_equal(drawn[1], heat_overlay(image, heatmap))
        assert np.array_equal(drawn[2][..., 0] == 255, mask)

    def test_half_an_example_is_refused(self):
        image, heatmap, mask = sketch()
        with pytest.raises(ValueError, match="together"):
            method_figure(image, heatmap)
        with pytest.raises(ValueError, match="mask is"):
            method_figure(image, heatmap, mask[:10])


CHOSEN = (12, 4, 28, 16)


def example(phrase="a red helicopter", hits=(False, False, True), point=(20, 10), size=(60, 40)):
    """Two systems with heatmaps and, between them, one that chooses a box."""
    in_detector, with_heat, amc = hits
    heat = np.zeros((size[1], size[0]))
    systems = {
        "ALBEF": Shown(point, with_heat, heatmap=heat),
        "VMRM": Shown(point, in_detector, box=CHOSEN),
        "AMC": Shown(point, amc, heatmap=heat),
    }
    return Example(Image.new("RGB", size, "white"), phrase, [(10, 5, 30, 20), (40, 5, 50, 20)], systems)


class TestQualitative:
    @pytest.mark.parametrize("abreast", [1, 2])
    def test_columns_verdicts_and_legibility(self, abreast):
        figure = qualitative_figure([example(), example("x" * 30 + " and more " * 12), example("dog")], abreast)
        assert len(figure.axes) == 3 * 4
        texts = assert_texts_are_legible(figure)
        assert texts.count("✓ hit") == 3 and texts.count("✗ miss") == 6
        assert texts.count("AMC") == 3 and "“dog”" in texts

    def test_the_cross_is_in_the_middle_of_the_peak_pixel_and_every_box_is_drawn(self):
        axes = qualitative_figure([example(point=(20, 10))]).axes
        assert not axes[0].lines
        for panel in axes[1:]:
            assert tuple(panel.lines[0].get_xydata()[0]) == (20.5, 10.5)
        for panel in axes:
            drawn = {patch.get_bbox().bounds for patch in panel.patches}
            assert {(10, 5, 20, 15), (40, 5, 10, 15)} <= drawn
            assert ((12, 4, 16, 12) in drawn) == (len(drawn) == 3) == panel.get_title(loc="left").startswith("VMRM")

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="no examples"):
            qualitative_figure([])
        other = example("dog")
        other.systems.pop("AMC")
        with pytest.raises(ValueError, match="“dog” has the systems"):
            qualitative_figure([example(), other])
        with pytest.raises(ValueError, match=r"\(60, 10\) lies outside"):
            qualitative_figure([example(point=(60, 10))])


@dataclass
class FakeRegion:
    phrase: str
    boxes: tuple
    kind: str = "object"
    annotated: bool = True


@dataclass
class FakeScene:
    image: Image.Image
    regions: list


def fake_scene():
    regions = [FakeRegion(f"a thing of number {n}", ((20 * n, 30, 20 * n + 18, 60),)) for n in range(6)]
    regions.append(FakeRegion("two cats", ((0, 0, 30, 30), (50, 0, 80, 30)), "group", annotated=False))
    return FakeScene(Image.new("RGB", (160, 160), "white"), regions)


class TestSceneSheet:
    def test_pictures_phrases_attribution_and_legibility(self):
        figure = scene_sheet([fake_scene()] * 5, attribution="Pictures: somebody")
        pictures = [axes for axes in figure.axes if axes.images]
        assert len(pictures) == 5
        texts = assert_texts_are_legible(figure)
        assert texts.count("two cats") == 5 and texts.count("a thing of number 0") == 5
        assert sum(text.startswith("a thing") for text in texts) == 5 * 3
        assert any("Pictures: somebody" in text for text in texts)

    def test_boxes_without_annotation_are_dashed(self):
        (picture,) = (axes for axes in scene_sheet([fake_scene()]).axes if axes.images)
        dashed = {patch.get_bbox().bounds for patch in picture.patches if patch.get_linestyle() not in ("-", "solid")}
        assert dashed == {(0, 0, 30, 30), (50, 0, 30, 30)}

    def test_choice_prefers_new_kinds_then_new_boxes(self):
        box, other = (0, 0, 5, 5), (9, 9, 12, 12)
        same = [FakeRegion("a", (box,)), FakeRegion("b", (box,)), FakeRegion("c", (other,))]
        group = FakeRegion("d", (box, other), "group")
        empty = FakeRegion("e", ())
        assert [region.phrase for region in choose_regions([*same, empty, group], most=3)] == ["a", "d", "b"]
        assert [region.phrase for region in choose_regions(same, most=2)] == ["a", "c"]

    def test_tags_of_one_box_lie_inside_the_picture_and_apart(self):
        taken = []
        for _ in range(4):
            x, y = tag_corner((0, 0, 50, 50), 10, (60, 60), taken)
            assert 0 <= x <= 50 and 0 <= y <= 50
            assert all(abs(x - a) >= 10 or abs(y - b) >= 10 for a, b in taken)
            taken.append((x, y))

    def test_no_scenes(self):
        with pytest.raises(ValueError, match="no scenes"):
            scene_sheet([])
