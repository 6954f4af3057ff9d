"""The boxes in folders of annotation tools, as they were drawn.

| kind | known by |
|---|---|
| Pascal VOC | XML files |
| YOLO | text files in LABELS (class, then centre and size, or a polygon, as shares) and names of CLASSES |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from xml.etree import ElementTree

import yaml

from amc_lib.datasets.annotation_files import Annotations, Drawn, chosen, refuse, require_no_turn
from amc_lib.datasets.box_forms import around
from amc_lib.datasets.csv_table import number_of
from amc_lib.datasets.records import box_xyxy, files_below, naming, read_foreign_text, read_text, split_of
from amc_lib.regions import Box

BESIDE = ("classes.txt", "_darknet.labels")  # names of classes in the folder of the label files
CLASSES = ("data.yaml", "data.yml", *BESIDE, "labels/classes.txt", "train/_darknet.labels")
CLASSES += ("obj.names", "data/obj.names")
LABELS = re.compile(r"labels|obj|obj_(train|valid|test)_data")  # folders of label files; the latter are Darknet's
BROKEN = (OSError, LookupError, ValueError, ElementTree.ParseError)  # what reading XML raises, also by its encoding


def files(folder: Path, ending: str) -> list[Path]:
    """Those below a folder whose names end so, in capitals or not."""
    return [path for path in files_below(folder) if path.suffix.lower() == ending]


def placed(read: Callable[[], Drawn], above: PurePath) -> Drawn:
    """What is read of an annotation whose file lies in the folder `above` of its data set, with the pictures."""
    drawn = read()
    return drawn._replace(images=[(above / name).as_posix() for name in drawn.images], split=_split(above))


def _split(folder: PurePath) -> str:
    """That of the first of its folders that is named as one; else ""."""
    return next(filter(None, map(split_of, folder.parts)), "")


def root_of(path: Path) -> str:
    """The name of the first element of an XML file, without its namespace; "" for a broken file."""
    with suppress(*BROKEN, StopIteration), path.open("rb") as file:
        return _local(next(ElementTree.iterparse(file, ["start"]))[1].tag)
    return ""


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def voc(folder: Path, paths: Iterable[Path], phrase: str | None) -> Annotations:
    """Of XML files below a folder."""
    for path in paths:
        try:
            root = ElementTree.fromstring(path.read_bytes())
        except BROKEN as error:
            yield f"{path}", partial(refuse, f"cannot be read as XML: {error}")
            continue
        for element in root.iter():
            element.tag = _local(element.tag)
        if root.tag != "annotation":
            yield f"{path}", partial(refuse, f"is XML of <{root.tag}>, not of VOC's <annotation>")
            continue
        above = path.relative_to(folder).parent
        named = root.findtext("filename") or root.findtext("path") or ""
        images, own = ([*_places(above, name)] for name in (re.split(r"[/\\]", named)[-1], path.stem))
        for number, thing in enumerate(root.findall("object")):
            yield f"{path}, object {number}", partial(_voc_box, root, thing, images, own, _split(above), phrase)


def _places(above: PurePath, name: str) -> Iterator[str]:
    """What a picture may be called that is `name` in the annotation of a folder."""
    if name:
        yield (above / name).as_posix()
        if not _split(above):
            yield name


def _voc_box(
    root: ElementTree.Element,
    thing: ElementTree.Element,
    images: list[str],
    own: list[str],
    split: str,
    phrase: str | None,
) -> Drawn:
    fields = {one.tag: one.text for one in thing} | {
        one.findtext("name", ""): one.findtext("value") for one in thing.iterfind("attributes/attribute")
    }
    require_no_turn(fields.get("rotation"))
    if (edges := thing.find("bndbox")) is None:
        raise ValueError("it has no bndbox")
    box = box_xyxy(*(number_of(f"its {edge}", edges.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")))
    size = tuple(number_of(f"its {side}", root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    words = chosen(fields, phrase, thing.findtext("name", ""))
    return Drawn(images, words, box, size if all(size) else None, split, own=own)


def label_files(folder: Path) -> list[Path]:
    """YOLO's: below a folder `labels` or another of LABELS, or beside names of classes."""
    return [
        path
        for path in files(folder, ".txt")
        if path.name != "classes.txt"
        and (
            any(map(LABELS.fullmatch, (folder.name, *path.relative_to(folder).parts)))
            or any(path.with_name(name).is_file() for name in BESIDE)
        )
    ]


