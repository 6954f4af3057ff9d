"""Regions of one's own: a table of boxes as CSV, beside the pictures that it names.

Columns, in any order: `image` (a path below the folder of the pictures), `phrase`, `x1`, `y1`, `x2`, `y2` (pixels of
the stored picture) and, if wanted, `split` (one of SPLITS, the same for all rows of an image). Rows that share image
and phrase are the boxes of one region. UTF-8. Rows are counted as spreadsheets do: the header is row 1. Nothing is
left out: a row that cannot be read is an error.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import ExifTags
from tqdm.auto import tqdm

from amc_lib.datasets.image_files import ImageFile, open_image, reading, to_rgb
from amc_lib.datasets.records import Regions, read_text
from amc_lib.regions import Region
from amc_lib.tokens import clean

EDGES = ["x1", "y1", "x2", "y2"]
COLUMNS = ["image", "phrase", *EDGES]
SPLITS = ("train", "val", "test")
OTHER_NAMES = {  # in the tables of annotation tools
    **{"filename": "image", "file_name": "image", "file": "image", "path": "image"},
    **{"class": "phrase", "label": "phrase", "caption": "phrase", "text": "phrase"},
    **{"xmin": "x1", "ymin": "y1", "xmax": "x2", "ymax": "y2", "x": "x1", "y": "y1"},
    **{"w": "x2 (x + w)", "h": "y2 (y + h)", "width": "x2 (x + width)", "height": "y2 (y + height)"},
}
PERCENT_SIDE = 300  # pixels: boxes in larger pictures that all end below 100 are in percent
Checks = list[tuple[pd.Series, pd.Series | str]]  # rows at fault, and what is wrong with them


def read(path: str | Path, images: str | Path | None = None) -> Regions:
    """The regions of a table, image by image in the order of first mention; `images` is the folder of the pictures.

    By default that is the table's own folder. Regions are named IMAGE-NUMBER; their split is "" where the table has
    no such column. Every picture is opened once. ValueError with one sentence that names the file and the first row
    at fault.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root.absolute()}: no such folder of pictures")
    cells = _table(path)
    cells["image"] = cells["image"].map(lambda name: PurePosixPath(name).as_posix())
    cells["words"] = cells["phrase"].map(_words)
    table = cells.assign(**{name: pd.to_numeric(cells[name], errors="coerce") for name in EDGES})
    _refuse(path, _row_checks(cells, table))
    _refuse(path, _picture_checks(table, root))
    return _regions(table, root)


def _table(path: Path) -> pd.DataFrame:
    """The cells as text, rows without any left out; the index counts rows below the header from 0."""
    text = read_text(path)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        table = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skip_blank_lines=False
        ).fillna("")
    except ValueError as error:  # of pandas, also for an empty file
        raise ValueError(f"{path}: is not a CSV table: {error}") from error
    names = [str(name).strip().lower() for name in table.columns]
    unknown = [name for name in names if name not in (*COLUMNS, "split")]
    if unknown or not set(COLUMNS) <= set(names):
        needed = f"the columns must be {', '.join(COLUMNS)} and perhaps split; they are {', '.join(names)}"
        rename = ", ".join(f"{name} to {OTHER_NAMES[name]}" for name in unknown if name in OTHER_NAMES)
        raise ValueError(f"{path}, row 1: {needed:.300}{rename and '; change '}{rename}")
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: a row has more cells than the header has names")
    table = table.set_axis(names, axis=1).apply(lambda column: column.str.strip())
    if (table == "").all(axis=None):
        raise ValueError(f"{path}: holds no row below its header")
    return table[(table != "").any(axis=1)].copy()


def _words(phrase: str) -> str:
    """The cleaned phrase, "" where it has no words."""
    try:
        return clean(phrase)
    except ValueError:
        return ""


