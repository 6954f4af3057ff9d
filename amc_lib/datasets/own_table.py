"""Regions of one's own: a table of boxes as CSV, beside the pictures that it names.

Columns, in any order: `image` (a path below the folder of the pictures, or a whole one), `phrase`, `x1`, `y1`, `x2`,
`y2` and, if wanted, `split` (one of SPLITS, the same for all rows of an image) and `unit` (of the box, one of UNITS;
without it pixels of the stored picture, and a table whose boxes look like something else is refused). Other tools'
names are known (SPELLINGS), and CSV in the forms of `csv_table`. Rows that share image and phrase are the boxes of one
region. Nothing is left out: a row that cannot be read is an error.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from amc_lib.datasets.box_forms import SIDES, as_size, fitting, require_form, room
from amc_lib.datasets.csv_table import (
    COLUMN_OF,
    COLUMNS,
    EDGES,
    OTHER_SPLITS,
    SPLITS,
    number_of,
    plain_name,
    read_table,
)
from amc_lib.datasets.image_files import ImageFile, open_image, reading, to_rgb
from amc_lib.datasets.pictures import require_upright
from amc_lib.datasets.records import Regions, region
from amc_lib.datasets.units import LOOKS, ROUNDED, UNITS, doubt, evident_unit, likely_unit, too_small, unit_of
from amc_lib.files import named_path
from amc_lib.regions import Box
from amc_lib.tokens import clean

BY_SIZE = ("x1", "y1", "width", "height")  # a box as some tools give it, in place of EDGES
UNCLEAR = {"x": "x1", "y": "y1", "w": "x2 (x + w)", "h": "y2 (y + h)"}  # x, y may also be the centre
UNCLEAR |= {"width": "x2 (x + width)", "height": "y2 (y + height)"}


class _Row(NamedTuple):
    image: str
    phrase: str
    words: str  # of the cleaned phrase
    box: Box  # in `unit`
    split: str
    unit: str  # "" where the table has no such column
    by_size: bool  # whether the box was given as BY_SIZE


def read(path: str | Path, images: str | Path | None = None) -> Regions:
    """The regions of a table, image by image in the order of first mention; `images` is the folder of the pictures.

    By default that is the table's own folder. Regions are named IMAGE-NUMBER; their split is "" where the table has
    no such column. Every picture is opened once. ValueError with one sentence that names the file and the first row
    at fault.
    """
    path = named_path(path)
    root = Path(os.path.abspath(path.parent if images is None else Path(images).expanduser()))
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of pictures")
    rows, faults, numbers, splits = {}, {}, {}, {}
    for number, cells in _cells(path):
        try:
            row = rows[number] = _row(cells, root)
            if (first := numbers.setdefault((row.image, row.words, row.box), number)) != number:
                raise ValueError(f"repeats row {first}")
            if (split := splits.setdefault(row.image, row.split)) != row.split:
                raise ValueError(f"{row.image} is in the split {split} in a row above")
        except ValueError as error:
            faults[number] = str(error)
    _refuse(path, faults)
    sizes = _sizes(path, rows, root)
    _refuse(path, _unit_faults(rows, sizes))
    rows = {number: row._replace(box=_in_pixels(row, sizes[row.image])) for number, row in rows.items()}
    try:
        given = (row for row in rows.values() if row.by_size)
        require_form(Counter(fitting(as_size(row.box), sizes[row.image]) for row in given), SIDES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _refuse(path, _box_faults(rows, sizes))
    grouped: dict[str, dict[str, list[_Row]]] = {}  # by image and words
    for row in rows.values():
        grouped.setdefault(row.image, {}).setdefault(row.words, []).append(row)
    return Regions(
        region(f"{image}-{n}", same[0].split, ImageFile(root / image), image, same[0].phrase, [row.box for row in same])
        for image, phrases in grouped.items()
        for n, same in enumerate(phrases.values())
    )


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number and cells by column of every row that is not empty."""
    table = read_table(path)
    columns = _columns(path, table.header, [name.lower() for name in table.names])
    if not table.rows:
        raise ValueError(f"{path}: holds no row below its header")
    for number, row in table.rows.items():
        cells = dict(zip(columns, row, strict=True))
        yield number, cells | {name: table.pointed(cells[name]) for name in {*EDGES, *BY_SIZE} & {*cells}}


def _columns(path: Path, header: int, names: Sequence[str]) -> list[str]:
    """The columns of a table by the names in its header. ValueError where one is unknown, missing or there twice."""
    columns = [COLUMN_OF.get(plain_name(name)) for name in names]
    box = BY_SIZE if {"width", "height"} & {*columns} else EDGES
    if set(columns) - {"split", "unit"} == {"image", "phrase", *box} and len(set(columns)) == len(columns):
        return columns
    there = ", ".join(name or "one without a name" for name in names)
    needed = f"the columns must be {', '.join(COLUMNS)} and perhaps split and unit; they are {there}"
    unclear = UNCLEAR if {"x", "y"} <= {*names} else {}  # else width and height are the picture's
    rename = ", ".join(f"{name} to {unclear[name]}" for name in names if name in unclear)
    command = f"or let 'python -m amc_lib.datasets import {path} TABLE.csv' convert it"
    raise ValueError(f"{path}, row {header}: {needed:.300}{rename and '; change '}{rename}, {command}")