def is_yolo(path: Path) -> bool:
    """Whether a text file begins as YOLO's labels do."""
    with path.open("rb") as file:
        return bool(re.match(rb"\s*\d+(\.0)?([ \t]+[\d.e-]+){4}", file.read(200)))


def yolo(source: Path, folder: Path, paths: Iterable[Path]) -> Annotations:
    """Of label files below a folder; source: the folder, or its data.yaml. ValueError without names of classes."""
    names, with_points = _classes(source)  # by number, of which 0 and 0.0 are the same
    texts = {path: read_text(path) for path in paths}
    lines = {(path, n): line for path in texts for n, line in enumerate(texts[path].splitlines(), 1) if line.strip()}
    lengths = (4, 5, 6) if _are_tracks(lines.values()) else (4, 5)  # of a box, with what may stand behind it

    def read(label: PurePath, line: str) -> Drawn:
        image = PurePath(*(part for part in label.parts if not LABELS.fullmatch(part)))
        kind, *numbers = map(float, line.split())
        if kind not in names:
            raise ValueError(f"its class {kind:g} is none of the {len(names)} that have a name")
        box = around(*numbers[:4]) if with_points or len(numbers) in lengths else _yolo_polygon(numbers)
        return Drawn([image.as_posix(), label.as_posix()], names[kind], box, None, _split(image.parent), "share")

    for (path, number), line in lines.items():
        yield f"{path}, line {number}", partial(read, path.relative_to(folder).with_suffix(""), line)


def _are_tracks(lines: Iterable[str]) -> bool:
    """Whether all lines with 6 numbers behind the class end in a confidence and the id of a track: no triangles."""
    ends = [line.split()[5:] for line in lines if len(line.split()) == 7]
    return bool(ends) and all(re.fullmatch(r"[01]?\.\d+|[01]|\d.*e-\d+", conf) and id.isdecimal() for conf, id in ends)


def _yolo_polygon(numbers: Sequence[float]) -> Box:
    """The box around x and y by turns."""
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"the {len(numbers)} numbers after its class are neither a box nor a polygon")
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _classes(source: Path) -> tuple[dict[int, str], bool]:
    """Names by number, and whether labels have the points of poses: of data.yaml, or of classes.txt (one a line).

    source: data.yaml, or the folder in which it lies, or up to two below that.
    """
    folder = source if source.is_dir() else source.parent
    places = [source, *(place / name for place in (folder, *folder.absolute().parents[:2]) for name in CLASSES)]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: has neither data.yaml nor classes.txt, which name the classes of YOLO's labels")
    text = read_foreign_text(path)
    with naming(f"{path}"):
        is_yaml = path.suffix.lower() in (".yaml", ".yml")
        try:  # BaseLoader takes all for text, as names of classes are: no is not False, nor 1 a number
            settings = yaml.load(text, yaml.BaseLoader) if is_yaml else {"names": text.splitlines()}
        except yaml.YAMLError as error:
            raise ValueError(f"is not YAML: {' '.join(str(error).split())}") from error
        names = settings.get("names") if isinstance(settings, dict) else None
        if not isinstance(names, dict | list):
            raise ValueError(f"its names must be a list of the classes' names, and are {names!r:.80}")
        names = {int(number): name for number, name in (names.items() if isinstance(names, dict) else enumerate(names))}
        return names, "kpt_shape" in settings
