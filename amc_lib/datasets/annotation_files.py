"""The boxes in the JSON of annotation tools, as they were drawn; that of Label Studio is read by `label_studio`.

| kind | known by |
|---|---|
| COCO | JSON with `images` and `annotations` (bbox x, y, width, height) |
| VIA 2 | its JSON (project or annotations) with `regions`: rectangles |
| VIA 3 | its project (JSON) with `metadata` and `view`: rectangles, also by their extreme points |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from amc_lib.datasets.csv_table import number_of
from amc_lib.datasets.records import box_from_size, four_numbers, id_text, naming
from amc_lib.regions import Box

TEXT_NAMES = ("phrase", "label", "name", "class", "caption", "text")
VIA_RECTANGLE, VIA_EXTREMES = 2, 8  # VIA 3's numbers of a rectangle, and of one through four points


class Drawn(NamedTuple):
    """A box as a tool wrote it."""

    images: Sequence[str]  # what its picture may be called; the first that is there counts
    words: Any  # its phrase, several in a list, or checkboxes by name
    box: Box  # xyxy, in `unit`
    size: tuple[float, float] | None = None  # (width, height) of the picture that it was drawn in
    split: str = ""
    unit: str = ""  # one of UNITS; pixels where nothing is said
    by_size: bool = False  # whether the box was given as x, y, width, height, and might be of another form
    own: Sequence[str] = ()  # what its picture may be called by the name of its own file
    renamed: bool = False  # whether uploading may have taken signs from the names of pictures


Annotations = Iterator[tuple[str, Callable[[], Drawn]]]
"""Where each annotation stands, and a function that reads it, which may raise what `records.naming` catches."""


def refuse(sentence: str) -> NoReturn:
    """In the place of a function that reads what cannot be read."""
    raise ValueError(sentence)


def each(where: str, kind: str, entries: Any, read: Callable[[Any], Drawn]) -> Annotations:
    """The annotations of a list in JSON; anything else, such as null, counts as one that cannot be read."""
    if not isinstance(entries, list):
        yield where, partial(refuse, _no_list(f"{kind}s", entries))
        return
    for number, entry in enumerate(entries):
        yield f"{where}, {kind} {number}", partial(read, entry)


def _no_list(kind: str, entries: Any) -> str:
    form = "null" if entries is None else type(entries).__name__
    return f"its {kind} are {form}, not a list"


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


def require_no_turn(rotation: Any) -> None:
    """ValueError for a turn in degrees, as CVAT writes it into an attribute; what is no number is none."""
    turn = 0.0
    with suppress(TypeError, ValueError):
        turn = float(rotation)
    if turn % 360:
        raise ValueError(f"it is turned by {turn:g} degrees, not an upright rectangle")


def tool_of(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    """Of the JSON of COCO or VIA. ValueError for another tool's."""
    if {"images", "annotations"} <= content.keys():
        return _coco(path, content, phrase)
    if {"metadata", "view"} <= content.keys():
        return _via_3(path, content, phrase)
    if {"shapes", "imagePath"} <= content.keys():
        raise ValueError(f"{path}: is LabelMe's JSON, which is not read: convert its folder to COCO or Pascal VOC")
    return _via(path, content.get("_via_img_metadata", content), phrase)


def _coco(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    with naming(f"{path}"):
        pictures = _by_id("images", content["images"], "file_name", "width", "height")
        categories = _by_id("categories", content.get("categories") or [], "name")

    def read(annotation: Mapping[str, Any]) -> Drawn:
        attributes = annotation.get("attributes") or {}
        require_no_turn(attributes.get("rotation"))
        label = annotation.get("caption") or categories.get(id_text(annotation.get("category_id")), {}).get("name", "")
        words = chosen({**attributes, **annotation}, phrase, label)
        if (picture := pictures.get(id_text(annotation["image_id"]))) is None:
            raise ValueError(f"its image_id {annotation['image_id']!r:.80} is the id of no image")
        size = tuple(number_of(f"its image's {side}", picture.get(side) or 0) for side in ("width", "height"))
        box = box_from_size(*four_numbers(annotation["bbox"]))
        return Drawn([picture["file_name"]], words, box, size if all(size) else None, by_size=True)

    yield from each(f"{path}", "annotation", content["annotations"], read)


def _by_id(kind: str, entries: Any, *fields: str) -> dict[str, Mapping[str, Any]]:
    """COCO's images or categories by id. ValueError where those of one id differ in one of the fields."""
    if not isinstance(entries, list):
        raise ValueError(_no_list(kind, entries))
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        first = found.setdefault(id_text(entry["id"]), entry)
        if any(first.get(field) != entry.get(field) for field in fields):
            raise ValueError(f"its {kind} have the id {entry['id']!r:.80} twice, and differ")
    return found


def _via(path: Path, files: Any, phrase: str | None) -> Annotations:
    with naming(f"{path}"):
        files = files.items()
    for key, file in files:
        if not (isinstance(file, Mapping) and {"filename", "regions"} <= file.keys()):
            raise ValueError(f"{path}: is JSON, but of no known annotation tool ({key!r:.80})")
        name, regions = file["filename"], file["regions"]
        regions = [*regions.values()] if isinstance(regions, Mapping) else regions
        yield from each(f"{path}, {name}", "region", regions, partial(via_box, name, phrase))


def via_box(name: str, phrase: str | None, region: Mapping[str, Any]) -> Drawn:
    shape = region["shape_attributes"]
    if shape["name"] != "rect":
        raise ValueError(f"it is a {shape['name']}, not a rectangle")
    words = chosen(region["region_attributes"], phrase)
    return Drawn([name], words, box_from_size(shape["x"], shape["y"], shape["width"], shape["height"]), unit="pixel")


def _via_3(path: Path, content: Mapping[str, Any], phrase: str | None) -> Annotations:
    with naming(f"{path}"):
        drawn = {key: one for key, one in content["metadata"].items() if one.get("xy")}  # else of a picture, or a time
    for key, one in drawn.items():
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
    return Drawn([file["fname"], file.get("src") or file["fname"]], chosen(fields, phrase), box, unit="pixel")
