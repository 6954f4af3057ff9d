"""CSV as people and programs save it: cells by row, and which column is meant by a name.

UTF-8, UTF-16 or, which is said, Windows' cp1252; between commas, semicolons, tabs or bars, with Excel's first line
`sep=;` or without; between semicolons numbers may have a decimal comma. Rows are counted as spreadsheets do.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from amc_lib.datasets.image_files import ENDINGS
from amc_lib.datasets.records import read_text
from amc_lib.files import unexpected_content

EDGES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", "phrase", *EDGES)
SPLITS = ("train", "val", "test")
OTHER_SPLITS = {"training": "train", "valid": "val", "validation": "val"}
SPELLINGS = {  # of the columns, small and without signs, the best first; edges also with "bbox" before
    "image": "image filename file filepath path imagepath imagename imagefile img imgpath imgname imageid",
    "phrase": "phrase label labelname class classname category categoryname sentence caption text name",
    **{"x1": "x1 xmin left bboxx", "y1": "y1 ymin top bboxy", "x2": "x2 xmax right", "y2": "y2 ymax bottom"},
    **{"width": "bboxw bboxwidth", "height": "bboxh bboxheight", "split": "split", "unit": "unit"},
}
COLUMN_OF = {spelling: column for column, spellings in SPELLINGS.items() for spelling in spellings.split()}
NUMBER = re.compile(r"-?\d+([.,]\d+)?")
SEPARATOR_SAID = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
MAKESENSE = ["label_name", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "image_name", "image_width", "image_height"]
JSON = re.compile(r"""\s*[\[{]\s*["{\[]""")  # how it begins, where it holds records
END = "\0"  # a row behind the last, which a quotation mark that is not closed would swallow


class Table(NamedTuple):
    """The cells of a CSV file, without blanks around them, and without rows that are empty."""

    names: list[str]  # of the columns, as they are written
    rows: dict[int, list[str]]  # below the header, by their number; as many cells as names
    header: int  # its row
    separator: str

    def number(self, cell: str) -> str:
        """A cell with a decimal point, where the separator leaves room for a comma."""
        return re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) if self.separator == ";" else cell


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
    if _is_makesense(names):
        names, rows = MAKESENSE, {header: names} | rows
    _require_header(f"{path}, row {header}", names, separator)
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path}, row {header}: has two columns {twice[0]}")
    if wide := next((number for number, cells in rows.items() if any(cells[len(names) :])), None):
        raise ValueError(f"{path}, row {wide}: has more cells than the header has names")
    rows = {number: (cells + [""] * len(names))[: len(names)] for number, cells in rows.items()}
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


def _text(path: Path) -> str:
    """The text of a table. ValueError naming the file, and what it is where that is something else."""
    encoding = ""
    try:
        text = read_text(path)
    except ValueError as error:
        data = path.read_bytes() if isinstance(error.__cause__, UnicodeDecodeError) else b""
        encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "cp1252"
        text = re.sub("\r\n?", "\n", data.decode(encoding, errors="replace"))
        if not text or {"\0", "\ufffd"} & {*text}:  # as no text holds them
            raise
    content = unexpected_content(path)
    if JSON.match(text):
        content = "JSON, not CSV: a name that ends in .json lets 'python -m amc_lib.datasets import' read it"
    elif "temporal_coordinates" in text[:4000]:
        content = "the CSV of VIA 3, which does not say all: save its project, and take that JSON"
    if content:
        raise ValueError(f"{path}: is {content}")
    if encoding == "cp1252":
        print(f"{path}: is not UTF-8, and is read as Windows' cp1252; if letters come out wrong, save it as UTF-8")
    return text


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


def _is_makesense(cells: Sequence[str]) -> bool:
    """Whether the first row is one of makesense.ai's, which exports boxes without a header."""
    numbers = [bool(NUMBER.fullmatch(cell)) for cell in cells]
    return numbers == [name not in ("label_name", "image_name") for name in MAKESENSE] and _kind_of(cells[5]) == "image"


def _kind_of(cell: str) -> str:
    """The column in which a text seems to stand."""
    if cell.lower().endswith(ENDINGS):
        return "image"
    return "split" if cell.lower() in (*SPLITS, *OTHER_SPLITS) else "phrase"
