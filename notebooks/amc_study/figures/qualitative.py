"""Examples to look at: where each system points for a phrase, and whether it hits."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS, DPI, HIT, INK, MISS, MUTED, new_figure, styled

CELL_INCHES, HEADER_INCHES, FOOTER_INCHES = 1.85, 0.66, 0.45
KEY = (
    "dark outline: what the phrase means",
    "cross: the point, the peak of a heatmap or the centre of a coloured box",
    "✓ hit: the cross lies inside a dark outline",
)


@dataclass(frozen=True)
class Shown:
    """A system's answer: its point (x, y) in pixels and whether it hits, with the heatmap or the box that it is from.

    heatmap: float [H, W] in [0, 1]; box: xyxy, pixels. One of the two is there.
    """

    point: tuple[float, float]
    hit: bool
    heatmap: np.ndarray | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Example:
    """One phrase on one image, with each system's answer by its name. boxes_xyxy: what it means, pixels."""

    image: Image.Image
    phrase: str
    boxes_xyxy: Sequence[Box]
    systems: Mapping[str, Shown]


@styled
def qualitative_figure(examples: Sequence[Example], abreast: int = 1) -> Figure:
    """A row for each example: the image with its boxes, then each system's heatmap or box, point, and hit or miss.

    abreast: how many examples stand side by side. Every example must hold the same systems in the same order.
    """
    if not examples:
        raise ValueError("there are no examples to draw")
    systems = list(examples[0].systems)
    for example in examples:
        if list(example.systems) != systems:
            raise ValueError(f"“{example.phrase}” has the systems {list(example.systems)}, others have {systems}")

    lines, columns = math.ceil(len(examples) / abreast), 1 + len(systems)
    cell = HEADER_INCHES + CELL_INCHES
    figure = new_figure(abreast * columns * (CELL_INCHES + 0.1), lines * cell + FOOTER_INCHES)
    body, footer = figure.subfigures(2, 1, height_ratios=[lines * cell, FOOTER_INCHES])
    blocks = body.subfigures(lines, abreast, squeeze=False).flat
    for block, example in zip(blocks, examples, strict=False):
        _draw_example(block, example)
    separator = "      " if abreast * columns > 4 else "\n"
    key = separator.join(["      ".join(KEY[:2]), KEY[2]])
    footer.text(0.02 / abreast, 0.45, key, ha="left", va="center", color=MUTED, fontsize=8, linespacing=1.4)
    return figure


def example_blocks(page: np.ndarray, abreast: int, dpi: int = DPI) -> list[np.ndarray]:
    """The examples of a drawn `qualitative_figure`, in order: page uint8 [H, W, 3] -> uint8 [h, w, 3] each."""
    cell = HEADER_INCHES + CELL_INCHES
    lines = round((page.shape[0] / dpi - FOOTER_INCHES) / cell)
    high, wide = round(cell * dpi), page.shape[1] // abreast
    return [
        page[line * high : (line + 1) * high, place * wide : (place + 1) * wide]
        for line in range(lines)
        for place in range(abreast)
    ]


def _draw_example(block: SubFigure, example: Example) -> None:
    """The phrase as title, the image, and a panel for each system."""
    columns = 1 + len(example.systems)
    cell = HEADER_INCHES + CELL_INCHES
    bottom, top = 0.02, 1 - HEADER_INCHES / cell
    grid = block.subplots(
        1, columns, gridspec_kw={"left": 0.02, "right": 0.98, "bottom": bottom, "top": top, "wspace": 0.06}
    )
    title = textwrap.shorten(example.phrase, 18 * columns, placeholder=" …")
    block.text(0.02, 1 - 0.3 / cell, f"“{title}”", ha="left", va="center", fontsize=10.5, style="italic")
    _panel(grid[0], np.asarray(example.image.convert("RGB")), example.boxes_xyxy)
    grid[0].set_title("image", fontsize=8.5, weight="normal", color=MUTED, pad=4)
    for axes, (name, shown) in zip(grid[1:], example.systems.items(), strict=True):
        with_heatmap = shown.heatmap is not None
        picture = heat_overlay(example.image, shown.heatmap) if with_heatmap else np.asarray(example.image)
        _panel(axes, picture, example.boxes_xyxy)
        if shown.box is not None:
            _outline(axes, shown.box, COLOURS[name], 1.8)
        _cross(axes, shown.point, example.image.size)
        axes.set_title(name, fontsize=8.5, pad=4)
        verdict, colour = ("✓ hit", HIT) if shown.hit else ("✗ miss", MISS)
        axes.set_title(verdict, loc="right", fontsize=8.5, color=colour, pad=4)


def _panel(axes: Axes, pixels: np.ndarray, boxes: Sequence[Box]) -> None:
    """A picture with outlined boxes: white around dark, so that they show on any ground."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xticks=[], yticks=[], anchor="N")
    for spine in axes.spines.values():
        spine.set(visible=True, color=MUTED)
    for box in boxes:
        _outline(axes, box, INK, 1.2)


def _outline(axes: Axes, box: Box, colour: str, thickness: float) -> None:
    x1, y1, x2, y2 = box
    for edge, width in (("white", thickness + 1.8), (colour, thickness)):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width))


def _cross(axes: Axes, point: tuple[float, float], size: tuple[int, int]) -> None:
    """A white-edged cross in the middle of the pixel that is the peak."""
    x, y = point
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise ValueError(f"the point ({x}, {y}) lies outside the image of {size[0]} × {size[1]} pixels")
    axes.plot(x + 0.5, y + 0.5, "P", markersize=10, color=INK, markeredgecolor="white", markeredgewidth=1.4)
