"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF (ReferIt) as people download them, read into regions.

Under ROOT/DATASET/: `refs(SPLIT_BY).p`, a pickled list of refs (ref_id, ann_id, image_id, split, file_name, sentences),
and `instances.json`, shaped as COCO's. The pickle is read without executing it. Every sentence of every ref of a split
is one region with the one box of its ref.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_lib.datasets.image_files import ImageFile
from amc_lib.regions import Box, Region

IMAGE_FOLDERS = {  # below the root, as the refer toolkit lays them out
    "refcoco": "images/mscoco/images/train2014",
    "refcoco+": "images/mscoco/images/train2014",
    "refcocog": "images/mscoco/images/train2014",
    "refclef": "images/saiapr_tc-12",
}


def read(root: str | Path, dataset: str, split_by: str, split: str) -> list[Region]:
    """All regions of a split (`refcoco+`, `unc`: train, val, testA, testB), ref by ref, sentence by sentence.

    Boxes are xyxy in pixels of the original picture. Raises ValueError with one sentence that names the file and the
    record; a split that no ref names is refused with those that there are.
    """
    if dataset not in IMAGE_FOLDERS:
        raise ValueError(f"unknown refer data set {dataset!r}; known: {', '.join(IMAGE_FOLDERS)}")
    root = Path(root)
    refs_path, instances_path = root / dataset / f"refs({split_by}).p", root / dataset / "instances.json"
    refs, instances = read_refs(refs_path), _instances(instances_path)
    splits = sorted({str(_entry(ref, "split", f"{refs_path}, ref {n}")) for n, ref in enumerate(refs)})
    if split not in splits:
        raise ValueError(f"{refs_path}: no split {split!r}; it has {', '.join(splits) or 'none'}")
    regions: list[Region] = []
    for number, ref in enumerate(refs):
        if ref["split"] == split:
            regions += _regions(ref, instances, root / IMAGE_FOLDERS[dataset], f"{refs_path}, ref {number}")
    return regions


def read_refs(path: Path) -> list[Mapping[str, Any]]:
    """The refs of a `refs(...).p`. ValueError for anything in it but containers, strings and numbers."""
    try:
        refs = _Containers(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: is no pickle that can be read: {error}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path}: holds no list of refs")
    return refs


class _Containers(pickle.Unpickler):
    """An unpickler that knows no class and no function, so that nothing in the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refused, because it names {module}.{name}; only plain containers are read")

    def persistent_load(self, identifier: Any) -> Any:
        raise pickle.UnpicklingError("refused, because it refers to objects outside the file")


def _instances(path: Path) -> dict[Any, Box]:
    """Annotation id -> box xyxy, out of COCO's x, y, width, height."""
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no COCO annotation file: {error!r}") from error
    boxes: dict[Any, Box] = {}
    for number, annotation in enumerate(annotations):
        where = f"{path}, annotation {number}"
        edges = _entry(annotation, "bbox", where)
        try:
            x, y, width, height = map(float, edges)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: bbox needs the numbers x, y, width and height") from error
        boxes[_entry(annotation, "id", where)] = (x, y, x + width, y + height)
    return boxes


def _regions(ref: Mapping[str, Any], boxes: Mapping[Any, Box], images: Path, where: str) -> list[Region]:
    ann_id, image_id = _entry(ref, "ann_id", where), str(_entry(ref, "image_id", where))
    if ann_id not in boxes:
        raise ValueError(f"{where}: instances.json has no annotation {ann_id}")
    image = ImageFile(images / _image_name(str(_entry(ref, "file_name", where))))
    return [
        Region(
            id=f"{_entry(ref, 'ref_id', where)}-{_entry(sentence, 'sent_id', where)}",
            split=ref["split"],
            image=image,
            image_id=image_id,
            phrase=str(_entry(sentence, "sent", where)),
            boxes=(boxes[ann_id],),
        )
        for sentence in _entry(ref, "sentences", where)
    ]


def _image_name(file_name: str) -> str:
    """The picture of a ref: behind COCO's name of it stands a number of the ref (COCO_train2014_000000098304_3.jpg)."""
    stem, _, suffix = file_name.rpartition(".")
    return "_".join(stem.split("_")[:3]) + f".{suffix}" if stem.startswith("COCO_") else file_name


def _entry(record: Any, name: str, where: str) -> Any:
    if not isinstance(record, Mapping) or name not in record:
        raise ValueError(f"{where}: has no {name}")
    return record[name]
