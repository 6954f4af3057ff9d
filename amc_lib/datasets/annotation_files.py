"""The boxes in the files of annotation tools, as they were drawn; those of Label Studio are read by `label_studio`.

| kind | known by |
|---|---|
| COCO | JSON with `images` and `annotations` (bbox x, y, width, height) |
| VIA 2 | its JSON (project or annotations) or CSV with `region_shape_attributes`: rectangles |
| VIA 3 | its project (JSON) with `metadata` and `view`: rectangles, also by their extreme points |
| table | CSV with filename, class, xmin, ymin, xmax, ymax, or x, y, w, h, or the table's own names |
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd

from amc_lib.datasets.own_table import require_header
from amc_lib.datasets.records import box_from_size, box_xyxy, naming, read_text
from amc_lib.regions import Box

IMAGE_NAMES = ("image", "filename", "file_name", "file", "path")
TEXT_NAMES = ("phrase", "label", "name", "class", "caption", "text")
VIA_RECTANGLE, VIA_EXTREMES = 2, 8  # VIA 3's numbers of a rectangle, and of one through four points
SHARES = (1, 1)  # as the size of a picture: boxes are in shares of its sides


class Drawn(NamedTuple):
    """A box as a tool wrote it."""

    images: Sequence[str]  # what its picture may be called; the first that is there counts
    words: Any  # its phrase, several in a list, or checkboxes by name
    box: Box  # xyxy
    size: tuple[float, float] | None = None  # (width, height) of the picture that it was drawn in, or SHARES
    split: str = ""


Annotations = Iterator[tuple[str, Callable[[], Drawn]]]
"""Where each annotation stands, and a function that reads it, which may raise what `records.naming` catches."""


def refuse(sentence: str) -> NoReturn:
    """In the place of a function that reads what cannot be read."""
    raise ValueError(sentence)


def chosen(fields: Mapping[str, Any], phrase: str | None, label: Any = None) -> Any:
    """The words among named fields: those that `phrase` names; without it "phrase", the label, or one of TEXT_NAMES.

    Where there is one field alone, it is taken. Capitals do not matter, and an id is never taken. ValueError if there
    is no such field, or if it could be several.
    """
    known = {name.lower(): words for name, words in fields.items() if not re.search(r"(^|[_ ])id$", name.lower())}
    if phrase:
        if phrase.lower() not in known:
            raise ValueError(f"it has no field {phrase}; its fields are {', '.join(known) or 'none'}")
        return known[phrase.lower()]
    words = known.get("phrase") or label
    if words is not None:
        return words
    named = [known[name] for name in TEXT_NAMES if name in known]
    if not named and len(known) > 1:
        raise ValueError(f"its phrase may be any of {', '.join(known)}: --phrase says which")
    return next(filter(None, named or known.values()), None)


def tool_of(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    """Of the JSON of COCO or VIA. ValueError for another tool's."""
    if {"images", "annotations"} <= content.keys():
        return _coco(path, content, phrase)
    if {"metadata", "view"} <= content.keys():
        return _via_3(path, content, phrase)
    return _via(path, content.get("_via_img_metadata", content), phrase)


def _coco(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    with naming(f"{path}"):
        pictures = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: category["name"] for category in content.get("categories", [])}

    def read(annotation: Mapping[str, Any]) -> Drawn:
        label = annotation.get("caption") or categories.get(annotation.get("category_id"), "")
        words = chosen({**(annotation.get("attributes") or {}), **annotation}, phrase, label)
        picture = pictures[annotation["image_id"]]
        size = picture.get("width"), picture.get("height")
        return Drawn([picture["file_name"]], words, box_from_size(*annotation["bbox"]), size if all(size) else None)

    for number, annotation in enumerate(content["annotations"]):
        yield f"{path}, annotation {number}", partial(read, annotation)


def _via(path: Path, files: Mapping[str, Any], phrase: str | None) -> Annotations:
    for key, file in files.items():
        if not (isinstance(file, Mapping) and {"filename", "regions"} <= file.keys()):
            raise ValueError(f"{path}: is JSON, but of no known annotation tool ({key!r:.80})")
        regions = file["regions"]
        for number, region in enumerate(regions.values() if isinstance(regions, Mapping) else regions):
            yield f"{path}, {file['filename']}, region {number}", partial(_via_box, file["filename"], region, phrase)


