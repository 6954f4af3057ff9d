"""What annotation tools write, as rows of the table that `own_table` reads: image, phrase, x1, y1, x2, y2 (pixels).

| kind | known by |
|---|---|
| COCO | JSON with `images` and `annotations` (bbox x, y, width, height) |
| VIA | its JSON (project or annotations) or CSV with `region_shape_attributes`: rectangles |
| Label Studio | JSON, a list of tasks: rectangles in percent, upright |
| table | CSV with filename, class, xmin, ymin, xmax, ymax, or x, y, w, h, or the table's own names |
| Pascal VOC | a folder of XML files |
| YOLO | a folder with `labels/` (class, centre and size as shares) and class names in data.yaml or classes.txt |

The label is the phrase, unless the annotation has a field or attribute of the name that `phrase` says.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import yaml

from amc_lib.datasets.image_files import ENDINGS, ImageFile
from amc_lib.datasets.own_table import COLUMNS, require_header
from amc_lib.datasets.records import naming, read_json, read_text, scale, scaled, visible
from amc_lib.regions import Box

Row = tuple  # image, phrase, box xyxy in pixels and, where a table has that column, the split
IMAGE_NAMES = ("filename", "file_name", "file", "path")
TEXT_NAMES = ("label", "class", "caption", "text")


def picture_folder(source: str | Path) -> Path:
    """Where the pictures of a source are expected: `images/` or VOC's `JPEGImages/` in its folder, or that folder."""
    source = Path(source).expanduser()
    folder = source if source.is_dir() else source.parent
    return next((folder / name for name in ("images", "JPEGImages") if (folder / name).is_dir()), folder)


def convert(source: str | Path, images: Path, phrase: str = "phrase") -> tuple[pd.DataFrame, list[str]]:
    """The table of a source, and a sentence for each annotation that is left out.

    images: the folder of the pictures; YOLO's boxes are shares of their sides. Boxes are scaled to a picture of another
    size than COCO, VOC or Label Studio state, if it has the same shape. ValueError for a source of no known kind.
    """
    rows, skipped = [], []
    for where, read in _annotations(Path(source).expanduser(), images, phrase):
        try:
            with naming(where):
                image, text, box, *split = read()
                if not isinstance(text, str) or not text.strip():
                    raise ValueError("it has no label")
                rows.append((image, text.strip(), *map(float, box), *split))
        except ValueError as error:
            skipped.append(str(error))
    names = [*COLUMNS, "split"] if any(len(row) > len(COLUMNS) for row in rows) else [*COLUMNS]
    return pd.DataFrame(rows, columns=names), skipped


def _annotations(source: Path, images: Path, phrase: str) -> Iterator[tuple[str, Any]]:
    """Where each annotation stands, and a function that gives its Row."""
    if source.is_dir():
        if files := visible(sorted(source.rglob("*.xml"))):
            return _voc(files, images, phrase)
        if (source / "labels").is_dir():
            return _yolo(source, images)
    elif source.suffix.lower() == ".csv":
        return _csv(source, phrase)
    elif source.suffix.lower() == ".json":
        content = read_json(source, dict | list)
        if isinstance(content, list):
            return _label_studio(source, content, images)
        if {"images", "annotations"} <= content.keys():
            return _coco(source, content, images, phrase)
        return _via(source, content.get("_via_img_metadata", content), phrase)
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    raise ValueError(
        f"{source}: is none of COCO, VIA, Label Studio, CSV, a folder of VOC's XML, or YOLO's with labels/"
    )


def _xywh(x: Any, y: Any, width: Any, height: Any) -> tuple[float, float, float, float]:
    x, y, width, height = map(float, (x, y, width, height))
    return x, y, x + width, y + height


def _fitted(box: Box, image: Path, stated: tuple[Any, Any]) -> Box:
    """A box drawn in a picture of the `stated` (width, height), in pixels of its file, where both are known.

    ValueError where the file has another shape.
    """
    if not all(stated) or not image.is_file():
        return box
    return scaled(box, scale(tuple(map(float, stated)), ImageFile(image).size()[::-1]))


