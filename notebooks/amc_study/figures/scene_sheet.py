"""A sheet of scenes: pictures with numbered boxes, and below each the phrases that the numbers stand for."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from amc_study.figures.style import MUTED, new_figure, styled

COLUMNS, CELL_INCHES, LINE_INCHES, FOOTER_INCHES = 4, 2.3, 0.19, 0.45
MOST_PHRASES = 4
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A8377E")
"""Colours of the numbers: dark enough for white digits, distinct for colour-blind readers."""


class SheetRegion(Protocol):
    """A phrase of a scene. `boxes`: xyxy in pixels; `annotated` is False where finetuning never shows the box."""

    phrase: str
    boxes: tuple[tuple[float, float, float, float], ...]
    kind: str
    annotated: bool


class SheetScene(Protocol):
    """A picture with the regions that it holds."""

    image: Image.Image
    regions: Sequence[SheetRegion]


@styled
def scene_sheet(scenes: Sequence[SheetScene], attribution: str = "Pictograms: OpenMoji, CC BY-SA 4.0") -> Figure:
    """Draw the scenes in rows of four, each with at most four of its phrases; the attribution stands at the bottom."""
    if not scenes:
        raise ValueError("there are no scenes to draw")
    columns = min(COLUMNS, len(scenes))
    rows = math.ceil(len(scenes) / columns)
    cell = CELL_INCHES + LINE_INCHES * (MOST_PHRASES + 0.8)
    height = rows * cell + FOOTER_INCHES
    figure = new_figure(columns * (CELL_INCHES + 0.12), height)
    for index, scene in enumerate(scenes):
        row, column = divmod(index, columns)
        left, bottom = (column + 0.03) / columns, 1 - (row * cell + CELL_INCHES + 0.06) / height
        axes = figure.add_axes((left, bottom, 0.94 / columns, CELL_INCHES / height))
        legend = figure.add_axes((left, bottom - LINE_INCHES * MOST_PHRASES / height, 0.94 / columns, 0))
        _draw_scene(axes, legend, scene, LINE_INCHES * MOST_PHRASES / height)
    dashed = not all(region.annotated for scene in scenes for region in scene.regions)
    note = f"dashed: a concept that has no box in finetuning.  {attribution}" if dashed else attribution
    figure.text(0.03 / columns, 0.17 / height, note, ha="left", va="center", color=MUTED, fontsize=8)
    return figure


def choose_regions(regions: Sequence[SheetRegion], most: int = MOST_PHRASES) -> list[SheetRegion]:
    """At most that many regions: first one of each kind, then others, all with boxes of their own while there are."""
    chosen: list[SheetRegion] = []
    tests = (
        lambda region: region.kind not in {other.kind for other in chosen},
        lambda region: not set(region.boxes) & {box for other in chosen for box in other.boxes},
        lambda region: True,
    )
    for test in tests:
        for region in regions:
            if len(chosen) < most and region.boxes and not any(region is other for other in chosen) and test(region):
                chosen.append(region)
    return chosen


def _draw_scene(axes: Axes, legend: Axes, scene: SheetScene, legend_height: float) -> None:
    left, top, width, _ = legend.get_position().bounds
    legend.set_position((left, top, width, legend_height))
    legend.set(xlim=(0, 1), ylim=(MOST_PHRASES + 0.2, 0))
    legend.axis("off")
    pixels = np.asarray(scene.image.convert("RGB"))
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xticks=[], yticks=[], anchor="S")
    for spine in axes.spines.values():
        spine.set_visible(False)

    side, tags = 0.075 * max(width, height), []
    for number, region in enumerate(choose_regions(scene.regions), start=1):
        colour = COLOURS[number - 1]
        for box in region.boxes:
            _outline(axes, box, colour, dashed=not region.annotated)
            corner = tag_corner(box, side, (width, height), tags)
            tags.append(corner)
            _tag(axes, corner, side, number, colour)
        phrase = textwrap.shorten(region.phrase, 34, placeholder=" …")
        legend.text(
            0.03, number - 0.4, str(number), ha="center", va="center", color=colour, weight="bold", fontsize=8.5
        )
        legend.text(0.075, number - 0.4, phrase, ha="left", va="center", fontsize=8.5)


def tag_corner(
    box: tuple[float, float, float, float],
    side: float,
    size: tuple[int, int],
    taken: Sequence[tuple[float, float]],
) -> tuple[float, float]:
    """The upper left corner of a square tag: at a corner of the box, inside the picture, off the tags so far."""
    x1, y1, x2, y2 = box
    spots = [(x1, y1 - side), (x2 - side, y1 - side), (x1, y2), (x2 - side, y2), (x1 - side, y1), (x2, y1)]
    spots += [(x1, y1), (x2 - side, y1), (x1, y2 - side), (x2 - side, y2 - side)]
    spots = [(min(max(x, 0), size[0] - side), min(max(y, 0), size[1] - side)) for x, y in spots]

    def crowding(spot: tuple[float, float]) -> float:
        return sum(
            max(0.0, side - abs(spot[0] - other[0])) * max(0.0, side - abs(spot[1] - other[1])) for other in taken
        )

    return min(spots, key=crowding)


def _outline(axes: Axes, box: tuple[float, float, float, float], colour: str, dashed: bool) -> None:
    x1, y1, x2, y2 = box
    style = (0, (4, 2)) if dashed else "-"
    for edge, thickness, line in (("white", 2.8, "-"), (colour, 1.6, style)):
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=thickness, linestyle=line)
        )


def _tag(axes: Axes, corner: tuple[float, float], side: float, number: int, colour: str) -> None:
    x, y = corner
    axes.add_patch(Rectangle((x, y), side, side, facecolor=colour, edgecolor="white", linewidth=0.8, zorder=4))
    axes.text(
        x + side / 2,
        y + side / 2,
        str(number),
        ha="center",
        va="center_baseline",
        color="white",
        weight="bold",
        fontsize=8,
        zorder=5,
    )
