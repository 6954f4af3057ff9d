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
from PIL import Image

from amc_lib import gradcam
from amc_lib.evaluate import point_hits
from amc_lib.overlay import heat_overlay
from amc_lib.regions import Region
from amc_study.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    MUTED,
    RULE,
    new_figure,
    outline,
    ring,
    show_picture,
    styled,
    to_image,
    verdict,
)

LABELS = {"ALBEF finetuned": "without boxes", "AMC": "with boxes (AMC)"}
SHOWN_SHARES = (0.1, 0.35, 1.0)  # of the steps, in the still; step 0 stands before them
TILE_INCHES, PHRASE_INCHES, CURVE_INCHES = 1.3, 1.35, 1.8
FRAME_INCHES, FRAME_DPI = (8.0, 5.3), 100
FRAME_MS, FIRST_MS, LAST_MS = 180, 1000, 3000


@dataclass(frozen=True)
class Film:
    """What S systems answered to P phrases, and how well they pointed, at F moments of their finetuning.

    steps: int [F], updates so far. accuracy: [S, F], percent of all `asked` phrases. heatmaps: raw or scaled,
    [S, F, P, G, G] >= 0. points: (x, y) in pixels, [S, F, P, 2]. regions: the P phrases that are shown.
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
        heated = self.heatmaps[system, frame].any(axis=(1, 2))
        return point_hits(self.points[system, frame], self.regions) & heated

    def overlay(self, system: int, frame: int, phrase: int) -> np.ndarray:
        """The heatmap laid over its picture as it is for evaluation, uint8 [H, W, 3]."""
        image = self.images[phrase]
        raw = torch.from_numpy(self.heatmaps[system, frame, phrase].astype(np.float32))[None]
        heat = gradcam.upsample(raw, (image.height, image.width), "bicubic").clamp(min=0)
        return heat_overlay(image, gradcam.normalise(heat)[0].numpy())


@styled
def training_figure(film: Film) -> Figure:
    """A row for each phrase: step 0, then some steps of each system; below, how the accuracy went."""
    frames = shown_frames(film.steps)
    shots = [(0, frames[0]), *((system, frame) for system in range(len(film.systems)) for frame in frames[1:])]
    P, columns = len(film.regions), len(shots)
    width, height = PHRASE_INCHES + columns * TILE_INCHES, 0.4 + P * TILE_INCHES
    figure, left = new_figure(width, height + CURVE_INCHES), PHRASE_INCHES / width
    body, below = figure.subfigures(2, 1, height_ratios=[height, CURVE_INCHES])
    room = {"left": left, "right": 0.995, "top": 1 - 0.55 / height, "bottom": 0.01}
    grid = body.subplots(P, columns, squeeze=False, gridspec_kw=room | {"wspace": 0.06, "hspace": 0.22})
    for p, row in enumerate(grid):
        look = {"ha": "right", "va": "center", "style": "italic", "fontsize": 9}
        text = textwrap.fill(f"“{film.regions[p].phrase}”", 15)
        row[0].annotate(text, (-0.1, 0.5), xycoords="axes fraction", **look)
        for axes, (system, frame) in zip(row, shots, strict=True):
            _tile(axes, film, system, frame, p)
    for place, (axes, (system, frame)) in enumerate(zip(grid[0], shots, strict=True)):
        axes.set_title(f"step {film.steps[frame]}", loc="left", fontsize=8, weight="normal", color=MUTED, pad=3)
        name = film.systems[system]
        if place == 0 or frame == frames[1]:
            heading, colour = (LABELS.get(name, name), COLOURS[name]) if place else ("before", INK)
            axes.annotate(heading, (0, 1.25), xycoords="axes fraction", weight="bold", color=colour, fontsize=9)
    axes = below.add_axes((left, 0.26, 0.99 - left - 0.2, 0.7))
    _curves(axes, film, len(film.steps) - 1)
    for frame in frames:
        axes.axvline(film.steps[frame], color=RULE, linewidth=0.8, zorder=0)
    return figure


@styled
def frame_figure(film: Film, frame: int) -> Figure:
    """One moment of the animation: phrases in columns, systems in rows, and the accuracy so far."""
    P, S = len(film.regions), len(film.systems)
    figure = new_figure(*FRAME_INCHES)
    room = {"left": 0.12, "right": 0.995, "top": 0.9, "bottom": 0.37, "wspace": 0.06, "hspace": 0.16}
    grid = figure.subplots(S, P, squeeze=False, gridspec_kw=room)
    for s, name in enumerate(film.systems):
        label, place = textwrap.fill(LABELS.get(name, name), 8), (-0.62, 0.5)
        look = {"va": "center", "weight": "bold", "color": COLOURS[name], "fontsize": 10}
        grid[s, 0].annotate(label, place, xycoords="axes fraction", **look)
        for p in range(P):
            _tile(grid[s, p], film, s, frame, p)
    for axes, region in zip(grid[0], film.regions, strict=True):
        phrase = textwrap.fill(textwrap.shorten(f"“{region.phrase}”", 36, placeholder=" …"), 20)
        axes.annotate(phrase, (0, 1.17), xycoords="axes fraction", va="bottom", style="italic", fontsize=8.5)
    _curves(figure.add_axes((0.12, 0.09, 0.5, 0.24)), film, frame)
    return figure


def training_gif(film: Film) -> bytes:
    """The animation as a GIF that begins again after its end: one palette for all frames, no dithering."""
    frames = [to_image(frame_figure(film, frame), FRAME_DPI) for frame in range(len(film.steps))]
    palette = Image.fromarray(np.vstack([frames[0], frames[-1]])).quantize(256, kmeans=5)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FIRST_MS, *[FRAME_MS] * (len(frames) - 2), LAST_MS]
    look = {"duration": durations, "loop": 0, "disposal": 1}
    first.save(buffer := io.BytesIO(), "GIF", save_all=True, append_images=others, **look)
    return buffer.getvalue()


def shown_frames(steps: np.ndarray) -> list[int]:
    """Frames of the still: step 0 and, for each of SHOWN_SHARES, the frame nearest to that share of the steps."""
    wanted = [0.0, *(share * steps[-1] for share in SHOWN_SHARES)]
    return list(dict.fromkeys(int(np.abs(steps - step).argmin()) for step in wanted))


def _tile(axes: Axes, film: Film, system: int, frame: int, phrase: int) -> None:
    """A picture with heat, the phrase's boxes, the point, and hit or miss above."""
    show_picture(axes, film.overlay(system, frame, phrase))
    outline(axes, film.regions[phrase].boxes, thickness=1.0)
    ring(axes, tuple(film.points[system, frame, phrase]), size=7)
    verdict(axes, film.hits(system, frame)[phrase], words=False)


def _curves(axes: Axes, film: Film, last: int) -> None:
    """Accuracy of each system over the steps up to frame `last`; beside them, best first, their last values."""
    steps = film.steps
    axes.set(xlim=(-0.01 * steps[-1], steps[-1]), ylim=(film.accuracy.min() - 1.5, film.accuracy.max() + 1.5))
    axes.set(xlabel="updates", ylabel="pointing (%)")
    axes.grid(axis="y")
    for system in np.argsort(-film.accuracy[:, last], kind="stable"):
        name, path = film.systems[system], film.accuracy[system, : last + 1]
        label, look = f"{path[-1]:.1f} {LABELS.get(name, name)}", {"color": COLOURS[name], "marker": MARKERS[name]}
        axes.plot(steps[: last + 1], path, label=label, markersize=3, clip_on=False, **look)
    title, look = f"step {steps[last]} of {steps[-1]}", {"weight": "bold", "size": 9}
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "alignment": "left"}
    axes.legend(title=title, title_fontproperties=look, prop=look, labelcolor="linecolor", **place)
