"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF (ReferIt) as people download them, read into regions.

Under ROOT/DATASET/: `refs(SPLIT_BY).p`, a pickled list of refs (ref_id, ann_id, image_id, split, file_name, sentences),
and `instances.json`, shaped as COCO's (images, annotations). Every sentence of every ref of a split is one region with
the one box of its ref. Where that file is missing, parquet files are read (`refer_parquet`).
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from amc_lib.datasets import refer_parquet
from amc_lib.datasets.box_forms import SIDES, fitting, require_form
from amc_lib.datasets.image_files import ImageBytes, ImageFile, ImageFolder
from amc_lib.datasets.records import (
    Regions,
    box_from_size,
    by_id,
    four_numbers,
    id_text,
    naming,
    read_json,
    region,
    scale,
    scaled,
)
from amc_lib.datasets.units import LOOKS, are_shares, require_pixels
from amc_lib.files import content_or
from amc_lib.regions import Box

COUNTS_AS = {"testab": ("testa", "testb"), "testbc": ("testb", "testc")}  # splits of RefCLEF's UNC file
IMAGE_FOLDERS = {  # below the root, as the refer toolkit lays them out
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog"), "images/mscoco/images/train2014"),
    "refclef": "images/saiapr_tc-12",
}


def read(root: str | Path, dataset: str, split_by: str, split: str) -> Regions:
    """Regions of a split (`refcoco+`, `unc`: train, val, testA, testB), ref by ref; ids are `REF-SENTENCE`.

    RefCLEF's UNC file has testA, testB and testC, and refs that count for two of them; Berkeley's has one `test`.
    Boxes are xyxy in pixels of the picture's file, scaled where instances.json states another size of the same shape.
    A malformed ref or sentence, and one whose picture has another shape, is left out and named in `skipped`; one of
    which the split is not known, in every split. Splits are the same in any capitals, and ids as text and as numbers.
    ValueError for a damaged file, for one whose boxes evidently are no pixels or not x, y, width, height, for two
    annotations or pictures of one id, and for a split that no ref names, with those that there are.
    """
    if dataset not in IMAGE_FOLDERS:
        raise ValueError(f"unknown refer data set {dataset!r}; known: {', '.join(IMAGE_FOLDERS)}")
    root, regions, ids, fits = Path(root).expanduser(), Regions(), set(), Counter()
    path = root / dataset / f"refs({split_by}).p"
    if _in_parquet(path):
        return refer_parquet.read(path.parent, split)
    refs = _refs_of(path, split, regions)
    annotations, pictures = _instances(root / dataset / "instances.json")
    images, stored_size = ImageFolder(root, (IMAGE_FOLDERS[dataset],)), cache(ImageFile.size)
    for where, ref in refs:
        with regions.record(where):
            picture = pictures.get(image_id := id_text(ref["image_id"]), {})
            image = images.find(picture.get("file_name") or _image_name(ref["file_name"]))
            box = _box(ref, annotations, picture, stored_size(image), fits)
            if not ref["sentences"] or isinstance(ref["sentences"], str):
                raise ValueError("has no list of sentences")
            for n, sentence in enumerate(ref["sentences"]):
                with regions.record(f"{where}, sentence {n}"):
                    name = f"{ref['ref_id']}-{sentence['sent_id']}"
                    if name in ids:
                        raise ValueError(f"its id {name} is that of another sentence")
                    regions.append(region(name, split, image, image_id, sentence["sent"], [box]))
                    ids.add(name)
    with naming(f"{root / dataset / 'instances.json'}"):
        require_form(fits, SIDES)
        require_pixels(regions)
    return regions


def held_out(root: Path, dataset: str, split_by: str, faults: Regions) -> set[int]:
    """COCO's numbers of the pictures of all splits but train; what does not say them is named in `faults`."""
    path, numbers = root / dataset / f"refs({split_by}).p", set()
    if _in_parquet(path):
        return refer_parquet.held_out(path.parent, faults)
    for number, ref in enumerate(read_refs(path)):
        with faults.record(f"{path}, ref {number}"):
            if refer_parquet.split_key(ref["split"]) != "train":
                numbers.add(int(id_text(ref["image_id"])))
    return numbers


def _in_parquet(path: Path) -> bool:
    """Whether a data set is there in parquet files alone, without its refs at `path`."""
    return not path.is_file() and bool(refer_parquet.files_of(path.parent))


def _refs_of(path: Path, split: str, regions: Regions) -> list[tuple[str, Mapping[str, Any]]]:
    """The refs of a split, each behind where it stands. ValueError where there are none."""
    refs, splits, asked = [], set(), refer_parquet.split_key(split)
    for number, ref in enumerate(read_refs(path)):
        with regions.record(where := f"{path}, ref {number}"):
            names = _splits(ref)
            splits.update(map(refer_parquet.SPLITS.get, names))
            if asked in names:
                refs.append((where, ref))
    if not refs:
        unsaid = ""
        if unknown := [sentence.removeprefix(f"{path}, ") for sentence in regions.skipped]:
            unsaid = f"; {len(unknown)} refs say none that is known ({unknown[0]})"
        raise ValueError(f"{path}: no split {split!r}; it has {', '.join(sorted(splits)[:9]) or 'none'}{unsaid}")
    return refs


