"""One answer taken apart, as `explore` shows it: losses of its heatmap for a box, and what each token adds to it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from amc_lib import gradcam
from amc_lib.config import AmcSettings
from amc_lib.data import box_mask
from amc_lib.grounder import Grounding
from amc_lib.losses import amc_loss, max_loss, mean_loss
from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS
from amc_study.rival.region_grounder import RegionGrounding

TILES_A_ROW, TILE, LABEL = 3, 100, 16  # of the strip of tokens: tiles, and pixels of a tile's side and of its label
DIMMED = 0.25  # brightness of what lies outside the mask


@dataclass(frozen=True)
class BoxTerms:
    """What equations 1-3 say of one heatmap and one box; the heatmap in [0, 1], as in training."""

    mean_inside: float
    mean_outside: float
    peak_inside: float
    peak_outside: float
    l_mean: float
    l_max: float
    l_amc: float


def box_terms(grounding: Grounding, box: Box, amc: AmcSettings) -> BoxTerms:
    """The loss terms of a grounding for a box (xyxy, shares of the image), on maps of the training's size."""
    side = amc.map_size
    heat = gradcam.upsample(gradcam.normalise(grounding.raw[None]), (side, side), "bilinear")  # [1, S, S]
    mask = box_mask([box], side)[None]
    inside = mask.bool()
    return BoxTerms(
        _mean(heat[inside]),
        _mean(heat[~inside]),
        _peak(heat[inside]),
        _peak(heat[~inside]),
        mean_loss(heat, mask, amc.delta1).item(),
        max_loss(heat, mask, amc.delta2).item(),
        amc_loss(heat, mask, amc.lambda1, amc.lambda2, amc.delta1, amc.delta2).item(),
    )


def _mean(values: torch.Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def _peak(values: torch.Tensor) -> float:
    return values.max().item() if len(values) else 0.0


def loss_table(terms: BoxTerms, amc: AmcSettings) -> str:
    """Equations 1-3 with the numbers of a box, as HTML."""
    hinges = [
        ("mean", terms.mean_outside, terms.mean_inside, amc.delta1, terms.l_mean),
        ("max", terms.peak_outside, terms.peak_inside, amc.delta2, terms.l_max),
    ]
    lines = [
        f"L<sub>{name}</sub> = max(0, {outside:.2f} − {inside:.2f} + {margin:g}) = <b>{loss:.3f}</b>"
        for name, outside, inside, margin, loss in hinges
    ]
    weighted = f"{amc.lambda1:g} L<sub>mean</sub> + {amc.lambda2:g} L<sub>max</sub>"
    return "<br>".join([*lines, f"L<sub>amc</sub> = {weighted} = <b>{terms.l_amc:.3f}</b>"])


def heading(name: str, answer: Grounding | RegionGrounding, box: Box) -> str:
    """What a system says, and whether it points inside a box (xyxy, shares of the image), as HTML."""
    (x, y), (width, height) = answer.point, answer.image.size
    inside = box[0] * width < x < box[2] * width and box[1] * height < y < box[3] * height
    sure = (
        f"match {100 * answer.score:.0f} %" if isinstance(answer, Grounding) else f"best of {len(answer.boxes)} boxes"
    )
    return f"<b>{name}</b> {sure}, points {'inside' if inside else 'outside'} the box"


def overlay(answer: Grounding | RegionGrounding) -> Image.Image:
    """The picture with a system's answer: its heatmap, or the box that it chose."""
    if isinstance(answer, Grounding):
        return answer.overlay()
    x1, y1, x2, y2 = answer.boxes[0]
    width, height = answer.image.size
    return outlined(answer.image, (x1 / width, y1 / height, x2 / width, y2 / height), COLOURS["VMRM"])


def token_strip(grounding: Grounding) -> Image.Image:
    """A tile for each token: its map over the image, on a scale of its own, below its share of the whole heatmap."""
    shares = grounding.token_maps.sum((1, 2)) / grounding.raw.sum().clamp(min=torch.finfo(torch.float32).tiny)  # [L]
    maps = gradcam.upsample(grounding.token_maps, (TILE, TILE), "bicubic").clamp(min=0)
    maps = gradcam.normalise(maps).numpy()  # [L, TILE, TILE]
    small = grounding.image.resize((TILE, TILE))
    rows = -(-len(maps) // TILES_A_ROW)
    strip = Image.new("RGB", (TILES_A_ROW * TILE, rows * (TILE + LABEL)), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(LABEL - 5)
    for number, (token, share, heat) in enumerate(zip(grounding.tokens, shares.tolist(), maps, strict=True)):
        row, column = divmod(number, TILES_A_ROW)
        x, y = column * TILE, row * (TILE + LABEL)
        draw.text((x + TILE / 2, y + LABEL / 2), f"{token} {100 * share:.0f} %", fill="black", font=font, anchor="mm")
        strip.paste(Image.fromarray(heat_overlay(small, heat)), (x, y + LABEL))
    return strip


def mask_picture(image: Image.Image, box: Box) -> Image.Image:
    """The image, dark where the mask of a box (xyxy, shares of the image) is 0."""
    x1, y1, x2, y2 = _pixels(box, image.size)
    light = np.full((image.height, image.width, 1), DIMMED)
    light[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return Image.fromarray((np.asarray(image) * light).round().astype(np.uint8))


def outlined(image: Image.Image, box: Box, colour: str = COLOURS["oracle"]) -> Image.Image:
    """The image with the outline of a box (xyxy, shares of the image), white around the colour."""
    picture = image.copy()
    draw, (x1, y1, x2, y2) = ImageDraw.Draw(picture), _pixels(box, image.size)
    corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
    draw.rectangle(corners, outline="white", width=4)
    draw.rectangle(corners, outline=colour, width=2)
    return picture


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of shares in whole pixels of an image of `size` (width, height), its corner inside the image."""
    width, height = size
    x1, y1, x2, y2 = box
    return min(round(x1 * width), width - 1), min(round(y1 * height), height - 1), round(x2 * width), round(y2 * height)


def quick_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file, written in a third of the time of one that is as small as can be."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()
