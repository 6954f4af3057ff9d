"""Examples to look at: where each system points for a phrase, and whether it hits."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS, INK, MUTED, outline, ring, sheet, show_picture, styled, verdict

CELL_INCHES, HEADER_INCHES, FOOTER_INCHES = 1.85, 0.66, 0.45
KEY = (
    "dark outline: what the phrase means      ring: the point, the peak of a heatmap or the centre of a coloured box",
    "✓ hit: the point lies inside a dark outline",
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

    abreast: how many examples stand side by side. Every example holds the same systems.
    """
    if not examples:
        raise ValueError("there are no examples to draw")
    columns = 1 + len(examples[0].systems)
    heights = [HEADER_INCHES + CELL_INCHES * min(1, one.image.height / one.image.width) for one in examples]
    blocks, footer = sheet(heights, abreast, columns * (CELL_INCHES + 0.1), FOOTER_INCHES)
    for block, example in zip(blocks, examples, strict=True):
        _draw_example(block, example)
    key = ("      " if abreast * columns > 4 else "\n").join(KEY)
    footer.text(0.02 / abreast, 0.45, key, va="center", color=MUTED, fontsize=8, linespacing=1.4)
    return footer.figure


def _draw_example(block: SubFigure, example: Example) -> None:
    """The phrase as title, the image, and a panel for each system."""
    columns, height = 1 + len(example.systems), block.bbox.height / block.figure.dpi  # inches
    room = {"left": 0.02, "right": 0.98, "bottom": 0.02, "top": 1 - HEADER_INCHES / height, "wspace": 0.06}
    grid = block.subplots(1, columns, gridspec_kw=room)
    title = textwrap.shorten(example.phrase, 18 * columns, placeholder=" …")
    block.text(0.02, 1 - 0.3 / height, f"“{title}”", va="center", fontsize=10.5, style="italic")
    show_picture(grid[0], example.image, "image")
    outline(grid[0], example.boxes_xyxy)
    for axes, (name, answer) in zip(grid[1:], example.systems.items(), strict=True):
        heat = answer.heatmap
        show_picture(axes, example.image if heat is None else heat_overlay(example.image, heat))
        outline(axes, example.boxes_xyxy)
        outline(axes, [] if answer.box is None else [answer.box], COLOURS.get(name, INK), 1.8)
        ring(axes, answer.point)
        axes.set_title(name, fontsize=8.5, pad=4)
        verdict(axes, answer.hit)
