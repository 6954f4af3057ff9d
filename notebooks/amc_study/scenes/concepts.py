"""The things a scene can show, and their parts that have names: `concepts.csv` and `parts.csv`.

A name is what a person would type, not Unicode's. Two concepts of the same `kin` never share a scene, because a
phrase that names one would also be true of the other ("car" of a taxi) or look so ("horse" of a jockey's horse).
A fifth of each category is not `annotated`: no box in finetuning ever shows it.
"""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from amc_lib.regions import Box

PATTERNS = ("striped", "spotted")


@dataclass(frozen=True)
class Concept:
    """One thing with a name, drawn by one glyph of the OpenMoji font.

    `fill` names the families of the font's palette that `colours` replace; a concept without colours is drawn and
    named as it is. The colour of people is that of their clothes: "wizard in blue".
    """

    category: str
    name: str
    plural: str
    character: str
    fill: tuple[str, ...]
    colours: tuple[str, ...]
    patterns: tuple[str, ...]
    kin: str
    annotated: bool


@dataclass(frozen=True)
class Part:
    """A part of a pictogram with a name: xyxy rectangles as shares of the upright glyph's width and height."""

    name: str
    boxes: tuple[Box, ...]


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of a table beside this file."""
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _concept(row: dict[str, str]) -> Concept:
    lists = {name: tuple(row[name].split()) for name in ("fill", "colours", "patterns")}
    return Concept(**row | lists | {"annotated": row["annotated"] == "yes"})


def _parts() -> dict[str, tuple[Part, ...]]:
    """Parts by the name of their concept; rows of one part follow one another."""
    parts: dict[str, tuple[Part, ...]] = {}
    for (concept, name), rows in groupby(read_table("parts.csv"), lambda row: (row["concept"], row["part"])):
        boxes = tuple(tuple(float(row[edge]) for edge in ("x1", "y1", "x2", "y2")) for row in rows)
        parts[concept] = (*parts.get(concept, ()), Part(name, boxes))
    return parts


CONCEPTS: tuple[Concept, ...] = tuple(map(_concept, read_table("concepts.csv")))
PARTS = _parts()
