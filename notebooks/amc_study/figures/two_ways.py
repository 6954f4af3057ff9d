"""Two ways to ground a phrase: a detector proposes and a matcher chooses, or the model's own explanation points."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS, MUTED, caption, new_figure, outline, ring, show_picture, styled, verdict

WIDTH_INCHES, HEIGHT_INCHES = 9.2, 5.9
BEST = 6  # proposals whose scores are shown


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
    seconds: Mapping[str, float]  # detect, match, explain


@styled
def two_ways_figure(example: TwoWays) -> Figure:
    """The detector's way above, the heatmap's below, with times (figure 3 of the AMC authors' poster)."""
    figure = new_figure(WIDTH_INCHES, HEIGHT_INCHES)
    room = {"left": 0.02, "right": 0.98, "bottom": 0.03, "top": 0.8, "hspace": 0.42, "wspace": 0.12}
    above, below = figure.subplots(2, 4, gridspec_kw=room)
    figure.text(0.02, 0.965, f"“{textwrap.shorten(example.phrase, 70, placeholder=' …')}”", fontsize=12, style="italic")
    ms = {part: f"{1000 * seconds:.0f} ms" for part, seconds in example.seconds.items()}
    detector, gradient = "detector {detect}, matching {match}", "one pass and its gradient {explain}, no detector"
    for row, system, name, times in (
        (above, "VMRM", "detector-based (VMRM)", detector),
        (below, "AMC", "explanation (AMC)", gradient),
    ):
        top = row[0].get_position().y1 + 0.055
        figure.text(0.02, top, name, weight="bold", color=COLOURS[system], fontsize=10.5)
        figure.text(0.27, top, times.format_map(ms), color=MUTED)
        show_picture(row[0], example.image, "image")
    show_picture(above[1], example.image, f"{len(example.proposals)} proposals")
    outline(above[1], example.proposals, thickness=0.9)
    outline(above[1], example.proposals[:BEST], COLOURS["VMRM"], 1.5)
    _bars(above[2], example.scores[:BEST])
    show_picture(below[1], heat_overlay(example.image, example.heatmap), "heatmap of the match")
    _profile(below[2], example.heatmap)
    x1, y1, x2, y2 = example.proposals[0]
    centre = ((x1 + x2) / 2, (y1 + y2) / 2)
    for axes, point, title in ((above[3], centre, "the box's centre"), (below[3], example.peak, "the heatmap's peak")):
        show_picture(axes, example.image, title)
        outline(axes, example.truth)
        ring(axes, point)
        verdict(axes, any(a < point[0] < c and b < point[1] < d for a, b, c, d in example.truth))
    outline(above[3], example.proposals[:1], COLOURS["VMRM"], 1.8)
    return figure


def _bars(axes: Axes, scores: Sequence[float]) -> None:
    """Scores of the best proposals as shares of their softmax."""
    shares = np.exp(np.asarray(scores) - max(scores))
    places = np.arange(len(shares))
    axes.barh(places, shares / shares.sum(), color=COLOURS["VMRM"])
    axes.set(yticks=places, yticklabels=places + 1, ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1), xticks=(0, 0.5, 1))
    caption(axes, "scores of the best")


def _profile(axes: Axes, heatmap: np.ndarray) -> None:
    """The heatmap's highest value in each column: how sharp its peak is."""
    axes.fill_between(np.arange(heatmap.shape[1]), heatmap.max(0), color=COLOURS["AMC"], linewidth=0)
    axes.set(xlim=(0, heatmap.shape[1]), ylim=(0, 1.05), xticks=[], yticks=(0, 0.5, 1))
    caption(axes, "highest heat, left to right")
