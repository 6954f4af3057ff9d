"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF (ReferIt) as people download them, read into regions.

Under ROOT/DATASET/: `refs(SPLIT_BY).p`, a pickled list of refs (ref_id, ann_id, image_id, split, file_name, sentences),
and `instances.json`, shaped as COCO's (images, annotations). The pickle is read without executing it. Every sentence
of every ref of a split is one region with the one box of its ref.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_lib.bounded_pickle import BoundedUnpickler, Refused
from amc_lib.datasets.image_files import ImageFolder
from amc_lib.datasets.records import (
    Regions,
    Skips,
    checked,
    entry,
    four_numbers,
    from_size,
    id_entry,
    list_entry,
    phrase_of,
    read_json,
    text_entry,
)
from amc_lib.regions import Box, Region
from amc_lib.wording import named, reason, shown

IMAGE_FOLDERS = {  # below the root, as the refer toolkit lays them out
    "refcoco": "images/mscoco/images/train2014",
    "refcoco+": "images/mscoco/images/train2014",
    "refcocog": "images/mscoco/images/train2014",
    "refclef": "images/saiapr_tc-12",
}


def read(root: str | Path, dataset: str, split_by: str, split: str, strict: bool = True) -> Regions:
    """All regions of a split (`refcoco+`, `unc`: train, val, testA, testB), ref by ref; ids are `REF-SENTENCE`.

    Boxes are xyxy in pixels of the original picture. Raises ValueError with one sentence that names the file and the
    record; with `strict=False` a malformed ref or sentence is left out and counted. A split that no ref names is
    refused with those that there are.
    """
    if dataset not in IMAGE_FOLDERS:
        raise ValueError(f"unknown refer data set {dataset!r}; known: {', '.join(IMAGE_FOLDERS)}")
    root, skips = Path(root), Skips(strict)
    path = root / dataset / f"refs({split_by}).p"
    refs = read_refs(path)
    instances = _Instances(root / dataset / "instances.json", skips)
    images = ImageFolder(root, (IMAGE_FOLDERS[dataset],))
    regions: list[Region] = []
    splits = set()
    for number, ref in enumerate(refs):
        with skips.record():
            where = f"{path}, ref {number}"
            splits.add(text_entry(ref, "split", where))
            if ref["split"] == split:
                regions += _regions(ref, instances, images, where, skips)
    if split not in splits:
        raise ValueError(f"{path}: no split {split!r}; it has {', '.join(map(named, sorted(splits)[:9])) or 'none'}")
    return Regions(regions, skips.sentences)


def read_refs(path: Path) -> list[Mapping[str, Any]]:
    """The refs of a `refs(...).p`. ValueError for anything in it but containers, strings and numbers."""
    try:
        refs = _Containers(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: is no pickle that can be read: {reason(error)}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path}: holds no list of refs")
    return refs


class _Containers(BoundedUnpickler):
    """An unpickler that knows no class and no function, so that nothing in the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        raise Refused(f"refused, because it names {named(f'{module}.{name}')}; only plain containers are read")

    def persistent_load(self, identifier: Any) -> Any:
        raise Refused("refused, because it refers to objects outside the file")


def read_detections(path: str | Path) -> dict[str, tuple[Box, ...]]:
    """A detector's boxes for each image id (MAttNet's dets.json), xyxy in pixels of the original picture.

    Either shape that goes round is read: image id -> boxes [x, y, width, height] (or records with such a `box`), or
    one list of records with `image_id` and `box`. Raises ValueError with one sentence that names the record.
    """
    path = Path(path)
    detections = read_json(path)
    if isinstance(detections, Mapping):
        listed = [(image_id, box) for image_id in detections for box in list_entry(detections, image_id, str(path))]
    elif isinstance(detections, list):
        listed = [(id_entry(d, "image_id", f"{path}, detection {n}"), d) for n, d in enumerate(detections)]
    else:
        raise ValueError(f"{path}: holds no detections")
    boxes: dict[str, list[Box]] = {}
    for number, (image_id, box) in enumerate(listed):
        where = f"{path}, detection {number}"
        values = entry(box, "box", where) if isinstance(box, Mapping) else box
        boxes.setdefault(str(image_id), []).append(checked(from_size(values, where), where))
    return {image_id: tuple(of_image) for image_id, of_image in boxes.items()}


class _Instances:
    """Annotations and images of an `instances.json` by id, each with its place in the file; read when asked for."""

    def __init__(self, path: Path, skips: Skips) -> None:
        coco = read_json(path)
        if not isinstance(coco, Mapping) or not isinstance(coco.get("annotations"), list):
            raise ValueError(f"{path}: is no COCO annotation file")
        self._annotations = _by_id(coco["annotations"], f"{path}, annotation", skips)
        self._images = _by_id(coco["images"], f"{path}, image", skips) if isinstance(coco.get("images"), list) else {}

    def image(self, image_id: int | str) -> tuple[str | None, tuple[float, float] | None]:
        """File name and (width, height), each None where the file does not say it."""
        where, record = self._images.get(image_id, ("", {}))
        size = None
        if "width" in record and "height" in record:
            size = four_numbers([0, 0, record["width"], record["height"]], "width and height", where)[2:]
        name = record.get("file_name")
        return (name if isinstance(name, str) else None), size

    def box(self, ann_id: int | str, image_id: int | str, size: tuple[float, float] | None, ref: str) -> Box:
        """xyxy, of the annotation that `ref` names by its id."""
        if ann_id not in self._annotations:
            raise ValueError(f"{ref}: instances.json has no annotation {named(str(ann_id))}")
        where, record = self._annotations[ann_id]
        if record.get("image_id", image_id) != image_id:
            own, others = shown(image_id), shown(record["image_id"])
            raise ValueError(f"{ref}: is of image {own}, but its {where} is of image {others}")
        return checked(from_size(entry(record, "bbox", where), where), where, size)


def _by_id(records: list[Any], kind: str, skips: Skips) -> dict[int | str, tuple[str, Mapping[str, Any]]]:
    found = {}
    for number, record in enumerate(records):
        with skips.record():
            where = f"{kind} {number}"
            found[id_entry(record, "id", where)] = where, record
    return found


def _regions(ref: Mapping[str, Any], instances: _Instances, images: ImageFolder, where: str, skips: Skips) -> list:
    ref_id, image_id = id_entry(ref, "ref_id", where), id_entry(ref, "image_id", where)
    name, size = instances.image(image_id)
    image = images.find(name or _image_name(text_entry(ref, "file_name", where)), where)
    box = instances.box(id_entry(ref, "ann_id", where), image_id, size, where)
    regions = []
    for number, sentence in enumerate(list_entry(ref, "sentences", where)):
        with skips.record():
            at = f"{where}, sentence {number}"
            phrase = phrase_of(entry(sentence, "sent", at), at)
            sent_id = id_entry(sentence, "sent_id", at)
            regions.append(Region(f"{ref_id}-{sent_id}", ref["split"], image, str(image_id), phrase, (box,)))
    return regions


def _image_name(file_name: str) -> str:
    """The picture of a ref: behind COCO's name of it stands a number of the ref (COCO_train2014_000000098304_3.jpg)."""
    stem, _, suffix = file_name.rpartition(".")
    return "_".join(stem.split("_")[:3]) + f".{suffix}" if stem.startswith("COCO_") else file_name