def _splits(ref: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of the splits that a ref belongs to. ValueError where it says none that is known."""
    if not isinstance(name := ref["split"], str):
        raise ValueError(f"its split {name!r:.80} is not text")
    key = refer_parquet.known_split(name)
    return COUNTS_AS.get(key, (key,))


def _instances(path: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """Annotations and images of a COCO file by id."""
    coco = read_json(path, dict)
    with naming(f"{path}"):
        return tuple(by_id(coco.get(name, []), name) for name in ("annotations", "images"))


def _image_name(file_name: str) -> str:
    """The picture of a ref: behind COCO's name of it stands a number of the ref (COCO_train2014_000000098304_3.jpg)."""
    stem, _, suffix = file_name.rpartition(".")
    return "_".join(stem.split("_")[:3]) + f".{suffix}" if stem.startswith("COCO_") else file_name


def _box(
    ref: Mapping[str, Any],
    annotations: Mapping[str, dict],
    picture: Mapping[str, Any],
    stored: tuple[int, int],
    fits: Counter[frozenset[str]],
) -> Box:
    """xyxy of a ref's annotation; where the file says the picture's size, inside it and brought to the stored one.

    stored: (height, width) of the picture's file. The forms in which the box fits the picture are counted in `fits`.
    """
    ann_id, image_id = id_text(ref["ann_id"]), id_text(ref["image_id"])
    if (annotation := annotations.get(ann_id)) is None:
        raise ValueError(f"instances.json has no annotation {ann_id:.80}")
    if (its_image := id_text(annotation.get("image_id", image_id))) != image_id:
        raise ValueError(f"its annotation {ann_id} belongs to image {its_image:.80}")
    numbers = four_numbers(annotation["bbox"])
    stated = (float(picture["width"]), float(picture["height"])) if "width" in picture else None
    fits[fitting(numbers, stated or stored[::-1])] += 1
    box = box_from_size(*numbers, size=stated)
    return scaled(box, scale(stated, stored[::-1])) if stated else box


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of containers, texts and numbers: a file that names any class or function is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only plain data are read")


def read_refs(path: Path) -> list[Mapping[str, Any]]:
    """The refs of a `refs(...).p`, read without executing it. ValueError for anything but a list of dicts."""
    try:
        refs = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = content_or(path, f"cannot be read as a pickle of refs: {error!s:.200}")
        raise ValueError(f"{path}: {reason}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path}: holds no list of refs")
    return refs


def read_detections(
    path: str | Path, pictures: Mapping[str, ImageFile | ImageBytes] | None = None
) -> dict[str, tuple[Box, ...]]:
    """A detector's boxes for each image id (MAttNet's dets.json), xyxy in pixels of the original picture.

    Each shape in circulation is read: image id -> boxes [x, y, width, height], or a list of records with `image_id`
    and `box`, alone or as "dets". pictures: those that are asked about, by image id. Raises ValueError with one
    sentence that names the record, and for a file that has none of these pictures, or whose boxes evidently have
    another form or are no pixels.
    """
    path, boxes, fits, pictures = Path(path), {}, Counter(), pictures or {}
    size = cache(lambda image_id: pictures[image_id].size()[::-1])
    for number, detection in enumerate(_detections(path)):
        with naming(f"{path}, detection {number}"):
            match detection:
                case {"image_id": int() | float() | str() as named, "box": [_, _, _, _] as box}:
                    image_id, numbers = id_text(named), four_numbers(box)
                case _:
                    raise ValueError(f"{detection!r:.80} is not an image_id and a box [x, y, width, height]")
            boxes.setdefault(image_id, []).append(box_from_size(*numbers))
            if image_id in pictures:
                fits[fitting(numbers, size(image_id))] += 1
    with naming(f"{path}"):
        if not boxes:
            raise ValueError("holds no detection")
        if pictures and not boxes.keys() & pictures.keys():
            raise ValueError(f"its image ids are none of those that are asked about, such as {min(pictures)}")
        if are_shares(chain.from_iterable(boxes.values())):
            raise ValueError(f"its boxes look like {LOOKS['share']}, and only pixels are read")
        require_form(fits, SIDES)
    return {image_id: tuple(its_boxes) for image_id, its_boxes in boxes.items()}


def _detections(path: Path) -> Iterable[Any]:
    """The records of a file of detections."""
    detections = read_json(path, list | dict)
    if isinstance(detections, dict) and isinstance(detections.get("dets"), list):
        detections = detections["dets"]
    if isinstance(detections, list):
        return detections
    with naming(f"{path}"):
        return [{"image_id": image_id, "box": box} for image_id in detections for box in detections[image_id]]
