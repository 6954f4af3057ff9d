"""One look for every figure: type, colours, the heat overlay, and how a figure becomes files."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from amc_lib.files import ROOT, write_bytes, write_json

FOLDER = ROOT / "figures"  # where the study's figures and tables stand


def folder_of(tier: str) -> Path:
    """Where a tier's figures and tables stand: those of the paper tier in a folder of their own."""
    return FOLDER if tier == "scenes" else FOLDER / tier


COLOURS = {
    "ALBEF": "#0072B2",
    "ALBEF finetuned": "#56B4E9",
    "AMC": "#D55E00",
    "VMRM": "#009E73",
    "oracle": "#CC79A7",
    "centre": "#595959",
    "chance": "#999999",
}
"""Colour of each system in every figure (Okabe and Ito's palette, safe for colour-blind readers)."""

MARKERS = {"ALBEF": "o", "ALBEF finetuned": "s", "AMC": "D", "VMRM": "^", "oracle": "P", "centre": "X", "chance": "x"}
"""Shape of each system's points, so that no figure relies on colour alone."""

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED, RULE = "#222222", "#666666", "#D9D9D9"
HIT, MISS = "#007A5A", "#B03A00"
BAND, TINT = "#17324A", "#FBE6D6"  # of the poster's headings, and behind the row of a table that matters

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "amc-grounding",
    "svg.fonttype": "path",
}

DPI = 200

Parameters = ParamSpec("Parameters")


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """A figure function that draws in the common style and leaves matplotlib's settings as they were."""

    @wraps(draw)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which no global state holds on to."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_image(figure: Figure, dpi: int = DPI) -> Image.Image:
    """The figure as an RGB picture, as `save` writes it: what a notebook shows."""
    return Image.open(io.BytesIO(_render(figure, "png", dpi=dpi, metadata={"Software": None}))).convert("RGB")


def save(figure: Figure, folder: str | Path, name: str, provenance: dict[str, Any] | None = None) -> Path:
    """Write NAME.png (200 dpi), NAME.svg and, if provenance is given, NAME.json; return the path of the PNG.

    The same figure gives the same bytes. Files are replaced whole or not at all.
    """
    folder = Path(folder)
    png = _render(figure, "png", dpi=DPI, metadata={"Software": None})
    svg = _render(figure, "svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    write_bytes(folder / f"{name}.png", png)
    write_bytes(folder / f"{name}.svg", svg)
    if provenance is not None:
        write_json(folder / f"{name}.json", provenance)
    return folder / f"{name}.png"


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
