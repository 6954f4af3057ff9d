"""Figures of explanations and claims: they show the numbers of their tables, and all their texts can be read."""

from __future__ import annotations

import explanation_tables as made
import pytest
from legibility import assert_texts_are_legible

from amc_study.explain.claims import NOT_TESTABLE
from amc_study.figures import (
    claims_figure,
    difficulty_figure,
    faithfulness_figure,
    measures_figure,
    randomisation_figure,
)
from amc_study.figures.style import COLOURS, MARKERS

COLUMN_INCHES = 7.1  # of a page's text width


def points(axes, marker: str) -> list[tuple[float, float]]:
    """Where markers of a kind stand."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [tuple(map(float, pair)) for line in lines for pair in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_measures_stand_at_their_numbers():
    table = made.measures()
    figure = measures_figure(table, "percent")
    texts = assert_texts_are_legible(figure)
    (axes,) = figure.axes
    for system, marker in MARKERS.items():
        values = table[table["system"] == system]["value"].tolist()
        assert sorted(x for x, _ in points(axes, marker)) == sorted(values)
    assert texts.count("AMC") == 4 and {"energy", "IoU, tuned", "61.0"} <= set(texts)
    ends = [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert sorted(ends) == sorted(table[["ci_low", "ci_high"]].itertuples(index=False, name=None))
    assert figure.get_size_inches()[0] <= COLUMN_INCHES / 2


def test_measures_without_chance_have_no_row_for_it():
    table = made.measures(["recall@1"])
    figure = measures_figure(table[table["system"] != "chance"], "percent")
    assert "chance" not in assert_texts_are_legible(figure)


def test_difficulty_has_a_panel_for_each_variable():
    table = made.difficulty()
    figure = difficulty_figure(table)
    texts = assert_texts_are_legible(figure)
    assert any("up to 20 %" in text for text in texts) and any("(1234)" in text for text in texts)
    for axes, (by, groups) in zip(figure.axes, made.GROUPS.items(), strict=True):
        expected = table[(table["by"] == by) & (table["system"] == "AMC")]["accuracy"].tolist()
        found = points(axes, MARKERS["AMC"])
        assert [y for _, y in found] == expected
        assert [round(x) for x, _ in found] == list(range(len(groups)))
    assert figure.get_size_inches()[0] <= COLUMN_INCHES


def test_faithfulness_has_a_column_for_each_system_and_a_line_for_each_order():
    table = made.curves()
    figure = faithfulness_figure(table)
    assert_texts_are_legible(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == list(made.HEATMAPS)
    insertion = figure.axes[3 + made.HEATMAPS.index("AMC")]
    lines = {line.get_label(): line.get_ydata().tolist() for line in insertion.lines}
    chosen = table[(table["system"] == "AMC") & (table["curve"] == "insertion")]
    for order, label in (
        ("heatmap", "its own heatmap first"),
        ("random", "random order"),
        ("box", "the true box first"),
    ):
        assert lines[label] == chosen[chosen["order"] == order]["probability"].tolist()
    assert figure.get_size_inches()[0] <= COLUMN_INCHES


def test_randomisation_sets_what_it_is_compared_with_apart():
    table = made.randomisation()
    figure = randomisation_figure(table.sample(frac=1, random_state=0))
    assert_texts_are_legible(figure)
    correlation, pointing = figure.axes
    stages = table["stage"].drop_duplicates().tolist()
    assert [label.get_text() for label in correlation.get_yticklabels()] == stages
    own = table[table["system"] == "AMC"]
    for axes, name in ((correlation, "correlation"), (pointing, "pointing")):
        expected = own.dropna(subset=name)
        found = points(axes, MARKERS["AMC"])
        assert [x for x, _ in found] == expected[name].tolist()
        rows = [stages.index(stage) for stage in expected["stage"]]
        assert all(-0.2 < y - row < 0.8 for (_, y), row in zip(found, rows, strict=True))
    joined = [line for line in correlation.lines if line.get_linestyle() == "-" and line.get_color() == COLOURS["AMC"]]
    assert [len(line.get_xdata()) for line in joined] == [6]  # other phrases and pictures are no stages


def test_claims_show_difference_poster_and_verdict():
    table = made.claims()
    figure = claims_figure(table)
    texts = assert_texts_are_legible(figure)
    (axes,) = figure.axes
    assert [x for x, _ in points(axes, "D")] == table["difference"].dropna().tolist()
    assert len(points(axes, "o")) == table["poster"].notna().sum()
    for verdict in ("reproduced", "not reproduced", NOT_TESTABLE):
        assert texts.count(verdict) == table["verdict"].str.replace(" at this scale", "").eq(verdict).sum()
    assert {"claims of the poster", "claims of this study", *table["claim"]} <= set(texts)
    assert figure.get_size_inches()[0] <= COLUMN_INCHES


@pytest.mark.parametrize("system", ["AMC"])
def test_one_system_alone_can_be_drawn(system):
    for draw, table in (
        (difficulty_figure, made.difficulty()),
        (faithfulness_figure, made.curves()),
        (randomisation_figure, made.randomisation()),
    ):
        assert_texts_are_legible(draw(table[table["system"] == system]))