def _refuse(path: Path, checks: Checks) -> None:
    """ValueError for the first row at fault."""
    faults = pd.concat([rows for rows, _ in checks], axis=1).to_numpy(bool)  # [rows, checks]
    if faults.any():
        bad = np.flatnonzero(faults.any(axis=1))
        rows, sentence = checks[faults[bad[0]].argmax()]
        sentence = sentence if isinstance(sentence, str) else sentence.iloc[bad[0]]
        more = f" (and {len(bad) - 1} more rows are at fault)" if len(bad) > 1 else ""
        raise ValueError(f"{path}, row {rows.index[bad[0]] + 2}: {sentence:.300}{more}")


def _row_checks(cells: pd.DataFrame, table: pd.DataFrame) -> Checks:
    """What can be seen without the pictures; `cells` are texts, `table` has numbers for the edges."""
    images, rows = table["image"], pd.Series(table.index + 2, table.index)
    outside = images.isin(["", "."]) | images.str.startswith("/") | images.str.contains(r"(?:^|/)\.\.(?:/|$)")
    no_area = (table["x1"] >= table["x2"]) | (table["y1"] >= table["y2"])
    first = rows.groupby([table[name] for name in ("image", "words", *EDGES)]).transform("first").fillna(rows)
    checks = [(~np.isfinite(table[name]), f"{name} is '" + cells[name] + "', which is not a number") for name in EDGES]
    checks += [
        (table["words"] == "", "the phrase '" + table["phrase"] + "' has no words"),
        (outside, "the image '" + images + "' is not a file below the folder of the pictures"),
        (no_area, "the box has no area: x1 must be smaller than x2, y1 than y2"),
        (first != rows, "repeats row " + first.astype(int).astype(str)),
    ]
    if "split" in table:
        split, earlier = table["split"], table.groupby("image")["split"].transform("first")
        checks += [
            (~split.isin(SPLITS), "the split '" + split + f"' is none of {', '.join(SPLITS)}"),
            (split != earlier, images + " is in the split " + earlier + " in a row above"),
        ]
    return checks


def _picture_checks(table: pd.DataFrame, root: Path) -> Checks:
    """Pictures that do not open, boxes outside their picture, and boxes that are not in pixels."""
    sizes, broken = {}, pd.Series("", table.index)
    for image, rows in tqdm(table.groupby("image", sort=False), desc="reading pictures", unit="picture"):
        try:
            sizes[image] = _size(root / image)
        except ValueError as error:
            broken[rows.index[0]] = str(error)
    if broken.any():
        return [(broken != "", broken)]
    width, height = (table["image"].map(lambda image, side=side: sizes[image][side]) for side in (0, 1))
    largest, every = table[EDGES].max(axis=None), pd.Series(True, table.index)
    look = "the boxes of the table look like"
    if largest <= 1:
        return [(every, f"{look} shares of the sides (0 to 1): multiply x by the picture's width and y by its height")]
    if 50 < largest <= 100 and min(width.min(), height.min()) >= PERCENT_SIDE:
        return [(every, f"{look} percent of the sides: multiply x by the picture's width / 100, y by its height / 100")]
    beyond = (table[["x1", "y1"]] < 0).any(axis=1) | (table["x2"] > width) | (table["y2"] > height)
    size = width.astype(str) + " x " + height.astype(str)
    return [(beyond, "the box lies outside the image of " + size + ", or partly")]


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture, decoded whole. UnreadableImageError also for one that is stored turned."""
    with reading(path), open_image(path) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation)
        if turned in range(2, 9):
            raise ValueError(f"it is stored turned (EXIF orientation {turned}), so boxes are unclear; save it upright")
        return to_rgb(file).size


def _regions(table: pd.DataFrame, root: Path) -> Regions:
    regions = []
    for image, rows in table.groupby("image", sort=False):
        for number, (_, same) in enumerate(rows.groupby("words", sort=False)):
            boxes = tuple(map(tuple, same[EDGES].to_numpy(float).tolist()))
            kind, first = "group" if len(boxes) > 1 else "object", same.iloc[0]
            source, split = ImageFile(root / image), first.get("split", "")
            regions.append(Region(f"{image}-{number}", split, source, image, first["phrase"], boxes, kind))
    return Regions(regions)
