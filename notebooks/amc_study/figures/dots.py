"""Dot-and-whisker plots: values with their 95 % intervals, a row for each system, claim or setting."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amc_study.figures.style import (
    COLOURS,
    HIT,
    INK,
    MARKERS,
    MISS,
    MUTED,
    OPEN,
    SYSTEMS,
    UNTRAINED,
    new_figure,
    shown_systems,
    styled,
)

ROW_INCHES = 0.235
CONCEPTS = {"all": "all concepts", "boxed": "boxed in finetuning", "unboxed": "never boxed"}
MEASURES = {  # of a heatmap -> what the label says
    "energy": "energy: heat inside the boxes",
    "IoU, fixed": "IoU of the map above half of its peak",
    "IoU, tuned": "IoU above a threshold tuned on val",
    "IoU, best": "IoU above each phrase's best threshold",
    "tolerant hit": "point in a box widened by 3 % of the side",
    "rival peak": "95 % of the peak also outside the boxes",
}
VARIABLES = {
    "size": "share of the picture that the box covers",
    "things": "things named in the picture",
    "overlap": "share of the box that others overlap",
}
ASKED = ("own phrase", "random phrase", "own − random")
VERDICTS = {"holds": HIT, "does not hold": MISS, "undecided": OPEN, "not testable": MUTED}
SIGNIFICANT = 0.05  # corrected p below which a difference is sure


def dot_and_whisker(
    table: pd.DataFrame,
    value: str,
    row: str,
    *,
    block: str | None = None,
    panel: str | None = None,
    colour: str = "system",
    palette: dict[str, str] = COLOURS,
    hollow: str | None = None,
    numbers: bool = True,
    width: float = 7.0,
) -> Figure:
    """A mark with its interval for each record of `table`.

    Columns: `value`, ci_low and ci_high; `row`, the label on the left; `block`, headings above rows; `panel`, the title
    of the panel a record stands in; `colour`, the key into `palette` (and into MARKERS); `hollow`, true for a mark
    that is not filled. Rows, blocks and panels come in the order of the table. numbers: the value stands on the right.
    """
    keys = [block, row] if block else [row]
    places = table[keys].drop_duplicates().reset_index(drop=True)
    starts = places[block].ne(places[block].shift()).cumsum() if block else pd.Series(0, places.index)
    places["y"] = places.index + 1.2 * starts
    table = table.merge(places, on=keys)
    panels = table[panel].unique() if panel else [""]
    figure = new_figure(width, 0.9 + ROW_INCHES * (places["y"].max() + 0.7))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, title in zip(grid, panels, strict=True):
        part = table[table[panel] == title] if panel else table
        _marks(axes, part, value, colour, palette, hollow)
        axes.set_title(title, pad=8)
        for record in part.to_dict("records") if numbers else ():
            _beside(axes, f"{record[value]:.1f}", (1.0, record["y"]), 2, fontsize=7.5)
    grid[0].set_yticks(places["y"], places[row])
    grid[0].set_ylim(places["y"].max() + 0.7, -0.6 if block else -0.7)
    for name, y in places.groupby(block, sort=False)["y"].min().items() if block else ():
        _beside(grid[0], name, (0, y - 0.95), -5, ha="right", weight="bold")
    figure.set_layout_engine("constrained", w_pad=0.08)
    return figure


def _beside(axes: Axes, text: str, place: tuple[float, float], points: float = 0, **look: Any) -> None:
    """A text at (share of the panel's width, height in data), moved to the right by so many points."""
    axes.annotate(text, place, (points, 0), ("axes fraction", "data"), "offset points", va="center", **look)


def _marks(
    axes: Axes, part: pd.DataFrame, value: str, colour: str, palette: dict[str, str], hollow: str | None
) -> None:
    """Intervals as pale bars with a line, taller than the marks on top of them."""
    colours = part[colour].map(palette)
    axes.hlines(part["y"], part["ci_low"], part["ci_high"], colors=colours, linewidth=7, alpha=0.3)
    axes.hlines(part["y"], part["ci_low"], part["ci_high"], colors=colours, linewidth=1.2)
    markers = {key: MARKERS.get(key, "D") for key in part[colour].unique()}
    look = {"palette": palette, "markers": markers, "legend": False, "s": 20, "linewidth": 0, "ax": axes, "zorder": 3}
    sns.scatterplot(part, x=value, y="y", hue=colour, style=colour, **look)
    for record in part[part[hollow]].to_dict("records") if hollow else ():
        axes.plot(record[value], record["y"], markers[record[colour]], color="white", markersize=2.6, zorder=4)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel="", ylabel="")


