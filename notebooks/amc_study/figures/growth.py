"""How seconds and memory grow: measured points and the fitted power of each, on two logarithmic axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from amc_study.figures.style import COLOURS, MUTED, new_figure, styled

PANELS = {
    "batch": "images in a batch",
    "resolution": "image side, pixels",
    "phrases": "phrases of an image",
    "processes": "processes",
}
TITLES = {
    "batch": "training step",
    "resolution": "training step of 2",
    "phrases": "pointing",
    "processes": "shared pointing",
}
MEASURES = {"seconds": ("seconds", COLOURS["AMC"], "D"), "memory_gib": ("memory, GiB", COLOURS["ALBEF"], "o")}
POINT_COLUMNS = ("axis", "x", "seconds", "memory_gib")
ROOM = 1.6  # factor by which each vertical axis goes beyond its points


@styled
def growth_figure(points: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """A column for each axis of growth, seconds above and memory below.

    points: columns as in POINT_COLUMNS, all values positive. exponents: rows named growth_seconds_AXIS and
    growth_memory_AXIS with columns name, value, low, high.
    """
    missing = [name for name in POINT_COLUMNS if name not in points]
    if missing:
        raise ValueError(f"the points of the growth lack the column {missing[0]}")
    fitted = exponents.set_index("name")
    axes_shown = [axis for axis in PANELS if axis in set(points["axis"])]
    figure = new_figure(2.35 * len(axes_shown) + 0.4, 4.6)
    grid = figure.subplots(len(MEASURES), len(axes_shown), squeeze=False)
    for column, axis in enumerate(axes_shown):
        part = points[points["axis"] == axis].sort_values("x")
        for line, (measure, (label, colour, marker)) in enumerate(MEASURES.items()):
            axes = grid[line][column]
            power = fitted.loc[f"growth_{measure.partition('_')[0]}_{axis}"]
            _panel(axes, part["x"].to_numpy(), part[measure].to_numpy(), power, colour, marker)
            if column == 0:
                axes.set_ylabel(label)
        grid[0][column].set_title(TITLES[axis])
        grid[-1][column].set_xlabel(PANELS[axis])
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    return figure


def _panel(axes: Axes, x: np.ndarray, y: np.ndarray, power: pd.Series, colour: str, marker: str) -> None:
    axes.set(xscale="log", yscale="log", ylim=(y.min() / ROOM, y.max() * ROOM**2))
    axes.grid()
    through = np.exp(np.log(y).mean() - power["value"] * np.log(x).mean())  # a fitted line goes through the mean point
    axes.plot(x, through * x ** power["value"], color=MUTED, linewidth=0.9, linestyle="--")
    axes.plot(x, y, marker, color=colour, markersize=4.5)
    text = f"power {power['value']:.2f} [{power['low']:.2f}, {power['high']:.2f}]"
    axes.text(0.03, 0.96, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator(list(x)))
    axes.yaxis.set_major_locator(FixedLocator(_ticks(y)))
    for one in (axes.xaxis, axes.yaxis):
        one.set_minor_locator(NullLocator())
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _ticks(y: np.ndarray) -> list[float]:
    """The smallest and the largest value, or one where they are close."""
    low, high = float(f"{y.min():.2g}"), float(f"{y.max():.2g}")
    return [low, high] if high > 1.25 * low else [high]
