"""The boxes in the CSV of annotation tools, as they were drawn.

| kind | known by |
|---|---|
| VIA 2 | a column `region_shape_attributes`: rectangles |
| Label Studio | columns `annotator` and `annotation_id`: JSON_MIN in cells |
| table | a column for the picture, one for the label (SPELLINGS) and those of one of FORMS |

A column `unit` is that of `own_table`; without it boxes that all lie within 0 to 1 are shares. Columns `width` and
`height` that are not the box's, or `image_width` and `image_height`, are the picture's where the box was drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from amc_lib.datasets import label_studio
from amc_lib.datasets.annotation_files import Annotations, Drawn, via_box
from amc_lib.datasets.box_forms import around
from amc_lib.datasets.csv_table import SPELLINGS, Table, plain_name, read_table
from amc_lib.datasets.image_files import ENDINGS
from amc_lib.datasets.records import box_from_size, box_xyxy
from amc_lib.datasets.units import LOOKS, are_shares, unit_of
from amc_lib.regions import Box

CODES = {  # of classes: what may stand in the place of their names -> what that is
    re.compile(r"[-+]?\d+([.,]\d+)?"): "bare numbers, as of classes",
    re.compile(r"/[mg]/\w+"): "Open Images' codes of classes, whose names its file class-descriptions lists",
}
ACROSS, DOWN = "bboxw bboxwidth w width", "bboxh bboxheight h height"
FORMS: Sequence[tuple[Callable[..., Box], list[str]]] = (  # what makes a box xyxy, and the spellings of its columns
    (box_xyxy, ["x0 bboxx0", "y0 bboxy0", "x1 bboxx1", "y1 bboxy1"]),
    (box_xyxy, [SPELLINGS[edge] for edge in ("x1", "y1", "x2", "y2")]),
    (around, ["xcenter xcentre centerx centrex cx xc", "ycenter ycentre centery centrey cy yc", ACROSS, DOWN]),
    (box_from_size, [f"x {SPELLINGS['x1']}", f"y {SPELLINGS['y1']}", ACROSS, DOWN]),
)


def read_csv_file(path: Path, phrase: str | None) -> Annotations:
    """ValueError for a file that has no header, or not the columns."""
    table = read_table(path)
    if {*label_studio.OF_MIN} <= {*table.names}:
        content = [dict(zip(table.names, map(_value, cells), strict=True)) for cells in table.rows.values()]
        yield from label_studio.tasks(path, content, phrase)
        return
    if "region_shape_attributes" in table.names:
        shape = table.names.index("region_shape_attributes")
        rows = {number: cells for number, cells in table.rows.items() if cells[shape] != "{}"}  # else no region
        read = partial(_via_row, table.names, phrase)
    else:
        rows, read = table.rows, _boxes(path, table, phrase)
    for number, cells in rows.items():
        yield f"{path}, row {number}", partial(read, cells)


def _value(cell: str) -> Any:
    """A cell, which may hold JSON."""
    with suppress(ValueError):
        return json.loads(cell)
    return cell


def _via_row(names: Sequence[str], phrase: str | None, cells: Sequence[str]) -> Drawn:
    row = dict(zip((name.removeprefix("#") for name in names), cells, strict=True))  # VIA 1 has #filename
    shape, attributes = (json.loads(row[f"region_{kind}"] or "{}") for kind in ("shape_attributes", "attributes"))
    return via_box(row["filename"], phrase, {"shape_attributes": shape, "region_attributes": attributes})


def _boxes(path: Path, table: Table, phrase: str | None) -> Callable[[list[str]], Drawn]:
    """What reads the cells of a row. ValueError for a table without the columns."""
    places = {plain_name(name): place for place, name in reversed([*enumerate(table.names)])}

    def find(spellings: str, *taken: int) -> int | None:
        return next((place for place in _there(places, spellings) if place not in taken), None)

    names = [name.lower() for name in table.names]
    if phrase and phrase.lower() not in names:
        raise ValueError(f"{path}: has no column {phrase}; it has {', '.join(names)}")
    image = _best(table, places, "image", _names_pictures)
    text = names.index(phrase.lower()) if phrase else _best(table, places, "phrase", _holds_words)
    split, unit = find(SPELLINGS["split"]), find(SPELLINGS["unit"])
    forms = ((made, [find(spellings) for spellings in columns]) for made, columns in FORMS)
    made, edges = next((form for form in forms if None not in form[1]), (None, []))
    if image is None or text is None or made is None:
        needed = "a column for the picture, one for the label, and xmin, ymin, xmax, ymax or x, y, w, h"
        raise ValueError(f"{path}: its first row must name {needed}; it has {', '.join(names)}")
    labels = [cells[text] for cells in table.rows.values() if cells[text]]
    if not phrase and (what := _codes(labels)):
        remedy = f"name another column by --phrase, or {table.names[text]} if these are the names"
        raise ValueError(f"{path}: all its labels are {what} ({labels[0]}): {remedy}")
    sides = [find(f"image{side} img{side} {side}", *edges) for side in ("width", "height")]
    whole = "share" if unit is None and _in_shares(path, table, edges) else ""

    def read(cells: list[str]) -> Drawn:
        box = made(*(table.number(cells, place) for place in edges))
        size = tuple(0.0 if side is None or not cells[side] else table.number(cells, side) for side in sides)
        said = whole if unit is None else unit_of(cells[unit])
        kept = "" if split is None else cells[split]
        return Drawn([cells[image]], cells[text], box, size if all(size) else None, kept, said, made is box_from_size)

    return read


def _there(places: Mapping[str, int], spellings: str) -> list[int]:
    """The columns with one of the spellings, the best first."""
    return [places[spelling] for spelling in spellings.split() if spelling in places]


def _best(table: Table, places: Mapping[str, int], column: str, good: Callable[[list[str]], bool]) -> int | None:
    """Of the columns that may be `column`, the first whose cells are good, else the first."""
    there = _there(places, SPELLINGS[column])
    cells = {place: [row[place] for row in table.rows.values() if row[place]] for place in there}
    return next((place for place in there if good(cells[place])), next(iter(there), None))


def _names_pictures(cells: list[str]) -> bool:
    return any(cell.lower().endswith(ENDINGS) for cell in cells)


def _holds_words(cells: list[str]) -> bool:
    return bool(cells) and not _codes(cells) and not _names_pictures(cells)


def _codes(labels: list[str]) -> str:
    """What labels are that all are CODES; "" where one of them is not, or without any."""
    return next((what for code, what in CODES.items() if labels and all(map(code.fullmatch, labels))), "")


def _in_shares(path: Path, table: Table, edges: Sequence[int]) -> bool:
    """Whether no edge and no side of a box lies beyond 1, which is said."""
    sides = []  # of the boxes, or edges
    for cells in table.rows.values():
        with suppress(ValueError):  # named when it is read
            sides.append(tuple(table.number(cells, place) for place in edges))
    if shares := are_shares(sides):
        print(f"{path}: its boxes are read as {LOOKS['share']}")
    return shares
