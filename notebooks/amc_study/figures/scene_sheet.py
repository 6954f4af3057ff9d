"""A sheet of scenes: pictures with numbered boxes, and below each the phrases that the numbers stand for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure, SubFigure
from PIL import Image

from amc_lib.regions import Box, Region
from amc_study.figures.style import MUTED, outline, sheet, show_picture, styled
from amc_study.tiers import Split

COLUMNS, CELL_INCHES, LINE_INCHES, FOOTER_INCHES = 4, 2.3, 0.19, 0.4
MOST_PHRASES = 4
FOOTER_CHARACTERS = 40  # of the footer that fit below one picture
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A8377E")  # of the numbers: dark enough for white digits


@dataclass(frozen=True)
class SheetImage:
    """A picture with the regions that it holds."""

    image: Image.Image
    regions: list[Region]


@styled
def scene_sheet(scenes: Sequence[SheetImage], attribution: str = "Pictograms: OpenMoji, CC BY-SA 4.0") -> Figure:
    """The scenes in rows of four, each with at most four of its phrases; the attribution stands at the bottom."""
    if not scenes:
        raise ValueError("there are no scenes to draw")
    columns, height = min(COLUMNS, len(scenes)), CELL_INCHES + LINE_INCHES * (MOST_PHRASES + 0.8)
    blocks, footer = sheet([height] * len(scenes), columns, CELL_INCHES + 0.12, FOOTER_INCHES)
    for block, scene in zip(blocks, scenes, strict=True):
        _draw_scene(block, scene, height)
    dashed = not all(region.annotated for scene in scenes for region in scene.regions)
    note = f"dashed: a concept that has no box in finetuning.  {attribution}" if dashed else attribution
    lines = textwrap.fill(note, int(columns * FOOTER_CHARACTERS))
    footer.text(0.03 / columns, 0.5, lines, va="center", color=MUTED, fontsize=8)
    return footer.figure


def sheet_images(splits: Mapping[str, Split], of_each: int = 2) -> list[SheetImage]:
    """The first images of every split with their regions."""
    shown: dict[tuple[str, str], list[Region]] = {}
    for name, split in splits.items():
        images = {region.image_id: [] for region in split.all_regions()}
        for region in split.all_regions():
            images[region.image_id].append(region)
        shown |= {(name, image_id): images[image_id] for image_id in [*images][:of_each]}
    return [SheetImage(regions[0].image.open(), regions) for regions in shown.values()]


def choose_regions(regions: Sequence[Region], most: int = MOST_PHRASES) -> list[Region]:
    """At most that many regions with boxes: first one of each kind, then those with boxes of their own, then others."""
    left, chosen = [region for region in regions if region.boxes], []

    def rank(region: Region) -> tuple[bool, bool]:
        kinds, boxes = {other.kind for other in chosen}, {box for other in chosen for box in other.boxes}
        return region.kind in kinds, bool(set(region.boxes) & boxes)

    while left and len(chosen) < most:
        best = min(left, key=rank)
        left.remove(best)
        chosen.append(best)
    return chosen


def _draw_scene(block: SubFigure, scene: SheetImage, height: float) -> None:
    """The picture with its tagged boxes above, the phrases below."""
    axes = block.add_axes((0.03, 1 - (CELL_INCHES + 0.06) / height, 0.94, CELL_INCHES / height))
    show_picture(axes, scene.image)
    axes.set_anchor("S")
    bold = {"ha": "center", "va": "center", "weight": "bold"}
    side, tags = 0.075 * max(scene.image.size), []
    for number, region in enumerate(choose_regions(scene.regions), start=1):
        colour, line = COLOURS[number - 1], 1 - (CELL_INCHES + 0.06 + LINE_INCHES * (number - 0.2)) / height
        outline(axes, region.boxes, colour, 1.6, dashed=not region.annotated)
        for box in region.boxes:
            tags.append(tag_corner(box, side, scene.image.size, tags))
            x, y = (edge + side / 2 for edge in tags[-1])
            plate = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "white", "linewidth": 0.8}
            axes.text(x, y, str(number), **bold, color="white", fontsize=7.5, bbox=plate, zorder=5)
        block.text(0.06, line, str(number), **bold, color=colour, fontsize=8.5)
        phrase = textwrap.shorten(region.phrase, 34, placeholder=" …")
        block.text(0.1, line, phrase, va="center", fontsize=8.5)


def tag_corner(
    box: Box, side: float, size: tuple[int, int], tags: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """The upper left corner of a square tag: at a corner of the box, inside the picture, off the tags so far."""
    x1, y1, x2, y2 = box
    spots = [(x1, y1 - side), (x2 - side, y1 - side), (x1, y2), (x2 - side, y2), (x1 - side, y1), (x2, y1)]
    spots += [(x1, y1), (x2 - side, y1), (x1, y2 - side), (x2 - side, y2 - side)]
    spots = [(min(max(x, 0), size[0] - side), min(max(y, 0), size[1] - side)) for x, y in spots]

    def crowding(spot: tuple[float, float]) -> float:
        return sum(max(0, side - abs(spot[0] - x)) * max(0, side - abs(spot[1] - y)) for x, y in tags)

    return min(spots, key=crowding)
