"""Visual Genome (Krishna et al., 2017) as people download it, read into regions for finetuning.

Under the root: `region_descriptions.json`, `attributes.json`, `image_data.json` and the pictures in `VG_100K/` and
`VG_100K_2/`. Two sources of phrases:

regions     descriptions of regions, as written, each with its one box
attributes  "attribute name" ("black cat") of every object with attributes; equal phrases of an image are one region

The id of a region is `ROW-NUMBER`: regions of one row are ways to read one record, and finetuning visits one of them.
Here each region is a row of its own, `SOURCE:IMAGE:RECORD-0`; in the authors' files (`read_records`) a record's
captions share a row.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from amc_lib.datasets import flickr30k, refer
from amc_lib.datasets.box_forms import CORNERS, SIDES, fitting, require_form
from amc_lib.datasets.image_files import ImageFile, ImageFolder
from amc_lib.datasets.records import (
    Regions,
    box_from_size,
    box_xyxy,
    by_id,
    four_numbers,
    id_text,
    naming,
    read_json,
    region,
    scale,
    scaled,
    words_of,
)
from amc_lib.datasets.units import require_pixels
from amc_lib.regions import Box, Region

SPLIT = "train"
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
REFER = {"refcoco+": "unc", "refcoco": "unc", "refcocog": "umd"}  # evaluated sets of COCO's pictures, and whose split


def held_out_ids(root: str | Path, flickr30k_root: str | Path, refer_root: str | Path) -> tuple[set[str], list[str]]:
    """Ids of the images that evaluation needs, and a sentence for each set that does not say all of its images.

    These are the images of Flickr30k Entities val and test, and of all splits but train of the sets in REFER, found by
    the ids of Flickr and COCO in image_data.json. ValueError for a damaged image_data.json.
    """
    faults = {name: Regions() for name in ("flickr30k", *REFER)}  # of each set, what it does not say
    coco, flickr, ids = set(), set(), set()
    for split in ("val", "test"):
        with faults["flickr30k"].record(f"flickr30k {split}"):
            for image_id in flickr30k.image_ids(Path(flickr30k_root), split):
                with faults["flickr30k"].record(f"{Path(flickr30k_root, split)}.txt, image {image_id}"):
                    flickr.add(int(image_id))
    for name, split_by in REFER.items():
        with faults[name].record(name):
            coco |= refer.held_out(Path(refer_root), name, split_by, faults[name])
    path = Path(root, "image_data.json")
    for number, record in enumerate(read_json(path, list)):
        with naming(f"{path}, image {number}"):
            if int(record.get("coco_id") or -1) in coco or int(record.get("flickr_id") or -1) in flickr:
                ids.add(id_text(_image_id(record)))
    named = [found.skipped for found in faults.values() if found.skipped]
    return ids, [f"{first} (and {len(others)} more)" if others else first for first, *others in named]


class _Picture(NamedTuple):
    image: ImageFile
    image_id: str
    size: tuple[float, float]  # width, height, pixels, as image_data.json states it
    factors: tuple[float, float]  # from that size to the file's (`records.scale`)


def read(
    root: str | Path,
    sources: Sequence[str] = ("regions", "attributes"),
    held_out: Collection[str] = (),
) -> Regions:
    """Regions of the sources, source by source, image by image, without the images whose ids are `held_out`.

    Boxes are xyxy in pixels of the picture's file, scaled where image_data.json states another size of the same shape,
    and clipped to it, since many overrun. What is malformed, or of another shape, is left out
    and named in `skipped`: an image that is missing, a phrase without words, a box without area inside the picture, and
    what stands a second time. ValueError for a damaged file, for one whose boxes evidently are no pixels or not x, y,
    width, height, and where image_data.json says two things of one image.
    """
    root, regions = Path(root).expanduser(), Regions()
    pictures = _pictures(root, held_out, regions)
    regions.held_out = len(pictures.keys() & set(held_out))
    for source in sources:
        name, regions_of = _SOURCES[source]
        before, fits, first = len(regions), Counter(), {}
        for number, record in enumerate(read_json(root / name, list)):
            where = f"{root / name}, image {number}"
            with regions.record(where):
                if (image_id := id_text(_image_id(record))) not in pictures:
                    raise ValueError(f"image_data.json has no image {image_id}")
                _require_first(first, image_id, record, "image")
                if picture := pictures[image_id]:
                    regions += regions_of(record[source], picture, where, regions, fits)
        with naming(f"{root / name}"):
            require_form(fits, SIDES)
            require_pixels(regions[before:])
    return regions


def _pictures(root: Path, held_out: Collection[str], regions: Regions) -> dict[str, _Picture | None]:
    """Pictures by image id; None for those held out or not there."""
    path, pictures = root / "image_data.json", {}
    records, folder = read_json(path, list), ImageFolder(root, IMAGE_FOLDERS)
    by_id(records, f"{path}", _image_id)
    for number, record in enumerate(records):
        with regions.record(f"{path}, image {number}"):
            image_id = id_text(_image_id(record))
            if image_id in pictures:
                raise ValueError(f"repeats image {image_id}")
            pictures[image_id] = None
            if image_id not in held_out:
                size = float(record["width"]), float(record["height"])
                image = folder.find(f"{image_id}.jpg")
                pictures[image_id] = _Picture(image, image_id, size, scale(size, image.size()[::-1]))
    return pictures


def _image_id(record: Mapping[str, Any]) -> int | str:
    return record["image_id"] if "image_id" in record else record["id"]  # names differ between files and versions


def _require_first(first: dict[Any, Any], name: Any, record: Any, what: str) -> None:
    """ValueError for a record that is not the `first` of its name, with a word on whether it says the same."""
    if (above := first.setdefault(name, record)) is not record:
        raise ValueError(f"repeats {what} {name}" + ("" if above == record else ", with other contents"))


def _clipped(thing: Mapping[str, Any], sides: tuple[str, str], picture: _Picture, fits: Counter) -> Box:
    """xyxy inside the picture, in pixels of its file; the forms that it fits in are counted in `fits`."""
    numbers = [float(thing[name]) for name in ("x", "y", *sides)]
    fits[fitting(numbers, picture.size)] += 1
    x1, y1, x2, y2 = box_from_size(*numbers, size=picture.size)
    width, height = picture.size
    return scaled((max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)), picture.factors)


def _described(
    things: Sequence[Any], picture: _Picture, where: str, regions: Regions, fits: Counter
) -> Iterator[Region]:
    """One region for each description."""
    first: dict[Any, Any] = {}
    for number, thing in enumerate(things):
        with regions.record(f"{where}, region {number}"):
            _require_first(first, thing["region_id"], thing, "region")
            box = _clipped(thing, ("width", "height"), picture, fits)
            name = f"regions:{picture.image_id}:{thing['region_id']}-0"
            yield region(name, SPLIT, picture.image, picture.image_id, thing["phrase"], [box])


def _attributed(
    things: Sequence[Any], picture: _Picture, where: str, regions: Regions, fits: Counter
) -> Iterator[Region]:
    """One region for each different "attribute name", with the boxes of all objects that it fits."""
    boxes: dict[str, dict[Box, None]] = {}
    for number, thing in enumerate(things):
        with regions.record(f"{where}, object {number}"):
            words = [words_of(attribute) for attribute in _listed(thing.get("attributes", ()))]
            phrases = [f"{word} {words_of(name)}" for word in words for name in _listed(thing["names"])]
            box = _clipped(thing, ("w", "h"), picture, fits) if phrases else None
            for phrase in phrases:
                boxes.setdefault(phrase, {})[box] = None
    for number, (phrase, its_boxes) in enumerate(boxes.items()):
        name = f"attributes:{picture.image_id}:{number}-0"
        yield region(name, SPLIT, picture.image, picture.image_id, phrase, [*its_boxes])


def _listed(texts: Any) -> Any:
    """One text as a list of it; anything else as it is."""
    return [texts] if isinstance(texts, str) else texts


_SOURCES = {"regions": ("region_descriptions.json", _described), "attributes": ("attributes.json", _attributed)}


def _size(image: ImageFile) -> tuple[float, float]:
    """(width, height), without an end where it cannot be read: that is counted when the picture is opened."""
    try:
        return image.size()[::-1]
    except ValueError:
        return math.inf, math.inf


def read_records(path: str | Path, image_root: str | Path) -> Regions:
    """The authors' annotation files: a JSON list of {image, caption (text or list), bbox [[x1, y1, x2, y2], ...]}.

    Boxes are pixels of the original picture. Every caption is one region with all boxes of its record; ids are
    `FILE:RECORD-CAPTION`. A record with any fault is left out whole and named in `skipped`. ValueError for a damaged
    file, and for one whose boxes evidently are no pixels or no corners.
    """
    path, image_root, regions, fits = Path(path), Path(image_root), Regions(), Counter()
    is_file, size = cache(os.path.isfile), cache(_size)  # a picture has many records
    for number, record in enumerate(read_json(path, list)):
        with regions.record(f"{path}, record {number}"):
            name, captions = record["image"], record["caption"]
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or not is_file(image_root / name):
                raise ValueError(f"the image {name!r:.80} is not in {image_root}")
            image, numbers = ImageFile(image_root / name), [*map(four_numbers, record["bbox"])]
            fits.update(fitting(one, size(image)) for one in numbers)
            boxes = [box_xyxy(*one) for one in numbers]
            regions += [
                region(f"{path.stem}:{number}-{n}", SPLIT, image, name, caption, boxes)
                for n, caption in enumerate(_listed(captions))
            ]
    with naming(f"{path}"):
        require_form(fits, CORNERS)
        require_pixels(regions)
    return regions