def seeds_text(table: pd.DataFrame) -> str:
    """How many seeds are behind the rows of what is trained."""
    seeds = table[~table["system"].isin(UNTRAINED)]["seeds"]
    low, high = int(seeds.min()), int(seeds.max())
    if low != high:
        return f"means of {low} to {high} seeds"
    return "one seed" if high == 1 else f"means of {high} seeds"


def _in_order(table: pd.DataFrame, block: str) -> pd.DataFrame:
    """Blocks as they come, and in each the systems in the order of every figure."""
    rank = {name: number for number, name in enumerate([*table[block].unique(), *SYSTEMS])}
    return table.sort_values([block, "system"], key=lambda names: names.map(rank), kind="stable")


@styled
def accuracy_figure(table: pd.DataFrame) -> Figure:
    """Table 1: a panel for each group of concepts, a block for each split, a row for each system.

    table: columns system, split, concepts, accuracy, ci_low, ci_high (percent), seeds.
    """
    table = _in_order(table, "split").sort_values("concepts", kind="stable")  # by the alphabet, as CONCEPTS are
    table = table.assign(panel=table["concepts"].map(CONCEPTS))
    width = 2.0 + 2.35 * table["panel"].nunique()
    figure = dot_and_whisker(table, "accuracy", "system", block="split", panel="panel", width=width)
    for axes in figure.axes:
        axes.set(xlim=(-2, 104), xticks=range(0, 101, 25))
    figure.supxlabel(f"pointing accuracy (%), {seeds_text(table)}; bars: 95 % intervals", fontsize=9)
    return figure


@styled
def asked_figure(table: pd.DataFrame) -> Figure:
    """What a hit is made of: the same boxes asked with their own phrase, with a random one, and the difference.

    table: columns system, asked (with ASKED among its values), accuracy, ci_low, ci_high (points), seeds.
    """
    gained = table[table["asked"] == ASKED[-1]]
    shown = pd.concat([table[table["asked"] == asked] for asked in ASKED])
    shown = shown[shown["system"].isin(gained["system"])]
    figure = dot_and_whisker(_in_order(shown, "asked"), "accuracy", "system", panel="asked", width=7.4)
    for axes in figure.axes[:-1]:
        axes.set(xlim=(-2, 104), xticks=range(0, 101, 25))
    figure.axes[-1].axvline(0, color=INK, linewidth=0.8)
    figure.axes[-1].set_xlim(min(-1, gained["ci_low"].min() - 1), gained["ci_high"].max() + 1)
    seeds = seeds_text(shown)
    figure.supxlabel(f"points in the phrase's boxes (%), {seeds}; bars: 95 % intervals", fontsize=9)
    return figure


@styled
def claims_figure(table: pd.DataFrame) -> Figure:
    """Every claim with its paired difference, the poster's as an open ring, and the verdict in its colour.

    table: columns claim, of, verdict, difference, ci_low, ci_high, poster (points; NaN where there is none).
    """
    table = table.assign(of="claims of " + table["of"])
    look = {"colour": "verdict", "palette": VERDICTS, "numbers": False}
    figure = dot_and_whisker(table, "difference", "claim", block="of", **look)
    axes, rows = figure.axes[0], figure.axes[0].get_yticks()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.plot(table["poster"], rows, "o", markerfacecolor="none", markeredgecolor=INK, markersize=5.5)
    for verdict, y in zip(table["verdict"], rows, strict=True):
        _beside(axes, verdict, (1.02, y), color=VERDICTS[verdict], fontsize=8)
    figure.supxlabel("difference (percentage points); bars: 95 % intervals;  ○ on the poster's photographs", fontsize=9)
    return figure


@styled
def measures_figure(table: pd.DataFrame, label: str) -> Figure:
    """A block for each measure, a row for each system. table: columns system, measure, value, ci_low, ci_high."""
    table = _in_order(table.assign(measure=table["measure"].replace(MEASURES)), "measure")
    figure = dot_and_whisker(table, "value", "system", block="measure", width=4.6)
    low, high = min(0, table["ci_low"].min()), table["ci_high"].max()
    figure.axes[0].set(xlim=(low - 0.03 * (high - low) if low < 0 else 0, 1.05 * high))  # a marker below 0 is whole
    for heading in figure.axes[0].texts[-table["measure"].nunique() :]:
        heading.set(ha="left", x=0)
    figure.supxlabel(label, fontsize=9)
    return figure


@styled
def difficulty_figure(table: pd.DataFrame) -> Figure:
    """Accuracy over groups of phrases: a block for each variable, a row for each group, the systems side by side.

    table: columns by, group, system, accuracy, ci_low, ci_high (percent), phrases; groups in their order.
    """
    table = table.assign(
        by=table["by"].replace(VARIABLES),
        row=table["group"] + "  (" + table["phrases"].map("{:,}".format) + " phrases)",
    )
    figure = dot_and_whisker(table, "accuracy", "row", block="by", numbers=False)
    figure.axes[0].set(xlim=(0, 100))
    look = {"linestyle": "", "markersize": 5}
    systems = shown_systems(table["system"])
    marks = [Line2D([], [], color=COLOURS[s], marker=MARKERS[s], label=s, **look) for s in systems]
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks))
    figure.supxlabel("pointing accuracy (%); bars: 95 % intervals", fontsize=9)
    return figure


@styled
def ablation_figure(table: pd.DataFrame, against: str) -> Figure:
    """A row for each setting, a panel for each split and one for concepts never boxed, all at the same scale.

    table: columns setting, system, split, concepts, accuracy, ci_low, ci_high (percent), seeds, and p, the corrected p
    of the difference from the setting `against` (NaN for itself), whose accuracy is the dotted line.
    """
    everything, unboxed = (table[table["concepts"] == name] for name in ("all", "unboxed"))
    never = unboxed[unboxed["split"] == table["split"].iloc[0]].assign(panel="never boxed")
    shown = pd.concat([everything.assign(panel=everything["split"]), never])
    shown["unsure"] = ~(shown["p"] < SIGNIFICANT) & (shown["setting"] != against)
    figure = dot_and_whisker(shown, "accuracy", "setting", panel="panel", hollow="unsure", width=7.4)
    ranges = shown.groupby("panel", sort=False).agg(low=("ci_low", "min"), high=("ci_high", "max"))
    half = 0.54 * (ranges["high"] - ranges["low"]).max()
    for axes, (title, low, high) in zip(figure.axes, ranges.itertuples(), strict=True):
        for x in shown[(shown["panel"] == title) & (shown["setting"] == against)]["accuracy"]:
            axes.axvline(x, color=MUTED, linestyle=":", linewidth=1.1, zorder=0)
        axes.set(xlim=((low + high) / 2 - half, (low + high) / 2 + half))
        axes.set_title(title, fontsize=8.5)
    look = {"color": COLOURS["AMC"], "marker": "D", "linestyle": "", "markersize": 5}
    legend = [
        Line2D([], [], label="differs from the dotted setting (p < 0.05)", **look),
        Line2D([], [], label="not sure", markerfacecolor="white", **look),
        Line2D([], [], label=against, color=MUTED, linestyle=":"),
    ]
    if (table["system"] != "AMC").any():
        look |= {"color": COLOURS["ALBEF finetuned"], "marker": MARKERS["ALBEF finetuned"]}
        legend.append(Line2D([], [], label="without AMC", **look))
    figure.legend(handles=legend, loc="outside upper left", ncols=4)
    figure.supxlabel(f"pointing accuracy (%), {seeds_text(table)}; bars: 95 % intervals", fontsize=9)
    return figure


def table_markdown(table: pd.DataFrame) -> str:
    """Table 1 for GitHub: accuracy ± half of its interval, a column for each split, a row for each system."""
    half = (table["ci_high"] - table["ci_low"]) / 2
    cell = table["accuracy"].map("{:.1f}".format) + " ± " + half.map("{:.1f}".format)
    concepts = pd.Categorical(table["concepts"].map(CONCEPTS), list(CONCEPTS.values()))
    rows = table.assign(cell=cell, concepts=concepts, system=pd.Categorical(table["system"], list(SYSTEMS)))
    wide = rows.pivot(index=["concepts", "system"], columns="split", values="cell").fillna("–")
    return wide[table["split"].unique()].reset_index().to_markdown(index=False)
