"""Regions of one's own: a table of boxes as CSV, beside the pictures that it names.

Columns, in any order: `image` (a path below the folder of the pictures, or a whole one), `phrase`, `x1`, `y1`, `x2`,
`y2` and, if wanted, `split` (one of SPLITS, the same for all rows of an image) and `unit` (of the box, one of UNITS;
without it pixels of the stored picture, and a table whose boxes look like something else is refused). Other tools'
names are known (SPELLINGS). Rows that share image and phrase are the boxes of one region. UTF-8, UTF-16 or Windows'
cp1252; between semicolons numbers may have a decimal comma. Rows are counted as spreadsheets do: the header is row 1.
Nothing is left out: a row that cannot be read is an error.
"""

from __future__ import annotations

import io
import math
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import ExifTags
from tqdm.auto import tqdm

from amc_lib.datasets.image_files import ENDINGS, ImageFile, open_image, reading, to_rgb
from amc_lib.datasets.records import Regions, read_text, region
from amc_lib.datasets.units import LOOKS, ROUNDED, other_unit
from amc_lib.files import named_path
from amc_lib.regions import Box
from amc_lib.tokens import clean

EDGES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", "phrase", *EDGES)
SPLITS = ("train", "val", "test")
OTHER_SPLITS = {"training": "train", "valid": "val", "validation": "val"}
UNITS = {"pixel": None, "percent": 100, "share": 1}  # of a box: how many are a side of the picture
BY_SIZE = ("x1", "y1", "width", "height")  # a box as some tools give it, in place of EDGES
SPELLINGS = {  # of the columns, small and without signs; edges also with "bbox" before
    "image": "image imageid imagepath imagename imagefile file filename filepath path img imgpath imgname",
    "phrase": "phrase sentence caption text label labelname class classname category categoryname name",
    **{"x1": "x1 xmin left bboxx", "y1": "y1 ymin top bboxy", "x2": "x2 xmax right", "y2": "y2 ymax bottom"},
    **{"width": "bboxw bboxwidth", "height": "bboxh bboxheight", "split": "split", "unit": "unit"},
}
COLUMN_OF = {spelling: column for column, spellings in SPELLINGS.items() for spelling in spellings.split()}
UNCLEAR = {"x": "x1", "y": "y1", "w": "x2 (x + w)", "h": "y2 (y + h)"}  # x, y may also be the centre
UNCLEAR |= {"width": "x2 (x + width)", "height": "y2 (y + height)"}
OFFICE = b"PK\3\4", b"\xd0\xcf\x11\xe0"  # how a workbook begins (xlsx and ods, xls)
NUMBER = re.compile(r"-?\d+([.,]\d+)?")


class _Row(NamedTuple):
    image: str
    phrase: str
    words: str  # of the cleaned phrase
    box: Box  # in `unit`
    split: str
    unit: str  # "" where the table has no such column


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
    text = _text(path)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    kept = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, **kept).fillna("")
    except ValueError as error:  # of pandas, also for an empty file
        raise ValueError(f"{path}: is not a CSV table: {error}") from error
    names = [str(name).strip().lower() for name in table.columns]
    require_header(path, names, separator)
    columns = _columns(path, names)
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: a row has more cells than the header has names")
    table = table.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    if separator == ";":
        table = table.assign(**table.filter([*EDGES, *BY_SIZE]).replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True))
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ValueError(f"{path}: holds no row below its header")
    return zip(table.index + 2, table.to_dict("records"), strict=True)


def _text(path: Path) -> str:
    """The text of a table in UTF-8, UTF-16 or, which is said, Windows' cp1252. ValueError naming the file."""
    try:
        return read_text(path)
    except ValueError as error:
        data = path.read_bytes() if isinstance(error.__cause__, UnicodeDecodeError) else b""
        if data.startswith(OFFICE):
            raise ValueError(f"{path}: is a workbook of a spreadsheet program: save the sheet as CSV") from error
        encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "cp1252"
        text = data.decode(encoding, errors="replace")
        if not text or {"\0", "\ufffd"} & {*text}:  # as no text holds them
            raise
    if encoding == "cp1252":
        print(f"{path}: is not UTF-8, and is read as Windows' cp1252; if letters come out wrong, save it as UTF-8")
    return text


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    """The columns of a table by the names in its header. ValueError where one is unknown, missing or there twice."""
    signless = [re.sub(r"[\W_]", "", name) for name in names]
    columns = [COLUMN_OF.get(name) or COLUMN_OF.get(name.removeprefix("bbox")) for name in signless]
    box = BY_SIZE if {"width", "height"} & {*columns} else EDGES
    if set(columns) - {"split", "unit"} == {"image", "phrase", *box} and len(set(columns)) == len(columns):
        return columns
    needed = f"the columns must be {', '.join(COLUMNS)} and perhaps split and unit; they are {', '.join(names)}"
    unclear = UNCLEAR if {"x", "y"} <= {*names} else {}  # else width and height are the picture's
    rename = ", ".join(f"{name} to {unclear[name]}" for name in names if name in unclear)
    command = f"or let 'python -m amc_lib.datasets import {path} TABLE.csv' convert it"
    raise ValueError(f"{path}, row 1: {needed:.300}{rename and '; change '}{rename}, {command}")


