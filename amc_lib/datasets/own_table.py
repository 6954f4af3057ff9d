"""Regions of one's own: a table of boxes as CSV, beside the pictures that it names.

Columns, in any order: `image` (a path below the folder of the pictures), `phrase`, `x1`, `y1`, `x2`, `y2` (pixels of
the stored picture) and, if wanted, `split` (one of `SPLITS`, the same for all rows of an image). Rows that share image
and phrase are the boxes of one region. UTF-8, commas between columns. Rows are counted as spreadsheets do: the header
is row 1. Nothing is left out: a row that cannot be understood is an error.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import ExifTags, Image
from tqdm.auto import tqdm

from amc_lib.checkpoints import first_few
from amc_lib.datasets.image_files import ImageFile, reading
from amc_lib.datasets.records import Regions, Skips, checked, phrase_of, read_text
from amc_lib.regions import Box, Region
from amc_lib.tokens import clean

EDGES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", "phrase", *EDGES)
SPLITS = ("train", "val", "test")
OTHER_SEPARATORS = (";", "\t", "|")


@dataclass(frozen=True)
class _Row:
    number: int  # in the file
    image: str
    phrase: str
    box: Box
    split: str


def read(path: str | Path, images: str | Path | None = None) -> Regions:
    """The regions of a table, image by image in the order of first mention; `images` is the folder of the pictures.

    By default that is the table's own folder. Regions are named IMAGE-NUMBER; their split is "" where the table has
    no such column. Every picture is opened once. Raises ValueError that names the file and the first rows at fault.
    """
    path = Path(path)
    root = path.parent if images is None else Path(images)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of pictures")
    header, rows = _table(path)
    skips = Skips(strict=False)
    understood = []
    for number, cells in rows:
        with skips.record():
            understood.append(_row(number, header, cells))
    sizes = _sizes(understood, root, skips)
    with_pictures = [row for row in understood if row.image in sizes]
    for row in with_pictures:
        with skips.record():
            _check_inside(row, sizes[row.image])
    _check_against_each_other(understood, skips)
    if skips.sentences:
        raise ValueError(f"{path}, {first_few(sorted(skips.sentences, key=_row_number))}")
    if not understood:
        raise ValueError(f"{path}: holds no row below its header")
    return Regions(_regions(understood, root))


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row that is not empty with its number."""
    reader = csv.reader(io.StringIO(_text(path)), strict=True)
    rows: list[list[str]] = []
    try:
        rows += reader
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: is no CSV: {error}") from error
    if not rows:
        raise ValueError(f"{path}: is empty")
    header = _header(rows[0], path)
    return header, [(n, cells) for n, cells in enumerate(rows[1:], start=2) if any(cell.strip() for cell in cells)]


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except ValueError as error:
        if isinstance(cause := error.__cause__, UnicodeDecodeError):
            line = cause.object.count(b"\n", 0, cause.start) + 1
            raise ValueError(f'{path}, line {line}: is not UTF-8; save the table as "CSV UTF-8"') from error
        raise


def _header(cells: list[str], path: Path) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    for separator in OTHER_SEPARATORS:
        if len(header) == 1 and separator in header[0]:
            raise ValueError(f"{path}, row 1: columns are separated by {separator!r}; save the table with commas")
    known = (*COLUMNS, "split")
    missing = [name for name in COLUMNS if name not in header]
    for name in header:
        if name not in known:
            close = difflib.get_close_matches(name, missing or known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(known)})"
            raise ValueError(f"{path}, row 1: unknown column {name!r}{hint}")
    if missing:
        raise ValueError(f"{path}, row 1: lacks the column {', '.join(missing)}")
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise ValueError(f"{path}, row 1: has the column {', '.join(twice)} more than once")
    return header


def _row(number: int, header: list[str], cells: list[str]) -> _Row:
    where = f"row {number}"
    if len(cells) != len(header):
        raise ValueError(f"{where}: has {len(cells)} cells, the header {len(header)}")
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    box = tuple(_number(values[name], name, where) for name in EDGES)
    if "split" in values and values["split"] not in SPLITS:
        raise ValueError(f"{where}: the split {values['split']!r} is none of {', '.join(SPLITS)}")
    image, phrase = _image_name(values["image"], where), phrase_of(values["phrase"], where)
    return _Row(number, image, phrase, checked(box, where), values.get("split", ""))


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {name} is {text!r}, which is no number")
    return value


def _image_name(text: str, where: str) -> str:
    """The path as it is kept: relative, with single slashes. Links inside the folder may lead where they like."""
    as_windows = PureWindowsPath(text)  # sees both kinds of slashes, and drives
    if as_windows.anchor or ".." in as_windows.parts:
        raise ValueError(f"{where}: the image {text!r} leaves the folder of the pictures")
    name = PurePosixPath(text).as_posix()
    if name == ".":
        raise ValueError(f"{where}: the image {text!r} is no file name")
    return name


def _sizes(rows: list[_Row], root: Path, skips: Skips) -> dict[str, tuple[int, int]]:
    """(width, height) of every picture, each opened whole; what is wrong with one is said at its first row."""
    first = {row.image: row.number for row in reversed(rows)}
    sizes = {}
    for image in tqdm(dict.fromkeys(row.image for row in rows), desc="reading pictures", unit="picture"):
        with skips.record():
            try:
                sizes[image] = _size(root / image)
            except ValueError as error:
                raise ValueError(f"row {first[image]}: {error}") from error
    return sizes


def _size(path: Path) -> tuple[int, int]:
    size = ImageFile(path).open().size
    with reading(path), Image.open(path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1)
    if turned != 1:
        raise ValueError(f"{path}: is stored turned (EXIF orientation {turned}), so boxes are unclear: save it upright")
    return size


def _check_inside(row: _Row, size: tuple[int, int]) -> None:
    (x1, y1, x2, y2), (width, height) = row.box, size
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        box = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        raise ValueError(f"row {row.number}: box {box} lies outside the image of {width} x {height}, or partly")


def _check_against_each_other(rows: list[_Row], skips: Skips) -> None:
    """Rows that repeat another, and images in two splits."""
    seen: dict[tuple[str, str, Box], int] = {}
    placed: dict[str, _Row] = {}
    for row in rows:
        with skips.record():
            before = seen.setdefault((row.image, clean(row.phrase), row.box), row.number)
            if before != row.number:
                raise ValueError(f"row {row.number}: repeats row {before}")
            first = placed.setdefault(row.image, row)
            if first.split != row.split:
                raise ValueError(
                    f"row {row.number}: {row.image} is in {row.split} here, but in {first.split} in row {first.number}"
                )


def _regions(rows: list[_Row], root: Path) -> list[Region]:
    of_image: dict[str, dict[str, list[_Row]]] = {}
    for row in rows:
        of_image.setdefault(row.image, {}).setdefault(clean(row.phrase), []).append(row)
    regions = []
    for image, of_phrase in of_image.items():
        for number, same in enumerate(of_phrase.values()):
            boxes = tuple(row.box for row in same)
            kind = "group" if len(boxes) > 1 else "object"
            source = ImageFile(root / image)
            regions.append(Region(f"{image}-{number}", same[0].split, source, image, same[0].phrase, boxes, kind))
    return regions


def _row_number(sentence: str) -> int:
    return int(sentence.removeprefix("row ").partition(":")[0])
