"""The picture of an ablation shows the numbers of its table, which of them differ, and can be read."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from legibility import assert_texts_are_legible

from amc_study.figures import FOLDER, ablation_figure
from amc_study.figures.ablation import FAR, NEVER_BOXED
from amc_study.figures.style import MARKERS
from amc_study.report.gallery.ablations import GRID

SPLITS = ("phrases", "referring A", "referring B")
COLUMN_INCHES = 7.2


def a_table(settings: list[str], against: str, without: str | None = None) -> pd.DataFrame:
    """Made-up numbers: every second setting differs from `against`; `without` has no row on the last split."""
    rows = []
    for s, split in enumerate(SPLITS):
        for n, setting in enumerate(settings):
            for concepts in ("all", "boxed", "unboxed")[: 3 if split == "phrases" else 1]:
                if (setting, split) == (without, SPLITS[-1]):
                    continue
                accuracy = 60 + 5 * s + n + (concepts == "unboxed") / 2
                rows.append(
                    {
                        "setting": setting,
                        "system": "ALBEF finetuned" if n == 0 and setting != against else "AMC",
                        "split": split,
                        "concepts": concepts,
                        "accuracy": accuracy,
                        "ci_low": accuracy - 1,
                        "ci_high": accuracy + 1.5,
                        "p": math.nan if setting == against else (0.01 if n % 2 else 0.5),
                        "seeds": 3 + n % 2,
                    }
                )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", GRID)
def test_every_ablation_of_the_grid_can_be_read(name):
    settings = pd.read_csv(FOLDER / f"ablation_{name}.csv")["setting"].unique().tolist()
    against = GRID[name]["against"]
    figure = ablation_figure(a_table(settings, against), against)
    texts = assert_texts_are_legible(figure)
    assert set(settings) <= set(texts) and {*SPLITS, NEVER_BOXED} <= set(texts)
    assert figure.get_size_inches()[0] <= COLUMN_INCHES


def test_points_stand_at_their_numbers_and_are_hollow_where_nothing_differs():
    settings = ["no boxes", "L_mean", "L_max", "both"]
    table = a_table(settings, "both", without="L_max")
    figure = ablation_figure(table, "both")
    assert "pointing accuracy (%), means of 3 to 4 seeds, 95 % interval" in assert_texts_are_legible(figure)
    for axes, split in zip(figure.axes, SPLITS, strict=False):
        part = table[(table["split"] == split) & (table["concepts"] == "all")].set_index("setting")
        drawn = [line for line in axes.lines if line.get_marker() in MARKERS.values()]
        found = {settings[round(line.get_ydata()[0])]: line for line in drawn}
        assert set(found) == set(part.index)
        for setting, line in found.items():
            assert line.get_xdata()[0] == part["accuracy"][setting]
            assert line.get_marker() == MARKERS[part["system"][setting]]
            hollow = line.get_markerfacecolor() == "white"
            assert hollow == (setting != "both" and part["p"][setting] > 0.05)
        (reference,) = (line for line in axes.lines if line.get_linestyle() == ":")
        assert set(reference.get_xdata()) == {part["accuracy"]["both"]}


@pytest.mark.parametrize("behind", [FAR - 1, FAR + 1])
def test_setting_far_behind_is_an_arrow_and_leaves_the_others_apart(behind):
    table = a_table(["box head", "L_max", "both"], "both")
    numbers = ["accuracy", "ci_low", "ci_high"]
    table.loc[table["setting"] == "box head", numbers] -= behind - 2  # both is two points above it already
    figure = ablation_figure(table, "both")
    for axes in figure.axes:
        arrows = [line for line in axes.lines if line.get_marker() == "<"]
        low, high = axes.get_xlim()
        assert len(arrows) == (behind > FAR) == (high - low < FAR)
        assert all(low < arrow.get_xdata()[0] < high and arrow.get_ydata()[0] == 0 for arrow in arrows)
        assert f"{table['accuracy'].iloc[0]:.1f}" in [text.get_text() for text in figure.axes[0].texts]