def _row(cells: Mapping[str, str], root: Path) -> _Row:
    """ValueError for what can be seen to be wrong without the picture or another row."""
    edges = [number_of(name, cells[name]) for name in (BY_SIZE if "width" in cells else EDGES)]
    if "width" in cells:
        edges[2:] = edges[0] + edges[2], edges[1] + edges[3]
    try:
        words = clean(cells["phrase"])
    except ValueError as error:
        raise ValueError(f"the phrase {cells['phrase']!r} has no words") from error
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise ValueError("the box has no area: x1 must be smaller than x2, y1 than y2")
    split = cells.get("split", "train").lower()
    if (split := OTHER_SPLITS.get(split, split)) not in SPLITS:
        raise ValueError(f"the split {cells['split']!r} is none of {', '.join(SPLITS)}")
    split, unit = split if "split" in cells else "", unit_of(cells["unit"]) if "unit" in cells else ""
    image = _image_name(cells["image"], root)
    return _Row(image, cells["phrase"], words, tuple(edges), split, unit, "width" in cells)


def _image_name(cell: str, root: Path) -> str:
    """How a picture is called: by its path below the folder `root`, or the whole one where it lies elsewhere."""
    if not cell:
        raise ValueError("the cell image is empty")
    names = cell, os.path.expanduser(cell.replace("\\", "/"))  # as it is where such a file is there
    forms = (form for name in names for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    path = Path(os.path.normpath(root / next((form for form in forms if os.path.isfile(root / form)), names[1])))
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _refuse(path: Path, faults: Mapping[int, str]) -> None:
    """ValueError for the first of the faults, which are sentences by row number."""
    if faults:
        number, more = min(faults), len(faults) - 1
        others = f" (and {more} more rows are at fault)" if more else ""
        raise ValueError(f"{path}, row {number}: {faults[number]:.300}{others}")


def _sizes(path: Path, rows: Mapping[int, _Row], root: Path) -> dict[str, tuple[int, int]]:
    """(width, height) of every picture by its name. ValueError for the first one that does not open."""
    first = {row.image: number for number, row in reversed(rows.items())}
    sizes, broken = {}, {}
    for image in tqdm(dict.fromkeys(row.image for row in rows.values()), desc="reading pictures", unit="picture"):
        try:
            sizes[image] = _size(root / image)
        except ValueError as error:
            broken[first[image]] = str(error)
    _refuse(path, broken)
    return sizes


def _unit_faults(rows: Mapping[int, _Row], sizes: Mapping[str, tuple[int, int]]) -> dict[int, str]:
    """All rows whose boxes, taken together, do not look like what they say to be or, where they say nothing, pixels."""
    faults = {}
    for said in ("", "percent", "permille"):
        same = {number: (row.box, sizes[row.image]) for number, row in rows.items() if row.unit == said}
        if not said and (unit := likely_unit(same.values())):
            faults |= dict.fromkeys(same, f"the boxes of the table {doubt(unit, same.values())}")
        elif said and evident_unit(same.values()) == "share":
            look = f"the boxes look like {LOOKS['share']}"
            faults |= dict.fromkeys(same, f"the column unit says {said}, and {look}: let it say share")
    return faults


def _in_pixels(row: _Row, size: tuple[int, int]) -> Box:
    """The box of a row in a picture of `size` (width, height); what is outside by rounding alone ends at the edge."""
    whole, pixels = UNITS[row.unit or "pixel"], []
    for edge, side in zip(row.box, size * 2, strict=True):
        pixel, rounded = (edge * side / whole, ROUNDED * side) if whole else (edge, room(side))
        pixels.append(min(max(pixel, 0.0), float(side)) if -rounded <= pixel <= side + rounded else pixel)
    return tuple(pixels)


def _box_faults(rows: Mapping[int, _Row], sizes: Mapping[str, tuple[int, int]]) -> dict[int, str]:
    """Boxes in pixels that are tiny, or outside their picture; by row number."""
    if tiny := {number: too_small(row.box) for number, row in rows.items() if too_small(row.box)}:
        return tiny
    return {
        number: f"the box lies outside the image of {width} x {height}, or partly: was that resized after annotating?"
        for number, row in rows.items()
        for width, height in [sizes[row.image]]
        if min(row.box) < 0 or row.box[2] > width or row.box[3] > height
    }


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture, decoded whole. UnreadableImageError also for one that is stored turned."""
    with reading(path, path), open_image(path) as file:
        require_upright(file)
        return to_rgb(file).size