def require_header(path: Path, names: Iterable[str], separator: str = ",") -> None:
    """ValueError where the first row of a table, its `names`, holds numbers: with a header that fits their order."""
    names, edges = list(names), iter(EDGES)
    if any(map(NUMBER.fullmatch, names)):
        fitting = [next(edges, "") if NUMBER.fullmatch(name) else _kind_of(name) for name in names]
        header = fitting if {*fitting} - {"split"} == {*COLUMNS} and len({*fitting}) == len(names) else COLUMNS
        raise ValueError(f"{path}: has no header: put the line {separator.join(header)} above the first row")


def _kind_of(cell: str) -> str:
    """The column in which a text, in small letters, seems to stand."""
    if cell.endswith(ENDINGS):
        return "image"
    return "split" if cell in (*SPLITS, *OTHER_SPLITS) else "phrase"


def _row(cells: Mapping[str, str], root: Path) -> _Row:
    """ValueError for what can be seen to be wrong without the picture or another row."""
    edges = [_number(name, cells[name]) for name in (BY_SIZE if "width" in cells else EDGES)]
    if "width" in cells:
        edges[2:] = edges[0] + edges[2], edges[1] + edges[3]
    try:
        words = clean(cells["phrase"])
    except ValueError as error:
        raise ValueError(f"the phrase {cells['phrase']!r} has no words") from error
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise ValueError("the box has no area: x1 must be smaller than x2, y1 than y2")
    split, unit = cells.get("split", "train").lower(), cells.get("unit", "pixel").lower().removesuffix("s")
    if (split := OTHER_SPLITS.get(split, split)) not in SPLITS:
        raise ValueError(f"the split {cells['split']!r} is none of {', '.join(SPLITS)}")
    if unit not in UNITS:
        raise ValueError(f"the unit {cells['unit']!r} is none of {', '.join(UNITS)}")
    split, unit = (said if name in cells else "" for name, said in (("split", split), ("unit", unit)))
    return _Row(_image_name(cells["image"], root), cells["phrase"], words, tuple(edges), split, unit)


def _number(name: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {cell!r}, which is not a number")
    return number


def _image_name(cell: str, root: Path) -> str:
    """How a picture is called: by its path below the folder `root`, or the whole one where it lies elsewhere."""
    if not cell:
        raise ValueError("the cell image is empty")
    if not os.path.isfile(root / cell):  # else its signs are part of a name
        cell = os.path.expanduser(cell.replace("\\", "/"))
    path = Path(os.path.normpath(root / cell))
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
    """All rows of a table that says no unit and whose boxes, taken together, do not look like pixels."""
    largest = max(max(row.box) for row in rows.values())
    if not (unit := other_unit(largest, (max(sizes[row.image]) for row in rows.values()))):
        return {}
    remedy = f"add a column unit that says {unit} in every row, or pixel if that is what they are"
    faults = dict.fromkeys(rows, f"the boxes of the table look like {LOOKS[unit]}: {remedy}")
    return {number: fault for number, fault in faults.items() if not rows[number].unit}


def _in_pixels(row: _Row, size: tuple[int, int]) -> Box:
    """The box of a row in a picture of `size` (width, height); what is outside by rounding alone ends at the edge."""
    if not (whole := UNITS[row.unit or "pixel"]):
        return row.box
    shares = (edge / whole for edge in row.box)
    inside = (min(max(share, 0.0), 1.0) if -ROUNDED <= share <= 1 + ROUNDED else share for share in shares)
    return tuple(share * side for share, side in zip(inside, size * 2, strict=True))


def _box_faults(rows: Mapping[int, _Row], sizes: Mapping[str, tuple[int, int]]) -> dict[int, str]:
    """Boxes in pixels that are tiny, or outside their picture; by row number."""
    if tiny := [number for number, row in rows.items() if row.box[2] - row.box[0] < 1 and row.box[3] - row.box[1] < 1]:
        return dict.fromkeys(tiny, "the box is smaller than a pixel: is it given as shares of the sides?")
    return {
        number: f"the box lies outside the image of {width} x {height}, or partly"
        for number, row in rows.items()
        for width, height in [sizes[row.image]]
        if min(row.box) < 0 or row.box[2] > width or row.box[3] > height
    }


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture, decoded whole. UnreadableImageError also for one that is stored turned."""
    with reading(path, path), open_image(path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation)
        if turned in range(2, 9):
            raise ValueError(f"it is stored turned (EXIF orientation {turned}), so boxes are unclear; save it upright")
        return to_rgb(file).size
