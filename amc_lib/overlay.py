"""A heatmap laid over its picture, and a ring around its peak."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

INFERNO = (  # matplotlib's colour map from 0.2 to 0.9, RGB
    "420a68 57106e 6a176e 7f1e6c 932667 a82e5f bc3754 cc4248 dd513a ea632a f37819 f98e09 fca50a fbbe23 f6d746"
)
COLOURS = np.array([list(bytes.fromhex(colour)) for colour in INFERNO.split()])  # of heat 0 to 1 in equal steps
HEAT_ALPHA = 0.8  # opacity of the hottest place
LEVELS = np.linspace(0, 1, 256)  # of heat that are told apart
RING_SHARE = 0.03  # radius of the ring, of the picture's shorter side


def heat_overlay(image: Image.Image | np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """The heatmap laid over the picture: uint8 [H, W, 3].

    image: a PIL image, or uint8 [H, W, 3]. heatmap: float [H, W] in [0, 1]. Where the heat is 0 the picture shows as
    it is; the hotter, the brighter and the more opaque the colour.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    heat = np.asarray(heatmap)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"the image must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if heat.shape != pixels.shape[:2]:
        raise ValueError(f"the heatmap is {list(heat.shape)} but the image is {list(pixels.shape[:2])}")
    if not np.isfinite(heat).all() or heat.min() < 0 or heat.max() > 1:
        raise ValueError("heatmap values must lie in [0, 1]: normalise the map first")
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(LEVELS, steps, channel) for channel in COLOURS.T], axis=-1)  # [256, 3]
    colour = Image.fromarray((255 * heat).round().astype(np.uint8))
    opacity = colour.point((255 * HEAT_ALPHA * LEVELS).round().astype(int).tolist())
    colour.putpalette(colours.round().astype(np.uint8).tobytes())
    return np.array(Image.composite(colour.convert("RGB"), Image.fromarray(pixels), opacity))


def ring(picture: Image.Image, point: tuple[int, int]) -> Image.Image:
    """A copy of the picture with a ring around a point (x, y), which stays visible inside it."""
    picture, (x, y) = picture.copy(), point
    radius = max(5, round(RING_SHARE * min(picture.size)))
    draw = ImageDraw.Draw(picture)
    for colour, width in (("black", radius // 3 + 3), ("white", radius // 3 + 1)):
        outer = radius + width // 2
        draw.ellipse((x - outer, y - outer, x + outer, y + outer), outline=colour, width=width)
    return picture
