"""The study on one page, from its pictures and tables: figures/poster.png, .pdf and, with the inputs' hashes, .json."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from PIL import Image

from amc_lib.files import sha256_of, write_bytes, write_json
from amc_study.figures import FOLDER, to_image
from amc_study.figures.style import BAND, COLOURS, INK, MUTED, TINT, new_figure, styled
from amc_study.provenance import provenance
from amc_study.report.pages import Results
from amc_study.report.wording import signed
from amc_study.scenes.pictograms import ATTRIBUTION

PAGE_INCHES = (16.54, 23.39)  # A2 upright
DPI = 110
HEADING_INCHES = 0.55
PICTURES = (
    "method",
    "two_ways",
    "photos/asked",
    "qualitative",
    "photos/photographs",
    "photos/claims",
    "faithfulness_curves",
)
TABLES = ("table1", "photos/table1", "photos/claims")
TITLE = "Can explanations be trained to point at the right thing?"
SUBTITLE = (
    "Attention Map Consistency (AMC) for ALBEF, rebuilt and tested on photographs and on drawn scenes, "
    "at the scale of two CPU cores"
)
MOTIVATION = """\
Whoever wants to know where in a picture a phrase is meant usually asks a detector first: it proposes boxes, and a \
second model picks one. What the detector was never taught it may not propose.

A model that only tells whether phrase and picture match needs no boxes. Its match score, differentiated with respect \
to its own attention, gives a heatmap: an explanation. Left to itself it is only roughly in the right place.

AMC trains the explanation: where a box is known, the heat has to lie inside. Does the model then point better, also \
at things whose box it has never seen? And better than the detector's way?"""
TABLE_NOTE = (
    "Share of phrases whose point lies in their box, with 95 % intervals (bootstrap over images). never boxed: "
    "concepts without a box in finetuning. oracle: the best of the detector's proposals, a bound."
)
SOURCES = "AMC: Yang et al., CVPR 2023. ALBEF: Li et al., NeurIPS 2021. VMRM: Dou and Peng, EMNLP 2021."


@styled
def poster_figure(folder: Path) -> Figure:
    """The page for the files of `folder`; a picture that is missing leaves its place empty."""
    page, results = new_figure(*PAGE_INCHES), Results(folder)
    title, question, ways, outcome, beyond, foot = page.subfigures(6, 1, height_ratios=[1.5, 5.5, 6.2, 5.2, 4.7, 0.3])
    title.set_facecolor(BAND)
    title.text(0.03, 0.62, TITLE, fontsize=31, weight="bold", color="white", va="center")
    title.text(0.03, 0.25, SUBTITLE, fontsize=15, color="white", va="center")

    left, right = question.subfigures(1, 2, width_ratios=[0.42, 0.58])
    heading(left, "Motivation")
    left.text(0.05, 0.87, MOTIVATION, fontsize=13, va="top", linespacing=1.35, wrap=True)
    in_short(left, Results(folder / "photos"))
    picture(right, "Method", folder / "method.png")

    left, right = ways.subfigures(1, 2, width_ratios=[0.55, 0.45])
    picture(left, "Two ways to point", folder / "two_ways.png")
    above, below = right.subfigures(2, 1, height_ratios=[0.39, 0.61])
    picture(above, "Photographs: does it read the phrase?", folder / "photos" / "asked.png")
    heading(below, "Drawn scenes: pointing accuracy, %")
    accuracy_table(below, results)

    left, right = outcome.subfigures(1, 2, width_ratios=[0.67, 0.33])
    picture(left, "Examples, drawn by lot", folder / "qualitative.png")
    picture(right, "Before and after", folder / "photos" / "photographs.png")

    left, right = beyond.subfigures(1, 2)
    picture(left, "Claims, on photographs", folder / "photos" / "claims.png")
    picture(right, "Does the score rest on what the heatmap shows?", folder / "faithfulness_curves.png")
    foot.text(0.03, 0.4, f"{ATTRIBUTION}  {SOURCES}  Made by python -m amc_study.report.", fontsize=8, color=MUTED)
    return page


