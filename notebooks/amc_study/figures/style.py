"""One look for every figure: type, colours, marks on pictures, and how a figure becomes files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from amc_lib.files import ROOT, write_bytes, write_json
from amc_lib.regions import Box

FOLDER = ROOT / "figures"  # the study's published figures and tables
SYSTEMS = {  # colour (Okabe and Ito's palette, safe for colour-blind readers) and marker of each system
    "chance": ("#999999", "X"),
    "centre": ("#595959", "p"),
    "ALBEF": ("#0072B2", "o"),
    "ALBEF finetuned": ("#56B4E9", "s"),
    "AMC": ("#D55E00", "D"),
    "VMRM": ("#009E73", "^"),
    "BLIP": ("#B8860B", "v"),
    "oracle": ("#CC79A7", "P"),
}
UNTRAINED = ("chance", "centre", "oracle")
COLOURS = {system: colour for system, (colour, _) in SYSTEMS.items()}
MARKERS = {system: marker for system, (_, marker) in SYSTEMS.items()}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED, RULE = "#222222", "#666666", "#D9D9D9"
HIT, MISS, OPEN = "#007A5A", "#B03A00", "#B8860B"  # yes, no, undecided
BAND, TINT = "#17324A", "#FBE6D6"  # the poster's headings, and behind what matters
DPI, PICTURE_DPI = 200, 120  # of plots, and of figures that show pictures, whose files are large

STYLE = sns.axes_style("ticks") | {
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "amc-grounding",
    "svg.fonttype": "path",
}

styled = rc_context(STYLE)  # decorates what draws or saves; matplotlib's settings stay as they were


def shown_systems(systems: Iterable[str]) -> list[str]:
    """The systems among these, each once, in the order of every figure."""
    return [system for system in SYSTEMS if system in set(systems)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which pyplot does not hold on to."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def show_picture(axes: Axes, picture: Image.Image | np.ndarray, title: str = "") -> None:
    """A picture, uint8 [H, W, 3] or PIL, in a thin frame; axes in pixels, the first pixel's corner at (0, 0)."""
    pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="lanczos")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    caption(axes, title)
    axes.spines[:].set(visible=True, color=MUTED)


def caption(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8.5, weight="normal", color=MUTED, pad=4)


def outline(axes: Axes, boxes: Sequence[Box], colour: str = INK, thickness: float = 1.2, dashed: bool = False) -> None:
    """Boxes (xyxy, pixels) in a colour with a white edge, so that they show on any ground."""
    dashes = (0, (4, 2)) if dashed else "-"
    for x1, y1, x2, y2 in boxes:
        for edge, width, style in (("white", thickness + 1.6, "-"), (colour, thickness, dashes)):
            look = {"edgecolor": edge, "linewidth": width, "linestyle": style}
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))


def ring(axes: Axes, point: tuple[float, float], size: float = 9) -> None:
    """A ring around a point (x, y, pixel indices), open so that it does not cover what it points at."""
    for edge, width in (("white", 3.2), (INK, 1.5)):
        look = {"markersize": size, "markeredgecolor": edge, "markeredgewidth": width}
        axes.plot(point[0] + 0.5, point[1] + 0.5, "o", markerfacecolor="none", **look)


def sheet(heights: Sequence[float], abreast: int, width: float, footer: float) -> tuple[list[SubFigure], SubFigure]:
    """Parts of a new figure: a cell of at least each height in rows of `abreast`, and the footer, all in inches."""
    rows = [max(heights[first : first + abreast]) for first in range(0, len(heights), abreast)]
    figure = new_figure(abreast * width, sum(rows) + footer)
    body, below = figure.subfigures(2, 1, height_ratios=[sum(rows), footer])
    cells = body.subfigures(len(rows), abreast, squeeze=False, height_ratios=rows)
    return list(cells.flat)[: len(heights)], below


def verdict(axes: Axes, hit: bool, words: bool = True) -> None:
    """Hit or miss, above a picture on the right."""
    sign, word, colour = ("✓", "hit", HIT) if hit else ("✗", "miss", MISS)
    axes.set_title(f"{sign} {word}" if words else sign, loc="right", fontsize=8.5, color=colour, pad=4)


def to_image(figure: Figure, dpi: int = 100) -> Image.Image:
    """The figure as an RGB picture: what a notebook shows."""
    return Image.open(io.BytesIO(_render(figure, "png", dpi=dpi, metadata={"Software": None}))).convert("RGB")


def save(figure: Figure, folder: str | Path, name: str, provenance: dict[str, Any] | None = None) -> Path:
    """Write NAME.png, NAME.svg if the figure shows no pictures, and NAME.json with the provenance; return the PNG.

    The same figure drawn anew gives the same bytes. Files are replaced whole or not at all.
    """
    folder, pictures = Path(folder), figure.findobj(AxesImage)
    png = _render(figure, "png", dpi=PICTURE_DPI if pictures else DPI, metadata={"Software": None})
    write_bytes(folder / f"{name}.png", png)
    if not pictures:
        write_bytes(folder / f"{name}.svg", _render(figure, "svg", metadata={"Date": None, "Creator": None}))
    if provenance is not None:
        write_json(folder / f"{name}.json", provenance)
    return folder / f"{name}.png"


@styled
def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    figure.savefig(buffer := io.BytesIO(), format=kind, **options)
    return buffer.getvalue()
