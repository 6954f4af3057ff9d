"""Explanations beyond one point, as pictures: shape, difficulty, faithfulness, randomisation."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc_study.figures.style import COLOURS, CYCLE, INK, MARKERS, MUTED, RULE, new_figure, styled

SYSTEMS = ("chance", "ALBEF", "ALBEF finetuned", "AMC", "VMRM")
ROW_INCHES = 0.2
ORDERS = {"heatmap": (CYCLE[1], "-", "D"), "box": (CYCLE[2], "--", "s"), "random": (MUTED, ":", "o")}
ORDER_NAMES = {"heatmap": "its own heatmap first", "box": "the true box first", "random": "random order"}
VARIABLES = {
    "size": "share of the picture\nthat the box covers",
    "things": "things named\nin the picture",
    "overlap": "share of the box\nthat others overlap",
}


@styled
def measures_figure(table: pd.DataFrame, label: str) -> Figure:
    """Points with interval whiskers: a block of rows for each measure, a row for each system.

    table: columns system, measure, value, ci_low, ci_high. label: of the horizontal axis, with its unit.
    """
    measures = list(dict.fromkeys(table["measure"]))
    places, y = {}, 0.0
    for measure in measures:
        for system in _systems(table[table["measure"] == measure]):
            places[measure, system], y = y, y + 1
        y += 1.6
    figure = new_figure(3.5, 0.75 + ROW_INCHES * y)
    axes = figure.subplots()
    for record in table.itertuples():
        _whiskers(axes, record, places[record.measure, record.system])
    for measure in measures:
        top = min(place for (of_measure, _), place in places.items() if of_measure == measure)
        axes.annotate(
            measure, (0, top - 0.95), xycoords=("axes fraction", "data"), weight="bold", fontsize=8.5, va="center"
        )
    axes.set(ylim=(y - 1.4, -1.5), xlabel=label)
    axes.set_yticks(list(places.values()), [system for _, system in places])
    axes.set_xlim(0, 1.14 * table["ci_high"].max())
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.set_layout_engine("constrained")
    return figure


def _whiskers(axes: Axes, record: object, y: float) -> None:
    colour = COLOURS[record.system]
    axes.plot([record.ci_low, record.ci_high], [y, y], color=colour, marker="|", markersize=6)
    axes.plot(record.value, y, MARKERS[record.system], color=colour, markersize=3.8)
    axes.annotate(
        f"{record.value:.1f}",
        (record.ci_high, y),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK,
    )


@styled
def difficulty_figure(table: pd.DataFrame) -> Figure:
    """Pointing accuracy over groups of phrases: a panel for each variable, a line for each system.

    table: columns by, group, system, accuracy, ci_low, ci_high (percent), phrases; groups in their order.
    """
    variables = list(dict.fromkeys(table["by"]))
    figure = new_figure(7.0, 2.9)
    widths = [table[table["by"] == variable]["group"].nunique() + 0.6 for variable in variables]
    grid = figure.subplots(1, len(variables), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, variable in zip(grid, variables, strict=True):
        part = table[table["by"] == variable]
        groups = list(dict.fromkeys(part["group"]))
        counts = part.drop_duplicates("group")["phrases"]
        _lines(axes, part.rename(columns={"group": "x", "accuracy": "value"}), groups)
        names = [group.replace("–", "–\n", 1) if len(group) > 7 else group for group in groups]
        axes.set_xticks(range(len(groups)), [f"{name}\n({n})" for name, n in zip(names, counts, strict=True)])
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_xlabel(VARIABLES[variable])
        axes.set_xlim(-0.5, len(groups) - 0.5)
    grid[0].set(ylabel="pointing accuracy (%)", ylim=(0, 100))
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, places: Sequence[str]) -> None:
    """A line with whiskers for each system; columns x (out of `places`), system, value, ci_low, ci_high."""
    axes.grid(axis="y")
    systems = _systems(table)
    for number, system in enumerate(systems):
        part = table[table["system"] == system]
        shift = 0.07 * (number - (len(systems) - 1) / 2)
        x = [places.index(place) + shift for place in part["x"]]
        ends = (part["value"] - part["ci_low"], part["ci_high"] - part["value"])
        axes.errorbar(
            x, part["value"], ends, color=COLOURS[system], marker=MARKERS[system], markersize=3.8, label=system,
            elinewidth=1, capsize=0,
        )  # fmt: skip


@styled
def faithfulness_figure(table: pd.DataFrame) -> Figure:
    """Deletion above, insertion below, a column for each system; a line with its interval for each order of cells.

    table: of one fill; columns system, curve, order, share (of the cells, [0, 1]), probability, ci_low, ci_high.
    """
    systems, curves = _systems(table), list(dict.fromkeys(table["curve"]))
    figure = new_figure(max(4.6, 1.0 + 2.0 * len(systems)), 0.75 + 1.75 * len(curves))
    grid = figure.subplots(len(curves), len(systems), sharex=True, sharey=True, squeeze=False)
    for row, curve in zip(grid, curves, strict=True):
        for axes, system in zip(row, systems, strict=True):
            for order, (colour, dashes, marker) in ORDERS.items():
                part = table[(table["system"] == system) & (table["curve"] == curve) & (table["order"] == order)]
                axes.fill_between(part["share"], part["ci_low"], part["ci_high"], color=colour, alpha=0.15, lw=0)
                axes.plot(
                    part["share"], part["probability"], dashes, color=colour, marker=marker, markersize=2.5,
                    label=ORDER_NAMES[order],
                )  # fmt: skip
            axes.grid()
            axes.set_xscale("function", functions=(lambda share: share**0.5, lambda root: root**2))
            axes.set_xticks([0, 0.04, 0.16, 0.36, 0.64, 1], ["0", "4", "16", "36", "64", "100"])
        row[0].set_ylabel(f"{curve}\nmatch probability")
    for axes, system in zip(grid[0], systems, strict=True):
        axes.set_title(system)
    grid[0, 0].set_ylim(0, None)
    figure.supxlabel("cells deleted or shown (% of the picture, square-root scale)", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure


@styled
def randomisation_figure(table: pd.DataFrame) -> Figure:
    """Rank correlation with the trained model's heatmap, and pointing, while more and more of it is randomised.

    table: columns system, stage, order, correlation [-1, 1] and pointing (percent), each with _low and _high. A row for
    each stage from the top. Stages without pointing stand apart below: maps of other phrases and pictures, to compare.
    """
    table = table.sort_values("order", kind="stable")
    stages = list(dict.fromkeys(table["stage"]))
    apart = [stage for stage in stages if table[table["stage"] == stage]["pointing"].isna().all()]
    places = {stage: number + 0.6 * (stage in apart) for number, stage in enumerate(stages)}
    figure = new_figure(6.4, 1.0 + 0.27 * len(stages))
    grid = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(grid, ("correlation", "pointing"), strict=True):
        axes.grid(axis="x")
        for number, system in enumerate(_systems(table)):
            part = table[table["system"] == system].dropna(subset=name)
            ends = (part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name])
            y = part["stage"].map(places) + 0.09 * (number - 1)
            look = {"color": COLOURS[system], "marker": MARKERS[system], "markersize": 3.8}
            axes.errorbar(part[name], y, xerr=ends, linestyle="", elinewidth=1, label=system, **look)
            joined = ~part["stage"].isin(apart)
            axes.plot(part[name][joined], y[joined], color=COLOURS[system])
        if apart:
            axes.axhline(places[apart[0]] - 0.8, color=RULE)
    grid[0].set_yticks(list(places.values()), stages)
    grid[0].set_ylabel("randomised down to")
    grid[0].set(title="rank correlation of heatmaps", xlim=(-0.1, 1.05), ylim=(max(places.values()) + 0.5, -0.5))
    grid[1].set(title="pointing accuracy (%)", xlim=(0, 100))
    handles, labels = grid[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    figure.set_layout_engine("constrained", w_pad=0.05)
    return figure


def _systems(table: pd.DataFrame) -> list[str]:
    """The systems of a table in the order of every figure."""
    return [system for system in SYSTEMS if system in set(table["system"])]
