"""Lines: how training went, what happens when cells or weights go."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amc_study.figures.style import COLOURS, CYCLE, MARKERS, MUTED, RULE, SYSTEMS, new_figure, shown_systems, styled

LOSSES = {
    "itc": "ITC: picture and phrase alike",
    "itm": "ITM: do they match?",
    "mlm": "MLM: the hidden words",
    "mean": "L_mean: heat inside the box",
    "max": "L_max: the peak inside the box",
    "amc": "L_amc: L_mean and L_max",
    "mrm": "MRM: the hidden proposal's features",
    "pointing": "pointing on validation (%)",
}
ORDERS = {  # in which cells go: colour, dashes, marker, name
    "heatmap": (CYCLE[1], "-", "D", "its own heatmap first"),
    "box": (CYCLE[2], "--", "s", "the true box first"),
    "random": (MUTED, ":", "o", "random order"),
    "blurred": (CYCLE[3], "-.", "^", "a blurred copy first"),
    "coldest": (CYCLE[0], ":", "v", "its own heatmap last"),
}


@styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """A panel for each measure over training steps, a line for each run.

    history: columns step, name (of the measure), value, run (a label; a system's name gets the system's colour).
    """
    names, runs = list(history["name"].unique()), list(history["run"].unique())
    if {"mean", "max"} <= set(names):
        names.remove("amc")  # the sum of the two
    others = [run for run in runs if run not in COLOURS]
    palette = COLOURS | dict(zip(others, CYCLE * len(others), strict=False))
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(2.7 * columns, 1.9 * lines + 0.45)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        part = history[history["name"] == name].sort_values("step")
        mark = "o" if part.groupby("run").size().max() < 30 else None
        look = {"palette": palette, "estimator": None, "legend": False, "marker": mark, "markersize": 4}
        sns.lineplot(part, x="step", y="value", hue="run", ax=axes, **look)
        axes.set(xlabel="step", ylabel="")
        axes.set_title(LOSSES.get(name, name), fontsize=8.5)
        axes.grid(axis="y")
    handles, free = [Line2D([], [], color=palette[run], label=run) for run in runs], grid.flat[len(names) :]
    for axes in free:
        axes.axis("off")
    if len(free):
        free[0].legend(handles=handles, loc="center")
    else:
        figure.legend(handles=handles, loc="outside upper left", ncols=4)
    figure.set_layout_engine("constrained", w_pad=0.06)
    return figure


@styled
def faithfulness_figure(table: pd.DataFrame) -> Figure:
    """Deletion above, insertion below, a column for each system; a line with its interval for each order of cells.

    table: of one fill; columns system, curve, order, share (of the cells, [0, 1]), probability, ci_low, ci_high.
    """
    systems, curves = shown_systems(table["system"]), list(table["curve"].unique())
    figure = new_figure(max(4.6, 1.0 + 2.0 * len(systems)), 0.75 + 1.75 * len(curves))
    grid = figure.subplots(len(curves), len(systems), sharex=True, sharey=True, squeeze=False)
    for (curve, system), part in table.groupby(["curve", "system"]):
        axes = grid[curves.index(curve), systems.index(system)]
        for order, (colour, dashes, marker, name) in ORDERS.items():
            line, look = part[part["order"] == order], {"marker": marker, "markersize": 2.5, "label": name}
            if line.empty:  # of a table that is older than the order
                continue
            axes.fill_between(line["share"], line["ci_low"], line["ci_high"], color=colour, alpha=0.15, lw=0)
            axes.plot(line["share"], line["probability"], dashes, color=colour, **look)
        axes.grid()
        axes.set_xscale("function", functions=(lambda share: share**0.5, lambda root: root**2))
        axes.set_xticks([0, 0.04, 0.16, 0.36, 0.64, 1], ["0", "4", "16", "36", "64", "100"])
    for row, curve in zip(grid, curves, strict=True):
        row[0].set_ylabel(f"{curve}\nmatch probability")
    for axes, system in zip(grid[0], systems, strict=True):
        axes.set_title(system)
    grid[0, 0].set_ylim(0, None)
    figure.supxlabel("cells deleted or shown (% of the picture, square-root scale)", fontsize=9)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure


@styled
def randomisation_figure(table: pd.DataFrame) -> Figure:
    """Rank correlation with the trained model's heatmap, and pointing, while more and more of it is randomised.

    table: columns system, stage, order, correlation [-1, 1] and pointing (percent), each with _low and _high. A row for
    each stage from the top. Stages without pointing stand apart below: maps of other phrases and pictures, to compare.
    """
    table = table.sort_values("order", kind="stable")
    points = table.groupby("stage", sort=False)["pointing"].count()
    places = {stage: number + 0.6 * (points[stage] == 0) for number, stage in enumerate(points.index)}
    figure = new_figure(6.4, 1.0 + 0.27 * len(places))
    grid = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(grid, ("correlation", "pointing"), strict=True):
        axes.grid(axis="x")
        for number, system in enumerate(shown_systems(table["system"])):
            part = table[table["system"] == system].dropna(subset=name)
            y = part["stage"].map(places) + 0.12 * (number - 1)
            look = {"color": COLOURS[system], "marker": MARKERS[system], "markersize": 3.8}
            ends = (part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name])
            axes.errorbar(part[name], y, xerr=ends, linestyle="", elinewidth=1, label=system, **look)
            stages = part["stage"].map(points) > 0
            axes.plot(part[name][stages], y[stages], color=COLOURS[system], linewidth=0.8)
        if (points == 0).any():
            axes.axhline(places[points.index[points == 0][0]] - 0.8, color=RULE)
    grid[0].set_yticks(list(places.values()), places)
    grid[0].set(ylabel="randomised down to", title="rank correlation of heatmaps", xlim=(-0.1, 1.05))
    grid[0].set_ylim(max(places.values()) + 0.5, -0.5)
    grid[1].set(title="pointing accuracy (%)", xlim=(0, 100))
    figure.legend(*grid[1].get_legend_handles_labels(), loc="outside upper left", ncols=len(SYSTEMS))
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure
