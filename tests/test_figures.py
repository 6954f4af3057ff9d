"""Figures draw the numbers they are given, their texts can be read, and saving them gives the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from legibility import assert_texts_are_legible
from matplotlib import rcParams
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from PIL import Image

from amc_lib.overlay import heat_overlay
from amc_lib.regions import Region
from amc_study import figures
from amc_study.figures import FOLDER, Example, Shown, TwoWays
from amc_study.figures.scene_sheet import SheetImage, choose_regions, tag_corner
from amc_study.figures.style import COLOURS, HIT, MISS, OPEN

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
HEAT = np.linspace(0, 1, 2400).reshape(40, 60)


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv")


def marks(axes, colour: str) -> list[tuple[float, float]]:
    """Where marks of a colour stand."""
    drawn = [(path.get_offsets(), path.get_facecolors()) for path in axes.collections if len(path.get_offsets()) > 1]
    pairs = [
        pair for places, faces in drawn for pair in zip(places, np.broadcast_to(faces, (len(places), 4)), strict=True)
    ]
    return [tuple(place) for place, face in pairs if np.allclose(face, to_rgba(colour), atol=0.01)]


def whiskers(axes) -> set[tuple[float, float]]:
    collections = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    lines = [line for collection in collections for line in collection.get_segments()]
    return {(round(float(start), 6), round(float(end), 6)) for (start, _), (end, _) in lines}


class TestDots:
    def test_accuracy_stands_at_its_numbers_in_the_panel_of_its_concepts(self):
        rows = table("table1")
        values = np.linspace(20, 80, len(rows))  # that differ from row to row
        rows = rows.assign(accuracy=values, ci_low=values - 2.5, ci_high=values + 1.5)
        figure = figures.accuracy_figure(rows.sample(frac=1, random_state=0))
        titles = {"all": "all concepts", "boxed": "boxed in finetuning", "unboxed": "never boxed"}
        assert [axes.get_title("left") for axes in figure.axes] == list(titles.values())
        for axes, concepts in zip(figure.axes, titles, strict=True):
            part = rows[rows["concepts"] == concepts]
            amc = part[part["system"] == "AMC"]["accuracy"]
            assert sorted(x for x, _ in marks(axes, COLOURS["AMC"])) == pytest.approx(sorted(amc))
            assert whiskers(axes) == {tuple(ends) for ends in part[["ci_low", "ci_high"]].round(6).to_numpy()}
        texts = assert_texts_are_legible(figure)
        assert texts.count("AMC") == 3 and {"phrases", "referring A", "20.0"} <= set(texts)

    def test_verdicts_have_their_own_colours(self):
        claims = table("claims").iloc[:12].assign(verdict=["holds", "does not hold", "undecided"] * 4)
        claims.loc[0, ["difference", "ci_low", "ci_high"]], claims.loc[0, "verdict"] = np.nan, "not testable"
        figure = figures.claims_figure(claims)
        texts = assert_texts_are_legible(figure)
        assert texts.count("undecided") == 4 and texts.count("not testable") == 1
        for verdict, colour in (("holds", HIT), ("does not hold", MISS), ("undecided", OPEN)):
            expected = claims[claims["verdict"] == verdict]["difference"].dropna()
            assert sorted(x for x, _ in marks(figure.axes[0], colour)) == pytest.approx(sorted(expected))

    def test_what_a_hit_is_made_of_stands_in_three_panels(self):
        systems, gains = ["AMC", "centre", "ALBEF"], [21.0, 0.0, 5.0]
        parts = [("own phrase", [70.0, 50.0, 45.0]), ("random phrase", [49.0, 50.0, 40.0]), ("own − random", gains)]
        rows = pd.concat([pd.DataFrame({"system": systems, "asked": a, "accuracy": v}) for a, v in parts])
        oracle = {"system": "oracle", "asked": "own phrase", "accuracy": 99.0}  # chooses a box for its own phrase alone
        rows = pd.concat([pd.DataFrame([oracle]), rows, rows[:3].assign(asked="other phrase", accuracy=1.0)])
        seeds = np.where(rows["system"].isin(["AMC", "ALBEF"]), 3, 1)
        rows = rows.assign(ci_low=rows["accuracy"] - 3, ci_high=rows["accuracy"] + 2, seeds=seeds)
        figure = figures.asked_figure(rows)
        assert "means of 3 seeds" in figure.get_supxlabel()
        assert [axes.get_title("left") for axes in figure.axes] == [asked for asked, _ in parts]
        for axes, (_, values) in zip(figure.axes, parts, strict=True):
            assert [x for x, _ in marks(axes, COLOURS["AMC"])] == [values[0]]
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["centre", "ALBEF", "AMC"]
        assert "oracle" not in assert_texts_are_legible(figure)

    def test_measures_are_explained_in_their_headings(self):
        figure = figures.measures_figure(table("explanation_quality"), "percent")
        texts = assert_texts_are_legible(figure)
        assert "energy: heat inside the boxes" in texts and texts.count("AMC") == 4

    def test_difficulty_has_a_row_for_each_group_and_a_mark_for_each_system(self):
        rows = table("difficulty")
        figure = figures.difficulty_figure(rows)
        texts = assert_texts_are_legible(figure)
        assert "up to 20 %  (1,382 phrases)" in texts and "things named in the picture" in texts
        amc = marks(figure.axes[0], COLOURS["AMC"])
        assert [x for x, _ in amc] == pytest.approx(rows[rows["system"] == "AMC"]["accuracy"].tolist())

    @pytest.mark.parametrize("path", sorted(FOLDER.glob("ablation_*.png")), ids=lambda path: path.stem)
    def test_ablations_fill_what_is_sure_and_keep_one_scale(self, path):
        rows = table(path.stem)
        against = rows[rows["difference"].isna()]["setting"].iloc[0]
        figure = figures.ablation_figure(rows, against)
        assert_texts_are_legible(figure)
        shown = rows[rows["concepts"] == "all"]
        assert [axes.get_title("left") for axes in figure.axes] == [*shown["split"].unique(), "never boxed"]
        assert len({round(float(np.ptp(axes.get_xlim())), 6) for axes in figure.axes}) == 1
        for axes, split in zip(figure.axes, shown["split"].unique(), strict=False):
            part = shown[(shown["split"] == split) & (shown["setting"] != against)]
            hollow = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "white"]
            assert sorted(hollow) == sorted(part[~(part["p"] < 0.05)]["accuracy"])
            base = shown[(shown["split"] == split) & (shown["setting"] == against)]["accuracy"].item()
            assert base in [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]

    def test_table_for_github(self):
        table1 = table("table1").query("split != 'referring A'")
        lines = figures.table_markdown(table1).splitlines()
        assert lines[0].split() == ["|", "concepts", "|", "system", "|", "phrases", "|", "referring", "B", "|"]
        assert len(lines) == 2 + 3 * 7
        (amc,) = [line for line in lines if "all concepts" in line and " AMC " in line]
        (row,) = table1.query("system == 'AMC' and split == 'phrases' and concepts == 'all'").to_dict("records")
        assert f" {row['accuracy']:.1f} ± {(row['ci_high'] - row['ci_low']) / 2:.1f} " in amc


class TestCurves:
    @pytest.mark.parametrize("names", [["itc"], ["itc", "itm", "mlm", "amc", "mean", "max", "pointing"], list("abcde")])
    def test_a_panel_for_each_measure_by_its_name_and_a_line_for_each_run(self, names):
        rows = [(step, name, step * 0.1, run) for step, name, run in product(range(50), names, ["AMC", "my run"])]
        history = pd.DataFrame(rows, columns=["step", "name", "value", "run"]).sample(frac=1, random_state=0)
        figure = figures.learning_curves(history)
        panels = [axes for axes in figure.axes if axes.get_title("left")]
        assert len(panels) == len(set(names) - ({"amc"} if "mean" in names else set()))
        texts = assert_texts_are_legible(figure)
        assert ("L_max: the peak inside the box" in texts) == ("max" in names) and "my run" in texts
        for axes in panels:
            lines = axes.lines
            assert len(lines) == 2 and all((np.diff(line.get_xdata()) > 0).all() for line in lines)

    def test_faithfulness_has_a_column_for_each_system_and_a_line_for_each_order(self):
        rows = table("faithfulness_curves").query("fill == 'mean colour'")
        figure = figures.faithfulness_figure(rows)
        assert_texts_are_legible(figure)
        assert [axes.get_title("left") for axes in figure.axes[:3]] == ["ALBEF", "ALBEF finetuned", "AMC"]
        lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[5].lines}
        chosen = rows[(rows["system"] == "AMC") & (rows["curve"] == "insertion")]
        assert lines["its own heatmap first"] == chosen[chosen["order"] == "heatmap"]["probability"].tolist()
        assert lines["random order"] == chosen[chosen["order"] == "random"]["probability"].tolist()

    def test_randomisation_sets_what_it_is_compared_with_apart(self):
        rows = table("randomisation")
        figure = figures.randomisation_figure(rows.sample(frac=1, random_state=0))
        assert_texts_are_legible(figure)
        stages = rows["stage"].drop_duplicates().tolist()
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == stages
        amc = [line for line in figure.axes[0].lines if line.get_color() == COLOURS["AMC"]]
        assert 6 in [len(line.get_xdata()) for line in amc]  # joins the stages, not other phrases and pictures


class TestSave:
    def test_plots_as_png_and_svg_with_provenance_and_the_same_bytes_again(self, tmp_path):
        for name in ("a", "b"):
            figure = figures.claims_figure(table("claims").assign(verdict="holds"))
            assert figures.save(figure, tmp_path, name, {"seed": 1}) == tmp_path / f"{name}.png"
        assert json.loads((tmp_path / "a.json").read_text()) == {"seed": 1}
        for kind in ("png", "svg"):
            assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()

    def test_figures_of_pictures_come_as_png_alone_and_drawing_leaves_the_callers_style_alone(self, tmp_path):
        before = dict(rcParams)
        figures.save(figures.method_figure(PICTURE, HEAT, HEAT > 0.5), tmp_path, "method")
        assert [path.name for path in tmp_path.iterdir()] == ["method.png"]
        assert dict(rcParams) == before


@pytest.mark.parametrize("phrase", ["cat", "the small striped umbrella next to a dog"])
def test_method_is_drawn_around_the_given_example(phrase):
    figure = figures.method_figure(PICTURE, HEAT, HEAT > 0.5, phrase)
    texts = assert_texts_are_legible(figure)
    assert f"“{phrase}”" in " ".join(" ".join(texts).split())
    drawn = [image.get_array() for image in figure.axes[0].images]
    assert np.array_equal(drawn[0], PICTURE) and np.array_equal(drawn[1], heat_overlay(PICTURE, HEAT))
    assert np.array_equal(drawn[2][..., 0] == 255, HEAT > 0.5)


def example(phrase: str) -> Example:
    """Two systems with heatmaps and, between them, one that chooses a box; the last one hits."""
    systems = {
        "before": Shown((20, 10), False, heatmap=HEAT),  # any name will do
        "VMRM": Shown((20, 10), False, box=(12, 4, 28, 16)),
        "AMC": Shown((20, 10), True, heatmap=HEAT),
    }
    return Example(Image.fromarray(PICTURE), phrase, [(10, 5, 30, 20), (40, 5, 50, 20)], systems)


class TestQualitative:
    @pytest.mark.parametrize("abreast", [1, 2])
    def test_verdicts_and_long_phrases_can_be_read(self, abreast):
        phrases = ("dog", "x" * 30 + " and more " * 12, "cat")
        figure = figures.qualitative_figure([example(phrase) for phrase in phrases], abreast)
        texts = assert_texts_are_legible(figure)
        assert texts.count("✓ hit") == 3 and texts.count("✗ miss") == 6 and "“dog”" in texts

    def test_ring_is_in_the_middle_of_the_peak_pixel_and_every_box_is_drawn(self):
        first, *panels = figures.qualitative_figure([example("a red helicopter")]).axes
        assert not first.lines
        for panel in panels:
            assert tuple(panel.lines[0].get_xydata()[0]) == (20.5, 10.5)
            assert panel.lines[0].get_markerfacecolor() == "none"  # what it points at can be seen
            drawn = {patch.get_bbox().bounds for patch in panel.patches}
            assert {(10, 5, 20, 15), (40, 5, 10, 15)} <= drawn
            assert ((12, 4, 16, 12) in drawn) == (panel.get_title("left") == "VMRM")

    def test_no_examples(self):
        with pytest.raises(ValueError, match="no examples"):
            figures.qualitative_figure([])


def test_two_ways_judge_the_centre_of_the_best_box_and_the_peak():
    ways = TwoWays(
        image=Image.fromarray(PICTURE),
        phrase="a dog",
        truth=[(10, 5, 30, 20)],
        proposals=[(12, 4, 28, 16), (40, 5, 50, 20)],
        scores=[2.0, 1.0],
        heatmap=HEAT,
        peak=(59, 39),
        seconds={"detect": 0.1, "match": 0.02, "explain": 0.03},
    )
    texts = assert_texts_are_legible(figures.two_ways_figure(ways))
    assert texts.count("✓ hit") == texts.count("✗ miss") == 1
    assert {"2 proposals", "detector 100 ms, matching 20 ms"} <= set(texts)
    texts = assert_texts_are_legible(figures.two_ways_figure(replace(ways, peak=(20, 10))))
    assert texts.count("✓ hit") == 2


def region(phrase: str, *boxes, kind: str = "object", annotated: bool = True) -> Region:
    return Region(phrase, "val", None, "picture", phrase, boxes, kind, annotated)


class TestSceneSheet:
    def test_pictures_phrases_attribution_and_dashed_boxes(self):
        regions = [region(f"a thing of number {n}", (20 * n, 30, 20 * n + 18, 60)) for n in range(6)]
        regions.append(region("two cats", (0, 0, 30, 30), (50, 0, 80, 30), kind="group", annotated=False))
        scene = SheetImage(Image.new("RGB", (160, 160), "white"), regions)
        figure = figures.scene_sheet([scene] * 5, "Pictures: somebody")
        texts = assert_texts_are_legible(figure)
        assert texts.count("two cats") == 5 and sum(text.startswith("a thing") for text in texts) == 5 * 3
        assert any("Pictures: somebody" in text for text in texts)
        dashed = [patch for patch in figure.axes[0].patches if patch.get_linestyle() not in ("-", "solid")]
        assert {patch.get_bbox().bounds for patch in dashed} == {(0, 0, 30, 30), (50, 0, 30, 30)}

    def test_choice_prefers_new_kinds_then_new_boxes(self):
        box, other = (0, 0, 5, 5), (9, 9, 12, 12)
        same = [region("a", box), region("b", box), region("c", other)]
        group, empty = region("d", box, other, kind="group"), region("e")
        assert [region.phrase for region in choose_regions([*same, empty, group], most=3)] == ["a", "d", "b"]
        assert [region.phrase for region in choose_regions(same, most=2)] == ["a", "c"]

    def test_tags_of_one_box_lie_inside_the_picture_and_apart(self):
        tags = []
        for _ in range(4):
            x, y = tag_corner((0, 0, 50, 50), 10, (60, 60), tags)
            assert 0 <= x <= 50 and 0 <= y <= 50
            assert all(abs(x - a) >= 10 or abs(y - b) >= 10 for a, b in tags)
            tags.append((x, y))
