"""The method in one drawing: how the score of a phrase explains itself, and how the box corrects the explanation."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from amc_lib.overlay import heat_overlay
from amc_study.figures.style import COLOURS, INK, MUTED, new_figure, styled

WIDTH, HEIGHT = 126.0, 70.0  # of the drawing in its own units
UNITS_PER_INCH = 12
TOP, MIDDLE, LOW, BOTTOM = 60.0, 45.0, 30.0, 17.5  # of the rows: image, attention, phrase, mask
MODEL, LOSS = "#E3EEF6", "#FBE6D6"
BLUE, ORANGE = COLOURS["ALBEF"], COLOURS["AMC"]
TILE = 17.0

EQUATIONS = (
    r"$\mathcal{L}_{\mathrm{mean}} = \max\!\left(0,\ \dfrac{\sum (1-M)\,A}{\sum (1-M)} - "
    r"\dfrac{\sum M\,A}{\sum M} + \Delta_1\right)$",
    r"$\mathcal{L}_{\mathrm{max}} = \max\!\left(0,\ \max\,(1-M)\,A - \max\,M\,A + \Delta_2\right)$",
    r"$\mathcal{L}_{\mathrm{amc}} = \mathrm{E}\left[\lambda_1 \mathcal{L}_{\mathrm{mean}} + "
    r"\lambda_2 \mathcal{L}_{\mathrm{max}}\right]$",
)
TOTAL = (
    r"$\mathcal{L} = \mathcal{L}_{\mathrm{itc}} + \mathcal{L}_{\mathrm{itm}} + \mathcal{L}_{\mathrm{mlm}} + "
    r"\mathcal{L}_{\mathrm{amc}}$"
)


@styled
def method_figure(image: np.ndarray, heatmap: np.ndarray, mask: np.ndarray, phrase: str = "red helicopter") -> Figure:
    """The method around one example. image: uint8 [H, W, 3]; heatmap: float [H, W] in [0, 1]; mask: bool [H, W]."""
    figure = new_figure(WIDTH / UNITS_PER_INCH, HEIGHT / UNITS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    _inputs_and_model(axes, image, phrase)
    _explanation(axes, heat_overlay(image, heatmap), np.asarray(mask, dtype=bool))
    _objective(axes)
    _equations(axes)
    return figure


def _inputs_and_model(axes: Axes, image: np.ndarray, phrase: str) -> None:
    """Image and phrase, their encoders, the fusion encoder with its cross-attention."""
    _tile(axes, 10, TOP, image, "image")
    lines = textwrap.wrap(f"“{phrase}”", 17)
    height = 3 + 3 * len(lines)
    _box(axes, 10, LOW, 17, height, facecolor="white")
    _text(axes, 10, LOW, "\n".join(lines), style="italic")
    _text(axes, 10, LOW - height / 2 - 2, "phrase", color=MUTED)
    _box(axes, 30, TOP, 14, 8, "image\nencoder")
    _box(axes, 30, LOW, 14, 8, "text\nencoder")
    _box(axes, 51, MIDDLE, 18, TOP - LOW + 8)
    _text(axes, 51, TOP, "fusion encoder")
    _box(axes, 51, MIDDLE, 14, 8, "cross-\nattention $C$", facecolor="white", edgecolor=BLUE)
    _arrow(axes, (10 + TILE / 2, TOP), (23, TOP))
    _arrow(axes, (18.5, LOW), (23, LOW))
    _arrow(axes, (37, TOP), (42, TOP))
    _arrow(axes, (37, LOW), (42, LOW))
    _pill(axes, 30, MIDDLE, "itc")
    _arrow(axes, (30, TOP - 4), (30, MIDDLE + 2))
    _arrow(axes, (30, LOW + 4), (30, MIDDLE - 2))
    _pill(axes, 71, LOW, "mlm")
    _arrow(axes, (60, LOW), (67, LOW))


def _explanation(axes: Axes, overlay: np.ndarray, mask: np.ndarray) -> None:
    """The match score, its gradient with respect to the cross-attention, the heatmap, the mask of the box."""
    _box(axes, 71, TOP, 13, 8, "match\nscore $s$")
    _arrow(axes, (60, TOP), (64.5, TOP))
    _pill(axes, 88, TOP, "itm")
    _arrow(axes, (77.5, TOP), (84, TOP))
    _arrow(axes, (71, TOP - 4), (71, MIDDLE + 2), dashed=True)
    _text(axes, 72.2, (TOP + MIDDLE) / 2, r"$\partial s / \partial C$", ha="left", color=ORANGE, fontsize=12)
    axes.add_patch(Circle((71, MIDDLE), 2, facecolor="white", edgecolor=INK, linewidth=0.9))
    axes.add_patch(Circle((71, MIDDLE), 0.45, facecolor=INK, linewidth=0))
    _arrow(axes, (58, MIDDLE), (69, MIDDLE))
    _text(axes, 71, MIDDLE - 4.2, "GradCAM", color=MUTED)
    _arrow(axes, (73, MIDDLE), (88 - TILE / 2, MIDDLE))
    _tile(axes, 88, MIDDLE, overlay, "heatmap $A$")
    shades = np.where(mask[..., None], 255, 70).astype(np.uint8).repeat(3, axis=2)
    _tile(axes, 88, BOTTOM, shades, "box as mask $M$")


def _objective(axes: Axes) -> None:
    """What the heatmap is asked for inside the mask, and the sum that is trained."""
    top, bottom = MIDDLE + 4, BOTTOM - 4
    _box(axes, 113, (top + bottom) / 2, 22, top - bottom, facecolor="white", edgecolor=ORANGE)
    _pill(axes, 113, MIDDLE - 4, "mean")
    _text(axes, 113, MIDDLE - 8.8, "hotter inside\nthan outside", color=MUTED)
    _pill(axes, 113, BOTTOM + 7.5, "max")
    _text(axes, 113, BOTTOM + 2.7, "the peak inside,\nnot outside", color=MUTED)
    _arrow(axes, (88 + TILE / 2, MIDDLE), (102, MIDDLE))
    _arrow(axes, (88 + TILE / 2, BOTTOM), (102, BOTTOM))
    _pill(axes, 113, TOP, "amc")
    _arrow(axes, (113, top), (113, TOP - 2))


def _equations(axes: Axes) -> None:
    """Equations 1 to 3, numbered, and the whole objective."""
    for number, (y, text) in enumerate(zip((16.5, 9.7, 4.5), EQUATIONS, strict=True), start=1):
        axes.text(2, y, f"({number})", va="center", color=MUTED)
        axes.text(6.5, y, text, va="center", fontsize=12)
    axes.text(47, 4.5, TOTAL, va="center", fontsize=12)


def _text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    axes.text(x, y, text, **{"ha": "center", "va": "center"} | look)


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", **look: Any) -> None:
    """A rounded box centred at (x, y)."""
    look = {"facecolor": MODEL, "edgecolor": MUTED, "boxstyle": "round,pad=0,rounding_size=1"} | look
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, linewidth=0.9, **look))
    _text(axes, x, y, text)


def _pill(axes: Axes, x: float, y: float, name: str) -> None:
    """A loss, centred at (x, y)."""
    _box(axes, x, y, 8, 4, facecolor=LOSS, edgecolor=ORANGE, boxstyle="round,pad=0,rounding_size=2")
    _text(axes, x, y, rf"$\mathcal{{L}}_{{\mathrm{{{name}}}}}$", fontsize=12)


def _tile(axes: Axes, x: float, y: float, picture: np.ndarray, label: str) -> None:
    """A square picture centred at (x, y) with its label below."""
    left, bottom = x - TILE / 2, y - TILE / 2
    axes.imshow(picture, extent=(left, left + TILE, bottom, bottom + TILE), aspect="auto", interpolation="lanczos")
    axes.add_patch(Rectangle((left, bottom), TILE, TILE, facecolor="none", edgecolor=INK, linewidth=0.9))
    _text(axes, x, bottom - 2, label, color=MUTED)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    """An arrow from start to end, exactly; dashed for a gradient."""
    look = {"color": ORANGE, "linestyle": (0, (3, 2))} if dashed else {"color": INK}
    shape = {"arrowstyle": "-|>", "mutation_scale": 10, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axes.add_patch(FancyArrowPatch(start, end, **shape, **look))
