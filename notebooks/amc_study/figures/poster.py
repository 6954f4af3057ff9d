"""The study on one page: motivation, method, both ways to point, table 1, examples, results, claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from amc_study.figures.style import BAND, COLOURS, HIT, INK, MISS, MUTED, RULE, TINT, new_figure, styled

PAGE_INCHES = (16.54, 23.39)  # A2 upright, half the sides of A0
WIDE = 1600.0
"""Width of the page in the units of this file; what is 16 units high is 16 pixels high on a screen of that width."""

HIGH = WIDE * PAGE_INCHES[1] / PAGE_INCHES[0]
POINTS = 72 * PAGE_INCHES[0] / WIDE  # of one unit
TITLE, SUBTITLE, NUMBER, HEADING, BODY, TABLE, SMALL = 41, 20, 28, 22, 16, 15, 13  # sizes of type, units
LEADING = 1.42  # of lines of text, in sizes of type
MARGIN, GUTTER, GAP, HEAD, FOOT = 44.0, 36.0, 22.0, 44.0, 44.0  # GAP between rows, HEAD for a part's heading
RIGHT = WIDE - MARGIN
ROUNDED = 1.02  # by so much letters may be further apart on pixels than on paper
GOOD, BAD, OPEN = "good", "bad", "open"
VERDICT_COLOURS = {GOOD: HIT, BAD: MISS, OPEN: MUTED}


@dataclass(frozen=True)
class Picture:
    """A figure of the study: uint8 [H, W, 3]."""

    pixels: np.ndarray

    @property
    def tall(self) -> float:
        """Height as a share of the width."""
        return self.pixels.shape[0] / self.pixels.shape[1]


@dataclass(frozen=True)
class Verdict:
    """A claim in a row: what is said, the difference as text, what follows and whether that is GOOD, BAD or OPEN."""

    claim: str
    numbers: str
    verdict: str
    tone: str


@dataclass(frozen=True)
class Poster:
    """All that stands on the page. `rows`: heading, then a row for each system. `claims`: lists under their titles."""

    title: str
    subtitle: str
    motivation: Sequence[str]  # paragraphs
    short: Sequence[tuple[str, str]]  # a number as text, and what it says
    method: Picture
    two_ways: Picture
    rows: Sequence[Sequence[str]]
    rows_note: str
    findings: Sequence[tuple[str, str]]  # what about, and what was found
    examples: Sequence[Picture]
    examples_note: str
    results: Picture
    claims: Sequence[tuple[str, Sequence[Verdict]]]
    footer: str


@styled
def poster_figure(poster: Poster) -> Figure:
    """Draw the page in four rows below the title."""
    page = _Page()
    page.band(poster.title, poster.subtitle)
    bottom = _question(page, poster, 164.0)
    bottom = _answers(page, poster, bottom + GAP)
    bottom = _outcome(page, poster, bottom + GAP)
    _claims(page, poster, bottom + GAP)
    page.footer(poster.footer)
    return page.figure


def _question(page: _Page, poster: Poster, top: float) -> float:
    """On the left why it is asked and what came out in short, on the right the method."""
    method, left = 880.0, RIGHT - MARGIN - GUTTER - 880.0
    page.heading("Motivation", MARGIN, top, left)
    below = page.paragraphs(poster.motivation, MARGIN, top + HEAD, left)
    page.heading("Method", RIGHT - method, top, method)
    bottom = page.picture(poster.method, RIGHT - method, top + HEAD, method)
    page.numbers(poster.short, MARGIN, below + 14, left, bottom - below - 14)
    return bottom


def _answers(page: _Page, poster: Poster, top: float) -> float:
    """On the left one phrase answered both ways, on the right table 1 and what can be read off it."""
    ways = 850.0
    page.heading("Two ways to point", MARGIN, top, ways)
    bottom = page.picture(poster.two_ways, MARGIN, top + HEAD, ways)
    x = MARGIN + ways + GUTTER
    page.heading("Pointing accuracy, %", x, top, RIGHT - x)
    below = page.table(poster.rows, x, top + HEAD, RIGHT - x)
    below = page.paragraphs([poster.rows_note], x, below + 6, RIGHT - x, SMALL, MUTED)
    below = page.findings(poster.findings, x, below + 10, RIGHT - x)
    return max(bottom, below)


def _outcome(page: _Page, poster: Poster, top: float) -> float:
    """Examples on the left and the accuracies on the right, both as high as each other."""
    tall = sum(example.tall for example in poster.examples)
    left = (RIGHT - MARGIN - GUTTER) * poster.results.tall / (tall + poster.results.tall)
    page.heading("Examples", MARGIN, top, left)
    bottom = top + HEAD
    for example in poster.examples:
        bottom = page.picture(example, MARGIN, bottom, left)
    x = MARGIN + left + GUTTER
    page.heading("Results with their intervals", x, top, RIGHT - x)
    page.picture(poster.results, x, top + HEAD, RIGHT - x)
    return page.paragraphs([poster.examples_note], MARGIN, bottom + 4, RIGHT - MARGIN, SMALL, MUTED)


def _claims(page: _Page, poster: Poster, top: float) -> None:
    """The lists of claims side by side, in lines as high as there is room."""
    width = (RIGHT - MARGIN - GUTTER * (len(poster.claims) - 1)) / len(poster.claims)
    most = max(len(verdicts) for _, verdicts in poster.claims)
    line = min(28.0, (HIGH - FOOT - top - HEAD) / most)
    for number, (title, verdicts) in enumerate(poster.claims):
        x = MARGIN + number * (width + GUTTER)
        page.heading(title, x, top, width)
        page.verdicts(verdicts, x, top + HEAD, width, line)


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """The text in lines of at most `width` units when it is set in type of `size` units."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and extent(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def extent(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in units, as it is when letters are set at whole pixels."""
    font = FontProperties(family="DejaVu Sans", size=size * POINTS, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * ROUNDED / POINTS


class _Page:
    """A page on which things are put by their upper left corner, in units; what is put says where it ends below."""

    def __init__(self) -> None:
        self.figure = new_figure(*PAGE_INCHES)
        self.sheet = self.figure.add_axes((0, 0, 1, 1))
        self.sheet.set(xlim=(0, WIDE), ylim=(HIGH, 0))
        self.sheet.axis("off")

    def text(self, x: float, y: float, text: str, size: float, **look: object) -> None:
        """One line whose middle is at height y."""
        look = {"va": "center", "ha": "left", "color": INK} | look
        self.sheet.text(x, y, text, fontsize=size * POINTS, **look)

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.sheet.add_patch(Rectangle((x, y), width, height, facecolor=colour, linewidth=0))

    def rule(self, x: float, y: float, width: float, colour: str = RULE, thickness: float = 0.8) -> None:
        self.sheet.plot([x, x + width], [y, y], color=colour, linewidth=thickness, solid_capstyle="butt")

    def band(self, title: str, subtitle: str) -> None:
        self.rectangle(0, 0, WIDE, 140, BAND)
        self.text(MARGIN, 54, title, TITLE, color="white", weight="bold")
        self.text(MARGIN, 105, subtitle, SUBTITLE, color="white")

    def heading(self, title: str, x: float, y: float, width: float) -> None:
        self.text(x, y + 13, title, HEADING, weight="bold", color=BAND)
        self.rule(x, y + 31, width, BAND, 1.6)

    def lines(self, lines: Sequence[str], x: float, y: float, size: float, **look: object) -> float:
        for number, line in enumerate(lines):
            self.text(x, y + (number + 0.5) * LEADING * size, line, size, **look)
        return y + len(lines) * LEADING * size

    def paragraphs(
        self, paragraphs: Sequence[str], x: float, y: float, width: float, size: float = BODY, colour: str = INK
    ) -> float:
        for number, paragraph in enumerate(paragraphs):
            y += 0.55 * size if number else 0
            y = self.lines(wrapped(paragraph, width, size), x, y, size, color=colour)
        return y

    def findings(self, findings: Sequence[tuple[str, str]], x: float, y: float, width: float) -> float:
        for about, found in findings:
            y = self.lines([about], x, y, BODY, weight="bold")
            y = self.paragraphs([found], x, y, width) + 6
        return y

    def numbers(self, numbers: Sequence[tuple[str, str]], x: float, y: float, width: float, height: float) -> None:
        """Large numbers side by side on a tint, with what they say below them."""
        self.rectangle(x, y, width, height, TINT)
        column = (width - 14) / len(numbers)
        for place, (number, said) in enumerate(numbers):
            left = x + 14 + place * column
            self.text(left, y + 30, number, NUMBER, weight="bold", color=BAND)
            self.paragraphs([said], left, y + 54, column - 12, SMALL)

    def picture(self, picture: Picture, x: float, y: float, width: float) -> float:
        height = width * picture.tall
        place = (x / WIDE, 1 - (y + height) / HIGH, width / WIDE, height / HIGH)
        axes: Axes = self.figure.add_axes(place)
        axes.imshow(picture.pixels, interpolation="antialiased", aspect="auto")
        axes.axis("off")
        return y + height

    def table(self, rows: Sequence[Sequence[str]], x: float, y: float, width: float) -> float:
        """The first column on the left, the others right-aligned in equal columns; AMC's row on a tint."""
        high, first = 27.0, 0.25 * width
        column = (width - first - 8) / (len(rows[0]) - 1)
        for number, row in enumerate(rows):
            middle = y + (number + 0.5) * high
            bold = {"weight": "bold"} if number == 0 else {}
            if row[0] == "AMC":
                self.rectangle(x, y + number * high, width, high, TINT)
            self.text(x + 8, middle, row[0], TABLE, color=COLOURS.get(row[0], INK), weight="bold")
            for place, cell in enumerate(row[1:], start=1):
                self.text(x + first + place * column, middle, cell, TABLE, ha="right", **bold)
            self.rule(x, y + (number + 1) * high, width, INK if number == 0 else RULE)
        return y + len(rows) * high

    def verdicts(self, verdicts: Sequence[Verdict], x: float, y: float, width: float, high: float) -> None:
        for number, one in enumerate(verdicts):
            middle = y + (number + 0.5) * high
            self.text(x, middle, one.claim, SMALL)
            self.text(x + 0.78 * width, middle, one.numbers.replace("-", "−"), SMALL, ha="right", color=MUTED)
            look = {"color": VERDICT_COLOURS[one.tone], "weight": "bold"}
            self.text(x + width, middle, one.verdict, SMALL, ha="right", **look)
            self.rule(x, y + (number + 1) * high, width)

    def footer(self, text: str) -> None:
        self.text(MARGIN, HIGH - 20, text, SMALL, color=MUTED)