def _coco(path: Path, content: Mapping[str, Any], images: Path, phrase: str) -> Iterator[tuple[str, Any]]:
    with naming(f"{path}"):
        pictures = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: category["name"] for category in content.get("categories", [])}

    def read(annotation: Mapping[str, Any]) -> Row:
        text = annotation.get(phrase) or annotation.get("caption") or categories.get(annotation.get("category_id"))
        picture = pictures[annotation["image_id"]]
        name, stated = picture["file_name"], (picture.get("width"), picture.get("height"))
        return name, text, _fitted(_xywh(*annotation["bbox"]), images / name, stated)

    for number, annotation in enumerate(content["annotations"]):
        yield f"{path}, annotation {number}", lambda annotation=annotation: read(annotation)


def _via(path: Path, files: Mapping[str, Any], phrase: str) -> Iterator[tuple[str, Any]]:
    for key, file in files.items():
        if not (isinstance(file, Mapping) and {"filename", "regions"} <= file.keys()):
            raise ValueError(f"{path}: is JSON, but of no known annotation tool ({key!r:.80})")
        regions = file["regions"]
        for number, region in enumerate(regions.values() if isinstance(regions, Mapping) else regions):
            read = lambda file=file, region=region: _via_row(file["filename"], region, phrase)  # noqa: E731
            yield f"{path}, {file['filename']}, region {number}", read


def _via_row(name: str, region: Mapping[str, Any], phrase: str) -> Row:
    shape, attributes = region["shape_attributes"], region["region_attributes"]
    if shape["name"] != "rect":
        raise ValueError(f"it is a {shape['name']}, not a rectangle")
    value = attributes.get(phrase) or next((value for value in attributes.values() if value), None)
    if isinstance(value, Mapping):  # of checkboxes
        value = next((name for name, chosen in value.items() if chosen), None)
    return name, value, _xywh(shape["x"], shape["y"], shape["width"], shape["height"])


def _label_studio(path: Path, tasks: Iterable[Mapping[str, Any]], images: Path) -> Iterator[tuple[str, Any]]:
    for number, task in enumerate(tasks):
        with naming(f"{path}, task {number}"):
            address = next(value for value in task["data"].values() if isinstance(value, str))
            name = re.split(r"[/\\=]", unquote(address))[-1]
            results = [result for one in task["annotations"] for result in one["result"]]
            texts = {r["id"]: r["value"]["text"] for r in results if r["type"] == "textarea" and "id" in r}
        for result in results:
            if result["type"] != "textarea":
                text = texts.get(result.get("id"))
                read = partial(_label_studio_row, images / name, result, text)
                yield f"{path}, task {number}, {name}", read


def _label_studio_row(image: Path, result: Mapping[str, Any], text: Any) -> Row:
    value = result["value"]
    if result["type"] != "rectanglelabels" or value.get("rotation"):
        raise ValueError(
            f"it is a {'turned ' if value.get('rotation') else ''}{result['type']}, not an upright rectangle"
        )
    text = text or value["rectanglelabels"]
    stated = result["original_width"], result["original_height"]
    width, height = (side / 100 for side in stated)
    box = _xywh(value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height)
    return image.name, text if isinstance(text, str) else text[0], _fitted(box, image, stated)


def _csv(path: Path, phrase: str) -> Iterator[tuple[str, Any]]:
    text = read_text(path)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:
        raise ValueError(f"{path}: is not a CSV table: {error!s:.200}") from error
    table.columns = [str(column).strip() for column in table]
    take = _via_csv_row if "region_shape_attributes" in table else _table_row
    columns = _columns(path, table.columns, phrase) if take is _table_row else phrase
    for number, row in enumerate(table.to_dict("records"), start=2):
        yield f"{path}, row {number}", lambda row=row: take(row, columns)


