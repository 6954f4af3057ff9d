"""The accuracy figure, the table and the learning curves say what the numbers say."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from legibility import assert_texts_are_legible

from amc_study.figures import accuracy_figure, learning_curves, table_markdown
from amc_study.figures.results import ACCURACY_COLUMNS, SYSTEMS
from amc_study.figures.style import COLOURS, MARKERS

ALL_SYSTEMS = {"chance": 5, "centre": 9, "ALBEF": 70, "ALBEF finetuned": 84, "AMC": 99, "VMRM": 83, "oracle": 100}


def accuracy_table(half=1.0, systems=ALL_SYSTEMS, concepts=("all", "boxed", "unboxed")):
    splits = ("phrases", "referring A", "referring B")
    rows = [
        (system, split, group, value, max(0, value - half), min(100, value + half), 900, 3)
        for (system, value), split, group in product(systems.items(), splits, concepts)
    ]
    return pd.DataFrame(rows, columns=list(ACCURACY_COLUMNS))


class TestAccuracy:
    def test_every_system_has_its_own_colour_and_shape(self):
        assert set(COLOURS) == set(MARKERS) == set(SYSTEMS)
        assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(SYSTEMS)

    def test_panels_values_and_legibility(self):
        table = accuracy_table()
        figure = accuracy_figure(table)
        assert [axes.get_title(loc="left") for axes in figure.axes] == [
            "all concepts",
            "boxed in finetuning",
            "never boxed",
        ]
        texts = assert_texts_are_legible(figure)
        assert texts.count("99.0") == 9 and texts.count("ALBEF finetuned") == 3
        assert any("3 seeds" in text for text in texts)

    def test_points_and_whiskers_stand_at_the_numbers(self):
        table = accuracy_table(half=2.5, systems={"ALBEF": 60.0, "AMC": 71.5}, concepts=("all",))
        (axes,) = accuracy_figure(table).axes
        points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == MARKERS["AMC"]]
        assert points == [71.5] * 3
        whiskers = [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
        assert whiskers.count((69.0, 74.0)) == 3 and whiskers.count((57.5, 62.5)) == 3

    @pytest.mark.parametrize("column", ACCURACY_COLUMNS)
    @pytest.mark.parametrize("function", [accuracy_figure, table_markdown])
    def test_a_missing_column_is_named(self, function, column):
        with pytest.raises(ValueError, match=rf"lacks the column {column}$"):
            function(accuracy_table().drop(columns=column))

    def test_impossible_tables_are_refused(self):
        table = accuracy_table()
        with pytest.raises(ValueError, match="'GLIP' is none of"):
            accuracy_figure(table.replace({"system": {"AMC": "GLIP"}}))
        with pytest.raises(ValueError, match="twice"):
            accuracy_figure(pd.concat([table, table.iloc[:1]]))
        with pytest.raises(ValueError, match="ci_low <= accuracy"):
            accuracy_figure(table.assign(ci_low=table["accuracy"] + 0.5))
        with pytest.raises(ValueError, match="no rows"):
            accuracy_figure(table.iloc[:0])


class TestMarkdown:
    def test_layout(self):
        systems = {"ALBEF": 60.0, "AMC": 71.5}
        lines = table_markdown(accuracy_table(2.5, systems, ("all",))).splitlines()
        assert lines[0] == "| system | phrases | referring A | referring B |"
        assert lines[2] == "| ALBEF | 60.0 ± 2.5 | 60.0 ± 2.5 | 60.0 ± 2.5 |"
        assert lines[3] == "| AMC | **71.5 ± 2.5** | **71.5 ± 2.5** | **71.5 ± 2.5** |"
        assert len(table_markdown(accuracy_table(2.5, systems)).splitlines()) == 2 + 3 * 2

    @pytest.mark.parametrize(("lead", "bold"), [(4.9, 0), (5.0, 0), (5.1, 3)])
    def test_bold_only_when_the_intervals_do_not_touch(self, lead, bold):
        table = accuracy_table(2.5, {"chance": 5.0, "ALBEF": 60.0, "AMC": 60.0 + lead}, ("all",))
        assert table_markdown(table).count("**") == 2 * bold

    def test_the_oracle_neither_wins_nor_hides_the_winner(self):
        lines = table_markdown(accuracy_table(1.0, {"ALBEF": 60.0, "AMC": 70.0, "oracle": 99.0}, ("all",))).splitlines()
        assert lines[3].count("**70.0") == 3 and "**" not in lines[4]

    def test_one_system_alone_is_not_best_and_gaps_are_dashes(self):
        table = accuracy_table(1.0, {"AMC": 70.0}, ("all",))
        assert "**" not in table_markdown(table)
        extra = accuracy_table(1.0, {"VMRM": 50.0}, ("all",)).query("split == 'phrases'")
        last = table_markdown(pd.concat([table, extra])).splitlines()[-1]
        assert last == "| VMRM | 50.0 ± 1.0 | – | – |"


class TestLearningCurves:
    def test_a_panel_for_each_measure_and_a_line_for_each_run(self):
        names = ["itc", "itm", "mlm", "amc", "pointing"]
        rows = [
            (step, name, step * 0.1, run) for step, name, run in product(range(50), names, ["AMC", "ALBEF finetuned"])
        ]
        figure = learning_curves(pd.DataFrame(rows, columns=["step", "name", "value", "run"]).sample(frac=1))
        assert sorted(axes.get_title(loc="left") for axes in figure.axes) == sorted(names)
        for axes in figure.axes:
            assert {line.get_label(): line.get_color() for line in axes.lines} == {
                run: COLOURS[run] for run in ("AMC", "ALBEF finetuned")
            }
            assert all((np.diff(line.get_xdata()) > 0).all() for line in axes.lines)
        assert_texts_are_legible(figure)

    def test_a_missing_column_is_named(self):
        with pytest.raises(ValueError, match="history lacks the column value"):
            learning_curves(pd.DataFrame({"step": [1], "name": ["a"], "run": ["b"]}))
