"""Heatmaps while a model is finetuned: a still for print, and the frames of an animation."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from amc_lib import gradcam
from amc_lib.evaluate import point_hits
from amc_lib.overlay import heat_overlay
from amc_lib.regions import Box, Region
from amc_study.figures.style import (
    COLOURS,
    HIT,
    INK,
    MARKERS,
    MISS,
    MUTED,
    RULE,
    new_figure,
    styled,
    to_image,
)

LABELS = {"ALBEF finetuned": "without boxes", "AMC": "with boxes"}
SHOWN_SHARES = (0.1, 0.35, 1.0)  # of the steps, in the still; step 0 stands before them
TILE_INCHES, PHRASE_INCHES, HEAD_INCHES, CURVE_INCHES = 1.12, 1.35, 0.24, 1.45
FRAME_WIDTH, FRAME_HEIGHT, FRAME_DPI = 8.0, 5.3, 100
CURVES_WIDE = 3.9  # inches; beside them stand their values and names, and then the step
FRAME_COLOURS, PALETTE_ROUNDS = 256, 5  # of the animation's one palette, and how often it is fitted to the frames
FRAME_MS, FIRST_MS, LAST_MS = 180, 1000, 3000
ROOM = 1.5  # percentage points above and below the curves


@dataclass(frozen=True)
class Film:
    """What S systems answered to P phrases, and how well they pointed, at F moments of their finetuning.

    steps: int [F], updates so far. accuracy: [S, F], percent of all phrases that were asked. heatmaps: raw or scaled,
    [S, F, P, G, G] >= 0. points: (x, y) in pixels, [S, F, P, 2]. regions: the P
    phrases, out of the `asked` ones.
    """

    systems: Sequence[str]
    steps: np.ndarray
    accuracy: np.ndarray
    heatmaps: np.ndarray
    points: np.ndarray
    regions: Sequence[Region]
    asked: int

    @cached_property
    def images(self) -> list[Image.Image]:
        return [region.image.open() for region in self.regions]

    def hits(self, system: int, frame: int) -> np.ndarray:
        """bool [P]; a heatmap of zeros is a miss."""
        seen = self.heatmaps[system, frame].any(axis=(1, 2))
        return point_hits(self.points[system, frame], self.regions) & seen

    def overlay(self, system: int, frame: int, phrase: int) -> np.ndarray:
        """The heatmap laid over its picture as it is for evaluation, uint8 [H, W, 3]."""
        image = self.images[phrase]
        raw = torch.from_numpy(self.heatmaps[system, frame, phrase].astype(np.float32))[None]
        heat = gradcam.upsample(raw, (image.height, image.width), "bicubic").clamp(min=0)
        return heat_overlay(image, gradcam.normalise(heat)[0].numpy())


@styled
def training_figure(film: Film) -> Figure:
    """A row for each phrase: step 0, then some steps of each system; below, how the accuracy went."""
    P, frames = len(film.regions), shown_frames(film.steps)
    blocks = [(0, frames[:1]), *((system, frames[1:]) for system in range(len(film.systems)))]
    columns = sum(len(of_block) for _, of_block in blocks)
    pitch, gap, side = TILE_INCHES + HEAD_INCHES, 0.18, TILE_INCHES
    width = PHRASE_INCHES + columns * (side + 0.06) + gap * (len(blocks) - 1) + 0.1
    height = 0.35 + P * pitch + 0.3 + CURVE_INCHES + 0.42
    figure = new_figure(width, height)
    left = PHRASE_INCHES
    for number, (system, of_block) in enumerate(blocks):
        name = film.systems[system]
        heading = f"{name}, {LABELS.get(name, '')}".rstrip(", ") if number else "before"
        colour = COLOURS[name] if number else INK
        figure.text(left / width, 1 - 0.17 / height, heading, weight="bold", color=colour, va="center", fontsize=9)
        for frame in of_block:
            for p in range(P):
                bottom = height - 0.35 - (p + 1) * pitch
                axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
                _tile(axes, film, system, frame, p)
                if p == 0:
                    step = f"step {film.steps[frame]}"
                    axes.set_title(step, loc="left", fontsize=8, weight="normal", color=MUTED, pad=3)
            left += side + 0.06
        left += gap
    for p, region in enumerate(film.regions):
        middle = height - 0.35 - (p + 1) * pitch + side / 2
        text = textwrap.fill(f"“{region.phrase}”", 15)
        figure.text(0.08 / width, middle / height, text, va="center", style="italic", fontsize=9)
    axes = figure.add_axes(
        (PHRASE_INCHES / width, 0.42 / height, 1 - (PHRASE_INCHES + 1.6) / width, CURVE_INCHES / height)
    )
    _curves(axes, film, len(film.steps) - 1)
    for frame in frames:
        axes.axvline(film.steps[frame], color=RULE, linewidth=0.8, zorder=0)
    return figure


@styled
def frame_figure(film: Film, frame: int) -> Figure:
    """One moment of the animation: phrases in columns, systems in rows, and the accuracy so far."""
    P, S = len(film.regions), len(film.systems)
    figure = new_figure(FRAME_WIDTH, FRAME_HEIGHT)
    left, top, gap = 0.95, 0.62, 0.08
    side = (FRAME_WIDTH - left - 0.05) / P - gap
    for s, name in enumerate(film.systems):
        bottom = FRAME_HEIGHT - top - s * HEAD_INCHES - (s + 1) * side
        label = textwrap.fill(LABELS.get(name, name), 8)
        middle = (bottom + side / 2) / FRAME_HEIGHT
        figure.text(0.08 / FRAME_WIDTH, middle, label, va="center", weight="bold", color=COLOURS[name], fontsize=10)
        for p, region in enumerate(film.regions):
            x = left + p * (side + gap)
            size = (side / FRAME_WIDTH, side / FRAME_HEIGHT)
            _tile(figure.add_axes((x / FRAME_WIDTH, bottom / FRAME_HEIGHT, *size)), film, s, frame, p)
            if s == 0:
                phrase = textwrap.fill(textwrap.shorten(f"“{region.phrase}”", 36, placeholder=" …"), 20)
                y = 1 - (top - HEAD_INCHES) / FRAME_HEIGHT
                figure.text(x / FRAME_WIDTH, y, phrase, va="bottom", style="italic", fontsize=8.5, linespacing=1.1)
    above = top + S * side + (S - 1) * HEAD_INCHES + 0.2
    height = FRAME_HEIGHT - above - 0.45
    axes = figure.add_axes((left / FRAME_WIDTH, 0.45 / FRAME_HEIGHT, CURVES_WIDE / FRAME_WIDTH, height / FRAME_HEIGHT))
    _curves(axes, film, frame)
    middle = (0.45 + height / 2) / FRAME_HEIGHT
    step = f"step {film.steps[frame]} of {film.steps[-1]}"
    figure.text(0.995, middle, step, ha="right", va="center", weight="bold", fontsize=12)
    return figure


def training_gif(film: Film) -> bytes:
    """The animation as a GIF that begins again after its end: one palette for all frames, no dithering."""
    frames = [to_image(frame_figure(film, frame), FRAME_DPI) for frame in range(len(film.steps))]
    sample = Image.fromarray(np.vstack([np.asarray(frames[0]), np.asarray(frames[-1])]))
    palette = sample.quantize(FRAME_COLOURS, Image.Quantize.MEDIANCUT, kmeans=PALETTE_ROUNDS)
    paletted = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FIRST_MS, *[FRAME_MS] * (len(frames) - 2), LAST_MS]
    buffer = io.BytesIO()
    paletted[0].save(
        buffer, "GIF", save_all=True, append_images=paletted[1:], duration=durations, loop=0, disposal=1, optimize=True
    )
    return buffer.getvalue()


def shown_frames(steps: np.ndarray) -> list[int]:
    """Frames of the still: step 0 and, for each of SHOWN_SHARES, the frame nearest to that share of the steps."""
    wanted = [0.0, *(share * steps[-1] for share in SHOWN_SHARES)]
    return list(dict.fromkeys(int(np.abs(steps - step).argmin()) for step in wanted))


def _tile(axes: Axes, film: Film, system: int, frame: int, phrase: int) -> None:
    """A picture with heat, the phrase's boxes, the point, and hit or miss above."""
    width, height = film.images[phrase].size
    axes.imshow(film.overlay(system, frame, phrase), extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for spine in axes.spines.values():
        spine.set(visible=True, color=MUTED)
    for box in film.regions[phrase].boxes:
        _outline(axes, box)
    x, y = film.points[system, frame, phrase]
    axes.plot(x + 0.5, y + 0.5, "P", markersize=7, color=INK, markeredgecolor="white", markeredgewidth=1.1)
    verdict, colour = ("✓", HIT) if film.hits(system, frame)[phrase] else ("✗", MISS)
    axes.set_title(verdict, loc="right", fontsize=9, color=colour, pad=3)


def _outline(axes: Axes, box: Box) -> None:
    x1, y1, x2, y2 = box
    for edge, width in (("white", 2.4), (INK, 1.0)):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width))


