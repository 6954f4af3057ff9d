"""A heatmap laid over its picture."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image

HEAT_MAP = colormaps["inferno"]
HEAT_ALPHA = 0.8


def heat_overlay(image: Image.Image | np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """The heatmap laid over the image: uint8 [H, W, 3].

    image: a PIL image, or uint8 [H, W, 3]. heatmap: float [H, W] in [0, 1]. Where the heat is 0 the image shows as it
    is, only paler; the hotter, the brighter and the more opaque the colour.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    heat = np.asarray(heatmap, dtype=np.float64)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"the image must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if heat.shape != pixels.shape[:2]:
        raise ValueError(f"the heatmap is {list(heat.shape)} but the image is {list(pixels.shape[:2])}")
    if not np.isfinite(heat).all() or heat.min() < 0 or heat.max() > 1:
        raise ValueError("heatmap values must lie in [0, 1]: normalise the map first")
    colour = pixels / 255
    pale = 0.55 * colour + 0.45 * (0.5 + 0.5 * colour.mean(axis=2, keepdims=True))
    alpha = HEAT_ALPHA * heat[..., None]
    mixed = (1 - alpha) * pale + alpha * HEAT_MAP(0.2 + 0.7 * heat)[..., :3]
    return (255 * mixed).round().astype(np.uint8)
