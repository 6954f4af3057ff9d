"""An ablation as a picture: a row for each setting, a panel for each split, and one for things never boxed."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc_study.explain.claims import SIGNIFICANT
from amc_study.figures.results import seeds_text
from amc_study.figures.style import COLOURS, INK, MARKERS, MUTED, RULE, new_figure, styled

ROW_INCHES = 0.24
NEVER_BOXED = "never boxed"
MARGIN = 0.12  # share of the span left free on either side, for the values
FAR = 20  # points below the setting compared with: an arrow at the edge, so that the others stay apart


@styled
def ablation_figure(table: pd.DataFrame, against: str) -> Figure:
    """Points with 95 % whiskers; the dotted line is the setting `against`, which the others are compared with.

    table: columns setting, system, split, concepts, accuracy, ci_low, ci_high (percent), p (of the difference, after
    correction; NaN where there is none). A filled point differs from `against` (p below 0.05), a hollow one does not.
    An arrow at the edge stands for a setting more than FAR points below it; the number beside the panel is its own.
    """
    settings, splits = list(dict.fromkeys(table["setting"])), list(dict.fromkeys(table["split"]))
    panels = [(split, table[(table["split"] == split) & (table["concepts"] == "all")]) for split in splits]
    unboxed = table[(table["split"] == splits[0]) & (table["concepts"] == "unboxed")]
    if len(unboxed):
        panels.append((NEVER_BOXED, unboxed))
    figure = new_figure(7.2, 0.75 + ROW_INCHES * len(settings))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, part) in zip(grid, panels, strict=True):
        _panel(axes, part.set_index("setting").reindex(settings), against)
        axes.set_title(title, fontsize=8.5)
    grid[0].set_yticks(range(len(settings)), settings)
    grid[0].set_ylim(len(settings) - 0.4, -0.6)
    figure.supxlabel(f"pointing accuracy (%), {seeds_text(table['seeds'])}, 95 % interval", fontsize=9)
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, against: str) -> None:
    """part: one row a setting, in order, indexed by it."""
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    base = part["accuracy"].get(against, float("nan"))
    if pd.notna(base):
        axes.axvline(base, color=MUTED, linestyle=":", linewidth=0.9)
    far = part["accuracy"] < base - FAR
    low, high = part["ci_low"][~far].min(), part["ci_high"][~far].max()
    margin = max(0.5, MARGIN * (high - low))
    axes.set_xlim(low - margin, high + margin)
    for y, (setting, row) in enumerate(part.iterrows()):
        if pd.isna(row["accuracy"]):
            continue
        colour = COLOURS[row["system"]]
        same = setting != against and not row["p"] < SIGNIFICANT
        if far[setting]:
            axes.plot(low - margin / 2, y, "<", color=colour, markersize=4.2)
        else:
            axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, marker="|", markersize=6)
            axes.plot(
                row["accuracy"], y, MARKERS[row["system"]], color=colour, markersize=4.2,
                markerfacecolor="white" if same else colour,
            )  # fmt: skip
        axes.annotate(
            f"{row['accuracy']:.1f}", (1.0, y), xycoords=("axes fraction", "data"), xytext=(1, 0),
            textcoords="offset points", ha="left", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
    axes.axhline(len(part) - 0.4, color=RULE, linewidth=0.6)
