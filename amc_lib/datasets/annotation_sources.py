"""Which annotation tool wrote a file or a folder, and what is said of those that none of them wrote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from amc_lib.datasets import label_studio
from amc_lib.datasets.annotation_files import Annotations, tool_of
from amc_lib.datasets.annotation_folders import files, is_yolo, label_files, placed, root_of, voc, yolo
from amc_lib.datasets.annotation_tables import read_csv_file
from amc_lib.datasets.records import read_json
from amc_lib.files import unexpected_content

TABLES = (".csv", ".tsv")
ROBOFLOW = "_annotations.coco.json"  # in each folder of its COCO exports, beside the pictures
KINDS = "COCO, VIA, Label Studio, CSV, a folder of VOC's XML, or YOLO's with labels/"


def annotations(source: Path, phrase: str | None) -> Annotations:
    """What a file or folder holds. ValueError if it is of no known kind."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    if source.is_dir():
        return _of_folder(source, phrase)
    kind = source.suffix.lower()
    if kind == ".xml":
        return _of_xml(source.parent, [source], phrase)
    if kind in (".yaml", ".yml"):
        if not (labels := label_files(source.parent)):
            raise ValueError(f"{source}: no folder labels lies beside it: put it into that of YOLO's data set")
        return _of_yolo(source, labels, phrase)
    if kind == ".json":
        content = read_json(source, dict | list)
        return (label_studio.tasks if isinstance(content, list) else tool_of)(source, content, phrase)
    if kind in TABLES:
        return read_csv_file(source, phrase)
    archive = "a compressed archive: unpack it" if kind == ".zip" else unexpected_content(source)
    raise ValueError(f"{source}: is {archive or f'none of {KINDS}'}")


def _of_folder(folder: Path, phrase: str | None) -> Annotations:
    xml, labels, notes = files(folder, ".xml"), label_files(folder), files(folder, ".json")
    if any(root_of(path) == "annotation" for path in xml):
        if any(map(is_yolo, labels)):
            two = "holds Pascal VOC's XML and YOLO's labels"
            raise ValueError(f"{folder}: {two}: take one kind out, or name its folder")
        return voc(folder, xml, phrase)
    if labels:
        return _of_yolo(folder, labels, phrase)
    if xml and not notes:
        return _of_xml(folder, xml, phrase)
    if len(notes) == 1:
        return annotations(notes[0], phrase)
    if notes and all(path.name == ROBOFLOW for path in notes):
        return _of_roboflow(folder, notes, phrase)
    if notes and "shapes" in (content := read_json(notes[0], dict | list)):
        return tool_of(notes[0], content, phrase)
    one = next(iter([*notes, *(path for kind in TABLES for path in files(folder, kind))]), None)
    raise ValueError(
        f"{folder}: " + (f"holds {one.name}: name a file, not its folder" if one else f"is none of {KINDS}")
    )


def _of_xml(folder: Path, paths: Sequence[Path], phrase: str | None) -> Annotations:
    roots = {root_of(path) for path in paths}
    if "annotation" not in roots and "annotations" in roots:
        raise ValueError(f"{paths[0]}: is CVAT's own XML, which is not read: export as COCO or Pascal VOC")
    return voc(folder, paths, phrase)


def _of_yolo(source: Path, labels: Sequence[Path], phrase: str | None) -> Annotations:
    if phrase:
        raise ValueError(f"{source}: YOLO's labels have no fields, so none is called {phrase}")
    return yolo(source, source if source.is_dir() else source.parent, labels)


def _of_roboflow(folder: Path, paths: Sequence[Path], phrase: str | None) -> Annotations:
    for path in paths:
        for where, read in tool_of(path, read_json(path, dict), phrase):
            yield where, partial(placed, read, path.relative_to(folder).parent)