def _via_box(name: str, region: Mapping[str, Any], phrase: str | None) -> Drawn:
    shape = region["shape_attributes"]
    if shape["name"] != "rect":
        raise ValueError(f"it is a {shape['name']}, not a rectangle")
    words = chosen(region["region_attributes"], phrase)
    return Drawn([name], words, box_from_size(shape["x"], shape["y"], shape["width"], shape["height"]))


def _via_3(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    for key, one in content["metadata"].items():
        if one.get("xy"):  # else it is about a picture, or a time
            yield f"{path}, metadata {key}", partial(_via_3_box, content, one, phrase)


def _via_3_box(content: Mapping[str, Any], one: Mapping[str, Any], phrase: str | None) -> Drawn:
    shape, *edges = one["xy"]
    if shape not in (VIA_RECTANGLE, VIA_EXTREMES):
        raise ValueError(f"its shape is VIA's number {shape}, not a rectangle")
    xs, ys = edges[::2], edges[1::2]
    box = box_from_size(*edges) if shape == VIA_RECTANGLE else (min(xs), min(ys), max(xs), max(ys))
    file = content["file"][str(content["view"][str(one["vid"])]["fid_list"][0])]
    fields = {}
    for number, value in one["av"].items():
        attribute = content["attribute"][number]
        options = attribute.get("options") or {}
        fields[attribute["aname"]] = [options[name] for name in value.split(",") if name] if options else value
    return Drawn([file["fname"], file.get("src") or file["fname"]], chosen(fields, phrase), box)


def read_csv_file(path: Path, phrase: str | None) -> Annotations:
    """Of VIA, or a table. ValueError for one that has no header, or not the columns."""
    text = read_text(path)
    if "temporal_coordinates" in text[:4000]:
        raise ValueError(f"{path}: is the CSV of VIA 3, which does not say all: save its project, and take that JSON")
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:
        raise ValueError(f"{path}: is not a CSV table: {error!s:.200}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: a row has more cells than the header has names")
    table.columns = [str(column).strip() for column in table]
    if "region_shape_attributes" in table:
        read = partial(_via_row, phrase=phrase)
        table = table[table["region_shape_attributes"] != "{}"]  # pictures without a region
    else:
        read = partial(_table_row, columns=_columns(path, table.columns, phrase))
    for number, row in zip(table.index + 2, table.to_dict("records"), strict=True):
        yield f"{path}, row {number}", partial(read, row)


def _via_row(row: Mapping[str, str], phrase: str | None) -> Drawn:
    names = ("shape_attributes", "region_shape_attributes"), ("region_attributes", "region_attributes")
    return _via_box(row["filename"], {name: json.loads(row[column]) for name, column in names}, phrase)


def _columns(path: Path, names: Iterable[str], phrase: str | None) -> tuple[str, str, list[str], bool, str | None]:
    """Which columns are the picture, the phrase, the box, whether the box is given by its size, and the split."""
    known = {name.lower(): name for name in names}

    def first(*choices: str) -> str | None:
        return next((known[choice] for choice in choices if choice in known), None)

    if phrase and phrase.lower() not in known:
        raise ValueError(f"{path}: has no column {phrase}; it has {', '.join(known)}")
    texts = [phrase.lower()] if phrase else [name for name in TEXT_NAMES if name != "name"]
    image, text = first(*IMAGE_NAMES), first(*texts)
    corners = [first(*pair) for pair in (("x1", "xmin"), ("y1", "ymin"), ("x2", "xmax"), ("y2", "ymax"))]
    sized = [first(*pair) for pair in (("x", "x1", "xmin"), ("y", "y1", "ymin"), ("w", "width"), ("h", "height"))]
    edges = corners if all(corners) else sized
    if not (image and text and all(edges)):
        require_header(path, known)
        needed = "a column for the picture, one for the label, and xmin, ymin, xmax, ymax or x, y, w, h"
        raise ValueError(f"{path}: its first row must name {needed}; it has {', '.join(known)}")
    return image, text, edges, edges is sized, first("split")


def _table_row(row: Mapping[str, str], columns: tuple[str, str, list[str], bool, str | None]) -> Drawn:
    image, text, names, with_size, split = columns
    box = (box_from_size if with_size else box_xyxy)(*(row[name] for name in names))
    return Drawn([row[image]], row[text], box, split=row[split] if split else "")
