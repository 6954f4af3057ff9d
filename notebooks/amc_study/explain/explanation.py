"""One answer taken apart, as the explorer shows it: losses of its heatmap for a box, and what each token adds to it."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont

from amc_lib import gradcam
from amc_lib.config import AmcSettings
from amc_lib.data import box_mask
from amc_lib.grounding import Grounding
from amc_lib.losses import amc_loss, max_loss, mean_loss
from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box
from amc_study.figures.style import COLOURS
from amc_study.rival.region_grounder import RegionGrounding

TILES_A_ROW, TILE, LABEL = 3, 78, 16  # of the strip of tokens: tiles, and pixels of a tile's side and of its label


def box_terms(grounding: Grounding, box: Box, amc: AmcSettings) -> dict[str, float]:
    """What equations 1-3 make of a heatmap and a box (xyxy, shares of the image), at the size of training.

    Means and maxima of the heatmap in [0, 1] inside and outside of the box, and L_mean, L_max, L_amc.
    """
    side = amc.map_size
    heat = gradcam.upsample(gradcam.normalise(grounding.raw[None]), (side, side), "bilinear")  # [1, S, S]
    mask = box_mask([box], side)[None]
    terms = {}
    for place, chosen in (("inside", mask.bool()), ("outside", ~mask.bool())):
        values = heat[chosen] if chosen.any() else torch.zeros(1)
        terms |= {f"mean {place}": values.mean().item(), f"max {place}": values.max().item()}
    terms["L_mean"] = mean_loss(heat, mask, amc.delta1).item()
    terms["L_max"] = max_loss(heat, mask, amc.delta2).item()
    return terms | {"L_amc": amc_loss(heat, mask, amc.lambda1, amc.lambda2, amc.delta1, amc.delta2).item()}


def loss_table(terms: dict[str, float], amc: AmcSettings) -> str:
    """Equations 1-3 with the numbers of a box, as HTML."""
    lines = [
        f"L<sub>{name}</sub> = max(0, {terms[f'{name} outside']:.2f} − {terms[f'{name} inside']:.2f} + {margin:g}) "
        f"= <b>{terms[f'L_{name}']:.3f}</b>"
        for name, margin in (("mean", amc.delta1), ("max", amc.delta2))
    ]
    weighted = f"{amc.lambda1:g} L<sub>mean</sub> + {amc.lambda2:g} L<sub>max</sub>"
    return "<br>".join([*lines, f"L<sub>amc</sub> = {weighted} = <b>{terms['L_amc']:.3f}</b>"])


def heading(name: str, answer: Grounding | RegionGrounding, box: Box | None) -> str:
    """A system's score and, where there is a box (xyxy, shares of the image), whether it points inside; as HTML."""
    is_heatmap = isinstance(answer, Grounding)
    score = f"match {100 * answer.score:.0f} %" if is_heatmap else f"best of {len(answer.boxes)} boxes"
    if box is None:
        return f"<b>{name}</b> {score}"
    (x, y), (width, height) = answer.point, answer.image.size
    inside = box[0] * width < x < box[2] * width and box[1] * height < y < box[3] * height
    return f"<b>{name}</b> {score}, points {'inside' if inside else 'outside'} the box"


def overlay(answer: Grounding | RegionGrounding) -> Image.Image:
    """The picture with a system's answer: its heatmap, or the box that it chose."""
    if isinstance(answer, Grounding):
        return answer.overlay()
    width, height = answer.image.size
    x1, y1, x2, y2 = answer.boxes[0]
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


def outlined(image: Image.Image, box: Box | None, colour: str = COLOURS["oracle"]) -> Image.Image:
    """The image with the outline of a box (xyxy, shares of the image), white around the colour; as it is without."""
    picture = image.copy()
    if box is not None:
        (x1, y1, x2, y2), (width, height) = box, image.size
        left, top = min(round(x1 * width), width - 1), min(round(y1 * height), height - 1)
        corners = (left, top, max(round(x2 * width) - 1, left), max(round(y2 * height) - 1, top))
        draw = ImageDraw.Draw(picture)
        draw.rectangle(corners, outline="white", width=4)
        draw.rectangle(corners, outline=colour, width=2)
    return picture
