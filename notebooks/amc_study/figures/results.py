"""Numbers as pictures and tables: pointing accuracy of the systems, and how training went."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc_study.figures.style import COLOURS, CYCLE, INK, MARKERS, RULE, new_figure, styled

SYSTEMS = ("chance", "centre", "ALBEF", "ALBEF finetuned", "AMC", "VMRM", "oracle")
CONCEPTS = {"all": "all concepts", "boxed": "boxed in finetuning", "unboxed": "never boxed"}
ACCURACY_COLUMNS = ("system", "split", "concepts", "accuracy", "ci_low", "ci_high", "phrases", "seeds")
HISTORY_COLUMNS = ("step", "name", "value", "run")
ROW_INCHES = 0.235
VALUE_COLUMN = 1.2
"""Where the values stand, right-aligned, in widths of a panel."""


@styled
def accuracy_figure(table: pd.DataFrame) -> Figure:
    """Points with interval whiskers: a panel for each group of concepts, a row for each system within each split.

    table: columns as in ACCURACY_COLUMNS, accuracies and interval ends in percent [0, 100], one row per system, split
    and group of concepts.
    """
    table = _checked_accuracy(table)
    panels = [name for name in CONCEPTS if name in set(table["concepts"])]
    splits = list(dict.fromkeys(table["split"]))
    systems = [name for name in SYSTEMS if name in set(table["system"])]
    rows = {}
    for block, split in enumerate(splits):
        for place, system in enumerate(systems):
            rows[split, system] = block * (len(systems) + 1.5) + 1 + place
    bottom = max(rows.values()) + 0.7

    figure = new_figure(2.0 + 2.35 * len(panels), 0.95 + ROW_INCHES * (bottom + 0.6))
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(grid, panels, strict=True):
        axes.set(xlim=(0, 100), ylim=(bottom, -0.6), xticks=range(0, 101, 25))
        axes.set_title(CONCEPTS[name], pad=8)
        _accuracy_panel(axes, table[table["concepts"] == name], rows)
        _split_headers(axes, splits, rows, systems[0], with_names=axes is grid[0])
    grid[0].set_yticks(list(rows.values()), [system for _, system in rows])
    figure.supxlabel(f"pointing accuracy (%), {seeds_text(table['seeds'])}, 95 % interval", fontsize=9)
    figure.set_layout_engine("constrained", w_pad=0.06)
    return figure


def _accuracy_panel(axes: Axes, table: pd.DataFrame, rows: dict[tuple[str, str], float]) -> None:
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    in_rows = axes.get_yaxis_transform()
    for record in table.itertuples():
        y, colour = rows[record.split, record.system], COLOURS[record.system]
        ends = [record.ci_low, record.ci_high]
        axes.plot(ends, [y, y], color=colour, linewidth=1.3, marker="|", markersize=7, clip_on=False)
        axes.plot(record.accuracy, y, MARKERS[record.system], color=colour, markersize=3.8, clip_on=False)
        axes.text(
            VALUE_COLUMN, y, f"{record.accuracy:.1f}", transform=in_rows, ha="right", va="center", fontsize=8, color=INK
        )


def _split_headers(
    axes: Axes, splits: list[str], rows: dict[tuple[str, str], float], first: str, with_names: bool
) -> None:
    """The name of each split, left of the first panel, and a rule above its rows in every panel."""
    for split in splits:
        y = rows[split, first] - 0.85
        axes.plot(
            [0, VALUE_COLUMN], [y + 0.35] * 2, transform=axes.get_yaxis_transform(), color=RULE, lw=0.8, clip_on=False
        )
        if with_names:
            axes.annotate(
                split,
                (0, y),
                xycoords=("axes fraction", "data"),
                xytext=(-5, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                weight="bold",
                fontsize=8.5,
            )


def table_markdown(table: pd.DataFrame) -> str:
    """The table for GitHub: accuracy ± half its interval, a column for each split.

    Within a split and group of concepts the best system is bold only if its interval lies wholly above the runner-up's;
    the oracle, a bound and not a competitor, is left out of the comparison. An absent cell is a dash.
    """
    table = _checked_accuracy(table)
    splits = list(dict.fromkeys(table["split"]))
    groups = [name for name in CONCEPTS if name in set(table["concepts"])]
    bold = {key for _, cell in table.groupby(["split", "concepts"]) for key in _clear_winner(cell)}
    cells = {}
    for record in table.itertuples():
        key = (record.system, record.split, record.concepts)
        text = f"{record.accuracy:.1f} ± {(record.ci_high - record.ci_low) / 2:.1f}"
        cells[key] = f"**{text}**" if key in bold else text

    lead = ["system"] if len(groups) == 1 else ["concepts", "system"]
    lines = [_markdown_row([*lead, *splits]), _markdown_row(["---"] * len(lead) + ["---:"] * len(splits))]
    for group in groups:
        for system in SYSTEMS:
            values = [cells.get((system, split, group)) for split in splits]
            if any(values):
                names = [system] if len(groups) == 1 else [CONCEPTS[group], system]
                lines.append(_markdown_row([*names, *(value or "–" for value in values)]))
    return "\n".join(lines) + "\n"


def _clear_winner(cell: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The key of the best system of one split and group, if its interval clears the runner-up's."""
    ranked = cell[cell["system"] != "oracle"].sort_values("accuracy", ascending=False)
    if len(ranked) < 2 or ranked["ci_low"].iloc[0] <= ranked["ci_high"].iloc[1]:
        return []
    return [tuple(ranked[["system", "split", "concepts"]].iloc[0])]


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


@styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """A panel for each measure over training steps, a line for each run.

    history: columns step, name (of the measure), value, run (a label; a system's name gets the system's colour).
    """
    _require_columns(history, HISTORY_COLUMNS, "history")
    names = list(dict.fromkeys(history["name"]))
    runs = list(dict.fromkeys(history["run"]))
    others = [run for run in runs if run not in COLOURS]
    colours = COLOURS | {run: CYCLE[index % len(CYCLE)] for index, run in enumerate(others)}

    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(2.7 * columns + 0.3, 2.0 * lines + (0.35 if len(runs) > 1 else 0.05))
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name)
        axes.grid(axis="y")
        for run in runs:
            part = history[(history["name"] == name) & (history["run"] == run)].sort_values("step")
            axes.plot(part["step"], part["value"], color=colours[run], label=run, marker="." if len(part) < 30 else "")
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    if len(runs) > 1:
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(runs)))
    figure.set_layout_engine("constrained", w_pad=0.06)
    return figure


def _checked_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """The table, or a ValueError that says which column, name or number is wrong."""
    _require_columns(table, ACCURACY_COLUMNS, "accuracy table")
    for column, known in (("system", SYSTEMS), ("concepts", tuple(CONCEPTS))):
        unknown = sorted(set(table[column]) - set(known))
        if unknown:
            raise ValueError(f"the accuracy table's {column} {unknown[0]!r} is none of {', '.join(known)}")
    twice = table[table.duplicated(["system", "split", "concepts"])]
    if len(twice):
        raise ValueError(f"the accuracy table has {tuple(twice[['system', 'split', 'concepts']].iloc[0])} twice")
    low, middle, high = table["ci_low"], table["accuracy"], table["ci_high"]
    if not ((low >= 0) & (low <= middle) & (middle <= high) & (high <= 100)).all():
        raise ValueError("the accuracy table needs 0 <= ci_low <= accuracy <= ci_high <= 100 in every row")
    return table


def _require_columns(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"the {what} lacks the column {', '.join(missing)}")
    if frame.empty:
        raise ValueError(f"the {what} has no rows")


def seeds_text(seeds: pd.Series) -> str:
    low, high = int(seeds.min()), int(seeds.max())
    if low != high:
        return f"means of {low} to {high} seeds"
    return "one seed" if high == 1 else f"means of {high} seeds"