def heading(part: SubFigure, title: str) -> float:
    """A title over a line; returns the line's height as a share of the part's."""
    inches = part.bbox.height / part.figure.dpi
    line = 1 - HEADING_INCHES / inches
    part.text(0.05, line + 0.1 / inches, title, fontsize=17, weight="bold", color=BAND)
    part.add_artist(Line2D([0.05, 0.99], [line, line], color=BAND, linewidth=1.2))
    return line


def picture(part: SubFigure, title: str, path: Path) -> None:
    """A heading and, below it, the picture as large as there is room."""
    line = heading(part, title)
    axes = part.add_axes((0.05, 0.02, 0.94, line - 0.04))
    axes.axis("off")
    if path.is_file():
        axes.imshow(np.asarray(Image.open(path).convert("RGB")), interpolation="antialiased")
        axes.set_anchor("NW")


def in_short(part: SubFigure, results: Results) -> None:
    """The outcome on photographs, all phrases, as four large numbers on a tint."""
    box = part.add_axes((0.05, 0.02, 0.94, 0.2), facecolor=TINT)
    box.set(xticks=[], yticks=[], xlim=(0, 4), ylim=(0, 1))
    box.spines[:].set_visible(False)
    amc = {} if results.missing("table1") else results.accuracy("AMC", results.first_split())
    numbers = [
        (f"{amc['accuracy']:.1f} %" if amc else "–", "of phrases in photo-\ngraphs: AMC points\nat the right thing")
    ]
    for rival, concepts, words in (
        ("ALBEF finetuned", "all", "against finetuning\nwithout boxes"),
        ("ALBEF finetuned", "unboxed", "against it, on things\nthat never had a box"),
        ("VMRM", "all", "against the system\nwith a detector"),
    ):
        ahead = results.lead(rival, concepts=concepts)
        ends = f"points [{signed(ahead['ci_low'])}, {signed(ahead['ci_high'])}]\n" if ahead["claim"] else ""
        numbers.append((signed(ahead["difference"]), ends + words))
    for place, (number, words) in enumerate(numbers):
        box.text(place + 0.06, 0.78, number, fontsize=19, weight="bold", color=BAND, va="center")
        box.text(place + 0.06, 0.56, words, fontsize=9, va="top", linespacing=1.3)


def accuracy_table(part: SubFigure, results: Results) -> None:
    """Table 1, AMC's row on a tint, and what the columns mean."""
    if results.missing("table1"):
        return
    rows = results.table1().iloc[:, :5]
    axes = part.add_axes((0.05, 0.2, 0.94, 0.64))
    axes.axis("off")
    heads = ["", *(name.replace("phrases, ", "") for name in rows.columns[1:])]
    place = {"colWidths": [0.22, *[0.195] * 4], "loc": "upper left", "cellLoc": "right"}
    table = axes.table(rows.to_numpy(), colLabels=heads, **place)
    table.auto_set_font_size(False)
    table.scale(1, 1.85)
    for (row, column), cell in table.get_celld().items():
        system = rows.iloc[row - 1, 0] if row else ""
        colour = COLOURS.get(system, INK) if column == 0 else INK
        cell.set_text_props(fontsize=9.5, weight="normal" if row and column else "bold", color=colour)
        cell.set(edgecolor="white", facecolor=TINT if system == "AMC" else "white")
    part.text(0.05, 0.16, TABLE_NOTE, fontsize=10, color=MUTED, va="top", wrap=True, linespacing=1.35)


def main(folder: Path = FOLDER) -> None:
    figure = poster_figure(folder)
    to_image(figure, DPI).quantize(256, kmeans=5).save(png := io.BytesIO(), "PNG", optimize=True)
    figure.savefig(pdf := io.BytesIO(), format="pdf", dpi=DPI, metadata={"CreationDate": None})
    write_bytes(folder / "poster.png", png.getvalue())
    write_bytes(folder / "poster.pdf", pdf.getvalue())
    inputs = [*(f"{name}.png" for name in PICTURES), *(f"{name}.csv" for name in TABLES)]
    hashes = {name: sha256_of(folder / name) for name in inputs if (folder / name).is_file()}
    write_json(folder / "poster.json", provenance({"inputs": hashes}, seed=0))


if __name__ == "__main__":
    main()
