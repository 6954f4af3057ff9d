"""The boxes in folders of annotation tools, as they were drawn.

| kind | known by |
|---|---|
| Pascal VOC | XML files |
| YOLO | text files in `labels/` (class, then centre and size, or a polygon, as shares), data.yaml or classes.txt |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePath
from xml.etree import ElementTree

import yaml

from amc_lib.datasets.annotation_files import Annotations, Drawn, chosen, refuse
from amc_lib.datasets.records import box_from_size, naming, read_text, visible
from amc_lib.regions import Box


def files(folder: Path, ending: str) -> list[Path]:
    """Those below a folder whose names end so, in capitals or not."""
    return visible(sorted(path for path in folder.rglob("*") if path.suffix.lower() == ending))


def _split(path: PurePath) -> str:
    """train, val or test, as a folder of a path is called (also valid, train2017, ...); else ""."""
    names = (re.fullmatch(r"(train|val|test)(id|idation|ing)?\d*", part.lower()) for part in path.parent.parts)
    return next((name[1] for name in names if name), "")


def voc(folder: Path, paths: Iterable[Path], phrase: str | None) -> Annotations:
    """Of XML files below a folder."""
    for path in paths:
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            yield f"{path}", partial(refuse, f"cannot be read as XML: {error}")
            continue
        above = path.relative_to(folder)
        names = [root.findtext("filename")] if root.findtext("filename") else [root.findtext("path"), path.stem]
        names = [re.split(r"[/\\]", name)[-1] for name in names if name]
        images = [(above.parent / name).as_posix() for name in names] + ([] if _split(above) else names)
        for number, thing in enumerate(root.findall("object")):
            yield f"{path}, object {number}", partial(_voc_box, root, thing, images, _split(above), phrase)


def _voc_box(
    root: ElementTree.Element, thing: ElementTree.Element, images: list[str], split: str, phrase: str | None
) -> Drawn:
    fields = {one.tag: one.text for one in thing} | {
        one.findtext("name", ""): one.findtext("value") for one in thing.iterfind("attributes/attribute")
    }
    box = tuple(float(thing.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    size = tuple(float(root.findtext(f"size/{side}", "") or 0) for side in ("width", "height"))
    return Drawn(images, chosen(fields, phrase, fields.get("name", "")), box, size if all(size) else None, split)


def label_files(folder: Path) -> list[Path]:
    """YOLO's: below a folder `labels`, or beside a classes.txt."""
    return [
        path
        for path in files(folder, ".txt")
        if path.name != "classes.txt"
        and ("labels" in (folder.name, *path.relative_to(folder).parts) or path.with_name("classes.txt").is_file())
    ]


def yolo(source: Path, folder: Path, labels: Iterable[Path]) -> Annotations:
    """Of label files below a folder; source: the folder, or its data.yaml. ValueError without names of classes."""
    names, with_points = _classes(source)  # by number, of which 0 and 0.0 are the same

    def read(image: PurePath, line: str) -> Drawn:
        kind, *numbers = map(float, line.split())
        if kind not in names:
            raise ValueError(f"its class {kind:g} is none of the {len(names)} that have a name")
        box = _yolo_box(numbers, with_points)
        return Drawn([image.with_suffix("").as_posix()], names[kind], box, None, _split(image), "share")

    for path in labels:
        image = PurePath(*(part for part in path.relative_to(folder).parts if part != "labels"))
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if line.strip():
                yield f"{path}, line {number}", partial(read, image, line)


def _yolo_box(numbers: Sequence[float], with_points: bool) -> Box:
    """Of centre and size, with or without a confidence or the points of a pose behind them, or around a polygon."""
    if len(numbers) in (4, 5) or with_points:
        x, y, width, height = numbers[:4]
        return box_from_size(x - width / 2, y - height / 2, width, height)
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"the {len(numbers)} numbers after its class are neither a box nor a polygon")
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _classes(source: Path) -> tuple[dict[int, str], bool]:
    """Names by number, and whether labels have the points of poses: of data.yaml, or of classes.txt (one a line).

    source: data.yaml, or the folder in which, or in whose folder, it lies.
    """
    folder = source if source.is_dir() else source.parent
    names = ("data.yaml", "data.yml", "classes.txt", "labels/classes.txt")
    places = [source, *(place / name for place in (folder, folder.absolute().parent) for name in names)]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: has neither data.yaml nor classes.txt, which name the classes of YOLO's labels")
    text = read_text(path)
    with naming(f"{path}"):
        try:
            settings = {"names": text.splitlines()} if path.suffix == ".txt" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error
        names = settings.get("names") if isinstance(settings, dict) else None
        if not isinstance(names, dict | list):
            raise ValueError(f"its names must be a list of the classes' names, and are {names!r:.80}")
        names = {int(number): name for number, name in (names.items() if isinstance(names, dict) else enumerate(names))}
        return names, "kpt_shape" in settings
