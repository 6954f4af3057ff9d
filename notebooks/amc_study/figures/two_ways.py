"""Two ways to ground a phrase: a detector proposes and a matcher chooses, or the model's own explanation points."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS, HIT, INK, MISS, MUTED, new_figure, styled

WIDTH_INCHES, HEIGHT_INCHES = 9.2, 5.9
SHOWN_SCORES = 6  # of the best proposals


@dataclass(frozen=True)
class TwoWays:
    """One phrase answered both ways. Boxes xyxy and points (x, y) in pixels, times in seconds.

    proposals: K boxes, best first, with their scores for the phrase; heatmap: float [H, W] in [0, 1].
    """

    image: Image.Image
    phrase: str
    truth: Sequence[Box]
    proposals: Sequence[Box]
    scores: Sequence[float]
    heatmap: np.ndarray
    peak: tuple[float, float]
    seconds: dict[str, float]  # detect, match, explain


@styled
def two_ways_figure(example: TwoWays) -> Figure:
    """Figure 3 of the poster with real outputs: the detector's way above, the heatmap's below, with times."""
    figure = new_figure(WIDTH_INCHES, HEIGHT_INCHES)
    grid = figure.subplots(
        2, 4, gridspec_kw={"left": 0.02, "right": 0.98, "bottom": 0.03, "top": 0.8, "hspace": 0.42, "wspace": 0.12}
    )
    figure.text(0.02, 0.965, f"“{textwrap.shorten(example.phrase, 70, placeholder=' …')}”", fontsize=12, style="italic")
    best, seconds = example.proposals[0], example.seconds
    centre = ((best[0] + best[2]) / 2, (best[1] + best[3]) / 2)
    _way(figure, grid[0], "VMRM", f"detector {_ms(seconds['detect'])}, matching {_ms(seconds['match'])}")
    _way(figure, grid[1], "AMC", f"one pass and its gradient {_ms(seconds['explain'])}, no detector")
    pixels = np.asarray(example.image.convert("RGB"))
    for axes in (grid[0][0], grid[1][0]):
        _picture(axes, pixels, "image")
    _picture(grid[0][1], pixels, f"{len(example.proposals)} proposals")
    _boxes(grid[0][1], example.proposals, INK, 0.9)
    _boxes(grid[0][1], example.proposals[:SHOWN_SCORES], COLOURS["VMRM"], 1.5)
    _bars(grid[0][2], example.scores[:SHOWN_SCORES])
    _picture(grid[1][1], heat_overlay(example.image, example.heatmap), "heatmap of the match")
    _profile(grid[1][2], example.heatmap)
    for axes, point, box in ((grid[0][3], centre, [best]), (grid[1][3], example.peak, [])):
        hit = any(x1 < point[0] < x2 and y1 < point[1] < y2 for x1, y1, x2, y2 in example.truth)
        _picture(axes, pixels, "the box's centre" if box else "the heatmap's peak")
        _boxes(axes, example.truth, INK, 1.2)
        _boxes(axes, box, COLOURS["VMRM"], 1.8)
        axes.plot(*point, "P", markersize=10, color=INK, markeredgecolor="white", markeredgewidth=1.4)
        verdict, colour = ("✓ hit", HIT) if hit else ("✗ miss", MISS)
        axes.set_title(verdict, loc="right", fontsize=8.5, color=colour, pad=4)
    return figure


def _way(figure: Figure, row: Sequence[Axes], system: str, times: str) -> None:
    top = row[0].get_position().y1 + 0.055
    name = {"VMRM": "detector-based (VMRM)", "AMC": "explanation (AMC)"}[system]
    figure.text(0.02, top, name, weight="bold", color=COLOURS[system], fontsize=10.5)
    figure.text(0.27, top, times, color=MUTED)


def _picture(axes: Axes, pixels: np.ndarray, title: str) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axes.set_title(title, fontsize=8.5, weight="normal", color=MUTED, pad=4)
    for spine in axes.spines.values():
        spine.set(visible=True, color=MUTED)


def _boxes(axes: Axes, boxes: Sequence[Box], colour: str, thickness: float) -> None:
    for x1, y1, x2, y2 in boxes:
        for edge, width in (("white", thickness + 1.4), (colour, thickness)):
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width))


def _bars(axes: Axes, scores: Sequence[float]) -> None:
    """Scores of the best proposals as shares of their softmax."""
    shares = np.exp(np.asarray(scores) - max(scores))
    places = np.arange(len(shares))
    axes.barh(places, shares / shares.sum(), color=COLOURS["VMRM"])
    axes.set(yticks=places, yticklabels=places + 1, ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1), xticks=(0, 0.5, 1))
    axes.set_title("scores of the best", fontsize=8.5, weight="normal", color=MUTED, pad=4)


def _profile(axes: Axes, heatmap: np.ndarray) -> None:
    """The heatmap's highest value in each column: how sharp its peak is."""
    axes.fill_between(np.arange(heatmap.shape[1]), heatmap.max(0), color=COLOURS["AMC"], linewidth=0)
    axes.set(xlim=(0, heatmap.shape[1]), ylim=(0, 1.05), xticks=[], yticks=(0, 0.5, 1))
    axes.set_title("highest heat, left to right", fontsize=8.5, weight="normal", color=MUTED, pad=4)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
