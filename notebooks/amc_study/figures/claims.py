"""The claims of the poster, each with its difference, interval and verdict."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from amc_study.explain.claims import CONFIRMED, NOT_TESTABLE
from amc_study.figures.style import HIT, INK, MISS, MUTED, RULE, new_figure, styled

ROW_INCHES = 0.25


@styled
def claims_figure(table: pd.DataFrame) -> Figure:
    """A row for each claim: the difference in points with its interval, the poster's as an open mark, the verdict.

    table: columns claim, of, verdict, difference, ci_low, ci_high, poster (points; NaN where there is none).
    """
    figure = new_figure(7.0, 0.7 + ROW_INCHES * (len(table) + table["of"].nunique()))
    axes = figure.subplots()
    y, ticks, before = 0.0, {}, None
    for record in table.itertuples():
        if record.of != before:
            y, before = y + 1, record.of
            heading = f"claims of {record.of}"
            axes.annotate(
                heading, (-0.02, y - 1), xycoords=("axes fraction", "data"), ha="right", va="center", weight="bold"
            )
        colour = HIT if record.verdict in CONFIRMED else MUTED if record.verdict == NOT_TESTABLE else MISS
        if record.verdict != NOT_TESTABLE:
            axes.plot([record.ci_low, record.ci_high], [y, y], color=colour, marker="|", markersize=7)
            axes.plot(record.difference, y, "D", color=colour, markersize=4)
        if pd.notna(record.poster):
            axes.plot(record.poster, y, "o", markerfacecolor="white", markeredgecolor=INK, markersize=4.5)
        axes.annotate(
            record.verdict.replace(" at this scale", ""), (1.02, y), xycoords=("axes fraction", "data"), va="center",
            color=colour, fontsize=8,
        )  # fmt: skip
        ticks[y] = record.claim
        y += 1
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7.5)
    axes.set(ylim=(y - 0.4, -0.6), xlabel="difference (percentage points), 95 % interval;  ○ the poster's own")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=RULE)
    figure.set_layout_engine("constrained")
    return figure