def _curves(axes: Axes, film: Film, last: int) -> None:
    """Accuracy of each system over the steps up to frame `last`, each line with its last value and name at its end."""
    steps, low, high = film.steps, film.accuracy.min() - ROOM, film.accuracy.max() + ROOM
    axes.set(xlim=(-0.01 * steps[-1], steps[-1]), ylim=(low, high), xlabel="updates", ylabel="pointing (%)")
    axes.grid(axis="y")
    ends = film.accuracy[:, last]
    for name, path, end, place in zip(film.systems, film.accuracy, ends, apart(ends, 0.17 * (high - low)), strict=True):
        look = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 3}
        axes.plot(steps[: last + 1], path[: last + 1], clip_on=False, **look)
        axes.annotate(
            f"{end:.1f} {LABELS.get(name, name)}", (steps[-1], place), (8, 0), textcoords="offset points", va="center",
            color=COLOURS[name], fontsize=8.5, weight="bold", annotation_clip=False,
        )  # fmt: skip


def apart(values: np.ndarray, least: float) -> np.ndarray:
    """The values, or where two are closer than `least`, places in the same order around their mean, `least` apart."""
    order = np.argsort(values, kind="stable")
    if len(values) < 2 or np.diff(values[order]).min() >= least:
        return values
    places = np.empty(len(values))
    places[order] = values.mean() + least * (np.arange(len(values)) - (len(values) - 1) / 2)
    return places
