"""Regions of one's own: a table of boxes as CSV, beside the pictures that it names.

Columns, in any order: `image` (a path below the folder of the pictures), `phrase`, `x1`, `y1`, `x2`, `y2` (pixels of
the stored picture) and, if wanted, `split` (one of SPLITS, the same for all rows of an image). Rows that share image
and phrase are the boxes of one region. UTF-8. Rows are counted as spreadsheets do: the header is row 1. Nothing is
left out: a row that cannot be read is an error.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from PIL import ExifTags
from tqdm.auto import tqdm

from amc_lib.datasets.image_files import ImageFile, open_image, reading, to_rgb
from amc_lib.datasets.records import Regions, read_text, region
from amc_lib.files import named_path
from amc_lib.regions import Box
from amc_lib.tokens import clean

EDGES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", "phrase", *EDGES)
SPLITS = ("train", "val", "test")
OTHER_NAMES = {  # in the tables of annotation tools
    **{"filename": "image", "file_name": "image", "file": "image", "path": "image"},
    **{"class": "phrase", "label": "phrase", "caption": "phrase", "text": "phrase"},
    **{"xmin": "x1", "ymin": "y1", "xmax": "x2", "ymax": "y2", "x": "x1", "y": "y1"},
    **{"w": "x2 (x + w)", "h": "y2 (y + h)", "width": "x2 (x + width)", "height": "y2 (y + height)"},
}
ROUNDED = 0.01  # by how much of the side a box may lie outside, where it was rounded or drawn by hand
PERCENT_SIDE = 300  # pixels: boxes in larger pictures that all end below 100 are in percent


class _Row(NamedTuple):
    image: str
    phrase: str
    words: str  # of the cleaned phrase
    box: Box
    split: str


def read(path: str | Path, images: str | Path | None = None) -> Regions:
    """The regions of a table, image by image in the order of first mention; `images` is the folder of the pictures.

    By default that is the table's own folder. Regions are named IMAGE-NUMBER; their split is "" where the table has
    no such column. Every picture is opened once. ValueError with one sentence that names the file and the first row
    at fault.
    """
    path = named_path(path)
    root = path.parent if images is None else Path(images).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root.absolute()}: no such folder of pictures")
    rows, faults, numbers, splits = {}, {}, {}, {}
    for number, cells in _cells(path):
        try:
            row = rows[number] = _row(cells)
            if (first := numbers.setdefault((row.image, row.words, row.box), number)) != number:
                raise ValueError(f"repeats row {first}")
            if (split := splits.setdefault(row.image, row.split)) != row.split:
                raise ValueError(f"{row.image} is in the split {split} in a row above")
        except ValueError as error:
            faults[number] = str(error)
    _refuse(path, faults)
    _refuse(path, _picture_faults(rows, root))
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
    text = read_text(path)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    kept = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, **kept).fillna("")
    except ValueError as error:  # of pandas, also for an empty file
        raise ValueError(f"{path}: is not a CSV table: {error}") from error
    names = [str(name).strip().lower() for name in table.columns]
    unknown = [name for name in names if name not in (*COLUMNS, "split")]
    require_header(path, names)
    if unknown or not set(COLUMNS) <= set(names):
        needed = f"the columns must be {', '.join(COLUMNS)} and perhaps split; they are {', '.join(names)}"
        corners = {"xmax", "ymax", "x2", "y2"} & set(names)  # beside which width and height are the picture's
        other = {name: new for name, new in OTHER_NAMES.items() if not (corners and "+" in new)}
        rename = ", ".join(f"{name} to {other[name]}" for name in unknown if name in other)
        command = f"or let 'python -m amc_lib.datasets import {path} TABLE.csv' convert it"
        raise ValueError(f"{path}, row 1: {needed:.300}{rename and '; change '}{rename}, {command}")
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: a row has more cells than the header has names")
    table = table.set_axis(names, axis=1).apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise ValueError(f"{path}: holds no row below its header")
    return zip(table.index + 2, table.to_dict("records"), strict=True)


def require_header(path: Path, names: Iterable[str]) -> None:
    """ValueError where the first row of a table, its `names`, holds numbers."""
    if any(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        raise ValueError(f"{path}: has no header: put the line {','.join(COLUMNS)} above the first row")


def _row(cells: Mapping[str, str]) -> _Row:
    """ValueError for what can be seen to be wrong without the picture or another row."""
    edges = []
    for name in EDGES:
        try:
            edges.append(float(cells[name]))
        except ValueError:
            edges.append(math.nan)
        if not math.isfinite(edges[-1]):
            raise ValueError(f"{name} is {cells[name]!r}, which is not a number")
    try:
        words = clean(cells["phrase"])
    except ValueError as error:
        raise ValueError(f"the phrase {cells['phrase']!r} has no words") from error
    image = PurePosixPath(cells["image"])
    if image.is_absolute() or ".." in image.parts or not image.name:
        raise ValueError(f"the image {cells['image']!r} is not a file below the folder of the pictures")
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise ValueError("the box has no area: x1 must be smaller than x2, y1 than y2")
    if (split := cells.get("split", "train")) not in SPLITS:
        raise ValueError(f"the split {split!r} is none of {', '.join(SPLITS)}")
    return _Row(image.as_posix(), cells["phrase"], words, tuple(edges), cells.get("split", ""))


def _refuse(path: Path, faults: Mapping[int, str]) -> None:
    """ValueError for the first of the faults, which are sentences by row number."""
    if faults:
        number, more = min(faults), len(faults) - 1
        others = f" (and {more} more rows are at fault)" if more else ""
        raise ValueError(f"{path}, row {number}: {faults[number]:.300}{others}")


def _picture_faults(rows: Mapping[int, _Row], root: Path) -> dict[int, str]:
    """Pictures that do not open, boxes that are not in pixels, or boxes outside their picture; by row number."""
    first = {row.image: number for number, row in reversed(rows.items())}
    sizes, broken = {}, {}  # sizes: (width, height)
    for image in tqdm(dict.fromkeys(row.image for row in rows.values()), desc="reading pictures", unit="picture"):
        try:
            sizes[image] = _size(root / image)
        except ValueError as error:
            broken[first[image]] = str(error)
    if broken:
        return broken
    largest, look = max(max(row.box) for row in rows.values()), "the boxes of the table look like"
    if largest <= 1 + ROUNDED:
        sentence = f"{look} shares of the sides (0 to 1): multiply x by the picture's width and y by its height"
        return dict.fromkeys(rows, sentence)
    if 50 < largest <= 100 * (1 + ROUNDED) and min(map(min, sizes.values())) >= PERCENT_SIDE:
        sentence = f"{look} percent of the sides: multiply x by the picture's width / 100, y by its height / 100"
        return dict.fromkeys(rows, sentence)
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