def _via_csv_row(row: Mapping[str, str], phrase: str) -> Row:
    shape, attributes = json.loads(row["region_shape_attributes"]), json.loads(row["region_attributes"])
    return _via_row(row["filename"], {"shape_attributes": shape, "region_attributes": attributes}, phrase)


def _columns(path: Path, names: Iterable[str], phrase: str) -> tuple[str, str, list[str], bool]:
    """Which columns are the picture, the phrase and the box, and whether the box is given by its size."""
    known = {name.lower(): name for name in names}

    def first(*choices: str) -> str | None:
        return next((known[choice] for choice in choices if choice in known), None)

    image, text = first("image", *IMAGE_NAMES), first(phrase.lower(), "phrase", *TEXT_NAMES)
    corners = [first(*pair) for pair in (("x1", "xmin"), ("y1", "ymin"), ("x2", "xmax"), ("y2", "ymax"))]
    sized = [first(*pair) for pair in (("x", "x1", "xmin"), ("y", "y1", "ymin"), ("w", "width"), ("h", "height"))]
    edges = corners if all(corners) else sized
    if not (image and text and all(edges)):
        require_header(path, known)
        needed = "a column for the picture, one for the label, and xmin, ymin, xmax, ymax or x, y, w, h"
        raise ValueError(f"{path}: its first row must name {needed}; it has {', '.join(known)}")
    return image, text, edges, edges is sized


def _table_row(row: Mapping[str, str], columns: tuple[str, str, list[str], bool]) -> Row:
    image, text, names, with_size = columns
    edges = [float(row[name]) for name in names]
    split = [row["split"]] if "split" in row else []
    return row[image], row[text], _xywh(*edges) if with_size else tuple(edges), *split


def _voc(files: Iterable[Path], images: Path, phrase: str) -> Iterator[tuple[str, Any]]:
    for path in files:
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            raise ValueError(f"{path}: cannot be read as XML: {error}") from error
        for number, thing in enumerate(root.findall("object")):

            def read(root: ElementTree.Element = root, thing: ElementTree.Element = thing) -> Row:
                box = [float(thing.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]
                stated, name = (root.findtext("size/width"), root.findtext("size/height")), root.findtext("filename")
                fitted = _fitted(tuple(box), images / (name or ""), stated)
                return name, thing.findtext(phrase) or thing.findtext("name"), fitted

            yield f"{path}, object {number}", read


def _yolo(folder: Path, images: Path) -> Iterator[tuple[str, Any]]:
    names = _class_names(folder)
    pictures = {path.stem: path for path in visible(sorted(images.rglob("*"))) if path.suffix.lower() in ENDINGS}
    for path in visible(sorted(path for path in (folder / "labels").rglob("*.txt") if path.name != "classes.txt")):
        for number, line in enumerate(read_text(path).splitlines(), start=1):

            def read(path: Path = path, line: str = line) -> Row:
                if path.stem not in pictures:
                    raise ValueError(f"there is no picture {path.stem} below {images}")
                height, width = ImageFile(pictures[path.stem]).size()
                kind, x, y, w, h = line.split()[:5]
                x, y, w, h = float(x) * width, float(y) * height, float(w) * width, float(h) * height
                return (
                    pictures[path.stem].relative_to(images).as_posix(),
                    names[int(kind)],
                    _xywh(x - w / 2, y - h / 2, w, h),
                )

            if line.strip():
                yield f"{path}, line {number}", read


def _class_names(folder: Path) -> dict[int, str]:
    """Of classes.txt, one a line, or data.yaml (names: a list, or number: name)."""
    for path in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if path.is_file():
            return dict(enumerate(read_text(path).splitlines()))
    with naming(f"{folder / 'data.yaml'}"):
        names = yaml.safe_load(read_text(folder / "data.yaml"))["names"]
        return {int(number): name for number, name in (names.items() if isinstance(names, dict) else enumerate(names))}
