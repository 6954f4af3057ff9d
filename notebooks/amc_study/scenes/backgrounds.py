"""Backgrounds of scenes: coloured procedural textures with decorative strokes, RGB."""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageOps

GRAIN = (4, 22)  # range of the paper grain's amplitude, grey levels
STROKES = (6, 16)  # decorative strokes in a background
_Texture = Callable[[int, np.random.Generator], Image.Image]


def draw_background(size: int, rng: np.random.Generator) -> Image.Image:
    """A textured, cluttered RGB picture of size x size pixels in which nothing has a name."""
    texture = TEXTURES[rng.integers(len(TEXTURES))](size, rng)
    image = ImageOps.colorize(texture, _colour(rng), _colour(rng), mid=_colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(STROKES[0], STROKES[1] + 1)):
        _stroke(draw, size, rng)
    amplitude = int(rng.integers(GRAIN[0], GRAIN[1] + 1))
    pixels = np.asarray(image).astype(np.int16)
    pixels += rng.integers(-amplitude, amplitude + 1, (size, size, 1), dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    """A random colour, neither black nor glaring."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.45, 1.0))
    return tuple(round(255 * channel) for channel in rgb)


def _grey(values: np.ndarray, size: int, resampling: Image.Resampling) -> Image.Image:
    """Values stretched to 0-255, enlarged to size x size."""
    low, high = values.min(), values.max()
    levels = np.uint8(np.round(255 * (values - low) / (high - low)))
    return Image.fromarray(levels).resize((size, size), resampling)


def _clouds(size: int, rng: np.random.Generator) -> Image.Image:
    values = np.zeros((64, 64), dtype=np.float32)
    for cells in (4, 8, 16, 32, 64):
        noise = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        values += np.asarray(noise.resize((64, 64), Image.Resampling.BICUBIC)) / np.sqrt(cells)
    return _grey(values, size, Image.Resampling.BICUBIC)


def _ramp(rng: np.random.Generator) -> np.ndarray:
    """A coordinate along a random direction, pixels of a 128 x 128 grid."""
    y, x = np.mgrid[:128, :128]
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle)


def _gradient(size: int, rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:128, :128]
    centre = rng.uniform(0, 128, 2)
    values = _ramp(rng) if rng.random() < 0.5 else np.hypot(x - centre[0], y - centre[1])
    return _grey(values, size, Image.Resampling.BILINEAR)


def _stripes(size: int, rng: np.random.Generator) -> Image.Image:
    wave = np.sin(2 * np.pi * _ramp(rng) / rng.uniform(10, 40))
    return _grey(np.clip(wave * rng.uniform(1, 4), -1, 1), size, Image.Resampling.BILINEAR)


def _blobs(size: int, rng: np.random.Generator) -> Image.Image:
    image = Image.new("L", (128, 128), int(rng.integers(256)))
    draw = ImageDraw.Draw(image)
    for x, y, radius, level in zip(
        *rng.uniform(0, 128, (2, 24)), rng.uniform(6, 28, 24), rng.integers(0, 256, 24), strict=True
    ):
        draw.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=int(level))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _mosaic(size: int, rng: np.random.Generator) -> Image.Image:
    cells = int(rng.integers(5, 14))
    return _grey(rng.random((cells, cells)), size, Image.Resampling.NEAREST)


def _paper(size: int, rng: np.random.Generator) -> Image.Image:
    fibres = rng.random((128, 128), dtype=np.float32) + rng.random((128, 1), dtype=np.float32)
    return _grey(fibres, size, Image.Resampling.BILINEAR)


TEXTURES: tuple[_Texture, ...] = (_clouds, _gradient, _stripes, _blobs, _mosaic, _paper)


def _stroke(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """One line, zigzag, arc or outline in a random colour."""
    colour, width = _colour(rng), int(rng.integers(1, max(2, size // 60)))
    x, y = rng.uniform(0, size, 2)
    reach = rng.uniform(0.05, 0.35) * size
    kind = rng.integers(4)
    if kind == 0:
        draw.line((x, y, *(np.array([x, y]) + rng.uniform(-reach, reach, 2))), fill=colour, width=width)
    elif kind == 1:
        corners = [(float(x + reach * i / 6), float(y + 0.2 * reach * (i % 2))) for i in range(7)]
        draw.line(corners, colour, width)
    elif kind == 2:
        start = rng.uniform(0, 360)
        draw.arc((x, y, x + reach, y + reach), start, start + rng.uniform(60, 300), colour, width)
    else:
        sides, degrees = int(rng.integers(3, 7)), rng.uniform(0, 360)
        draw.regular_polygon((x, y, 0.4 * reach), sides, degrees, outline=colour, width=width)
