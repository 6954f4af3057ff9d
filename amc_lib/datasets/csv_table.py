"""CSV as people and programs save it: cells by row, and which column is meant by a name.

UTF-8, UTF-16 or, which is said, Windows' cp1252; between commas, semicolons, tabs or bars, with Excel's first line
`sep=;` or without; numbers may have a decimal comma, if none stands between cells. Rows are counted as spreadsheets do.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from amc_lib.datasets.image_files import ENDINGS
from amc_lib.datasets.records import read_foreign_text
from amc_lib.files import unexpected_content

EDGES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", "phrase", *EDGES)
SPLITS = ("train", "val", "test")
OTHER_SPLITS = {"training": "train", "valid": "val", "validation": "val", "validate": "val"}
SPELLINGS = {  # of the columns, small and without signs, the best first; edges also with "bbox" before
    "image": "image filename file filepath path imagepath imagename imagefile img imgpath imgname imageid",
    "phrase": "phrase label labelname class classname category categoryname sentence caption text name",
    **{"x1": "x1 xmin left bboxx", "y1": "y1 ymin top bboxy", "x2": "x2 xmax right", "y2": "y2 ymax bottom"},
    **{"width": "bboxw bboxwidth", "height": "bboxh bboxheight", "split": "split", "unit": "unit"},
}
COLUMN_OF = {spelling: column for column, spellings in SPELLINGS.items() for spelling in spellings.split()}
NUMBER = re.compile(r"-?\d+([.,]\d+)?(E[+-]?\d+)?", re.IGNORECASE)
THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(\.\d{3})+(,\d+)?")  # as German has them: 1.010 or 1.010,5
SEPARATOR_SAID = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
MAKESENSE = ["label_name", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "image_name", "image_width", "image_height"]
AUTOML = ["split", "image", "label", "xmin", "ymin", "", "", "xmax", "ymax", "", ""]
JSON = re.compile(r"""\s*[\[{]\s*["{\[]""")  # how it begins, where it holds records
END = "\0"  # a row behind the last, which a quotation mark that is not closed would swallow


class Table(NamedTuple):
    """The cells of a CSV file, without blanks around them, and without rows that are empty."""

    names: list[str]  # of the columns, as they are written
    rows: dict[int, list[str]]  # below the header, by their number; as many cells as names
    header: int  # its row
    separator: str

    def pointed(self, cell: str) -> str:
        """A cell with a decimal point, where the separator leaves room for a comma."""
        return cell.replace(",", ".") if self.separator != "," and NUMBER.fullmatch(cell) else cell

    def number(self, cells: Sequence[str], place: int) -> float:
        """That in a row's cell at a place. ValueError naming its column where it is none."""
        return number_of(self.names[place], self.pointed(cells[place]))


def read_table(path: Path) -> Table:
    """ValueError with one sentence that names the file, and the row, for anything but a table with a header."""
    text = _text(path)
    first = next((line for line in text.split("\n") if re.search(r"\w", line)), "")
    said = SEPARATOR_SAID.fullmatch(first)
    separator = said[1] if said else max(",;\t|", key=first.count)
    rows = _rows(path, text, separator)
    if said:
        del rows[min(rows)]
    if not rows:
        raise ValueError(f"{path}: holds no row")
    header = min(rows)
    names = rows.pop(header)
    names = names[: 1 + max(place for place, name in enumerate(names) if name)]
    if known := next((known for known in (MAKESENSE, AUTOML) if _is_row_of(known, names)), None):
        names, rows = known, {header: names} | rows
    _require_header(f"{path}, row {header}", names, separator)
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path}, row {header}: has two columns {twice[0]}")
    if wide := next((number for number, cells in rows.items() if any(cells[len(names) :])), None):
        raise ValueError(f"{path}, row {wide}: has more cells than the header has names")
    rows = {number: (cells + [""] * len(names))[: len(names)] for number, cells in rows.items()}
    if separator != ",":
        _require_no_thousands(path, rows)
    return Table(names, rows, header, separator)


def _rows(path: Path, text: str, separator: str) -> dict[int, list[str]]:
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(f"{text}\n{END}"), delimiter=separator, skipinitialspace=True):
            rows.append([cell.strip() for cell in cells])
    except csv.Error as error:
        raise ValueError(f"{path}, row {len(rows) + 1}: is not CSV: {error}") from error
    if rows[-1] != [END]:
        raise ValueError(f"{path}, row {len(rows)}: has a quotation mark that is not closed")
    return {number: cells for number, cells in enumerate(rows[:-1], start=1) if any(cells)}


def _require_no_thousands(path: Path, rows: Mapping[int, Sequence[str]]) -> None:
    """ValueError for a cell like 1.010 in a table whose numbers have decimal commas: is it 1.01, or 1010?"""
    if any("," in cell and NUMBER.fullmatch(cell) for cells in rows.values() for cell in cells):
        found = ((number, cell) for number, cells in rows.items() for cell in cells if THOUSANDS.fullmatch(cell))
        for number, cell in found:
            unclear = f"{cell} may count thousands, as other numbers have a decimal comma: write it without the point"
            raise ValueError(f"{path}, row {number}: {unclear}")


def _text(path: Path) -> str:
    """The text of a table. ValueError naming the file, and what it is where that is something else."""
    text, content = read_foreign_text(path), unexpected_content(path)
    if JSON.match(text):
        content = "JSON, not CSV: a name that ends in .json lets 'python -m amc_lib.datasets import' read it"
    elif "temporal_coordinates" in text[:4000]:
        content = "the CSV of VIA 3, which does not say all: save its project, and take that JSON"
    if content:
        raise ValueError(f"{path}: is {content}")
    return text


def number_of(name: str, cell: Any) -> float:
    """The number in a cell or a field that is called `name`. ValueError where it is none, or infinite."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {cell!r}, which is not a number")
    return number


def plain_name(name: str) -> str:
    """The name of a column as SPELLINGS has it: small, without signs, and without "bbox" where it is known without."""
    signless = re.sub(r"[\W_]", "", name.lower())
    without = signless.removeprefix("bbox")
    return without if signless not in COLUMN_OF and without in COLUMN_OF else signless


def _require_header(where: str, names: Sequence[str], separator: str) -> None:
    """ValueError where the first row of a table, its `names`, holds numbers: with a header that fits their order."""
    edges = iter(EDGES)
    if any(map(NUMBER.fullmatch, names)):
        fitting = [next(edges, "") if NUMBER.fullmatch(name) else _kind_of(name) for name in names]
        header = fitting if {*fitting} - {"split"} == {*COLUMNS} and len({*fitting}) == len(names) else COLUMNS
        raise ValueError(f"{where}: has no header: put the line {separator.join(header)} above the first row")


def _is_row_of(columns: Sequence[str], cells: Sequence[str]) -> bool:
    """Whether the first row is one of a tool that exports these columns (some without a name) without a header."""
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    kinds = [COLUMN_OF.get(plain_name(name), name) for name in columns]
    return len(padded) == len(columns) and all(
        kind in ("", "phrase", "split") or (_kind_of(cell) == kind if kind == "image" else NUMBER.fullmatch(cell))
        for kind, cell in zip(kinds, padded, strict=True)
    )


def _kind_of(cell: str) -> str:
    """The column in which a text seems to stand."""
    if cell.lower().endswith(ENDINGS):
        return "image"
    return "split" if cell.lower() in (*SPLITS, *OTHER_SPLITS) else "phrase"
