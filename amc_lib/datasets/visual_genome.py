"""Visual Genome (Krishna et al., 2017) as people download it, read into regions for finetuning.

Under the root: `region_descriptions.json`, `objects.json`, `attributes.json`, `image_data.json` and the pictures in
`VG_100K/` and `VG_100K_2/`. Three sources of phrases:

regions     descriptions of regions, as written, each with its one box
attributes  "attribute name" ("black cat") of every object with attributes
objects     every name of every object

Equal phrases of one image out of attributes or objects are one region with several boxes. The id of a region is
`ROW-NUMBER`: regions of one row are ways to read one record, and finetuning visits one of them. Here each region is a
row of its own, `SOURCE:IMAGE:RECORD-0`; in the authors' files (`read_records`) a record's captions share a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from amc_lib.datasets import flickr30k, refer
from amc_lib.datasets.image_files import ImageFile, ImageFolder
from amc_lib.datasets.records import (
    Regions,
    Skips,
    checked,
    entry,
    four_numbers,
    from_size,
    id_entry,
    list_entry,
    path_below,
    phrase_of,
    read_list,
    text_entry,
)
from amc_lib.regions import Box, Region
from amc_lib.tokens import clean
from amc_lib.wording import named, shown

SPLIT = "train"
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
FILES = {"regions": "region_descriptions.json", "attributes": "attributes.json", "objects": "objects.json"}


@dataclass(frozen=True)
class HeldOut:
    """Images that evaluation needs: ids of COCO and of Flickr, which Visual Genome notes beside its own."""

    coco: frozenset[int] = frozenset()
    flickr: frozenset[int] = frozenset()


def held_out_images(flickr30k_root: str | Path, refer_root: str | Path) -> HeldOut:
    """The images of Flickr30k Entities val and test, and of RefCOCO+ (UNC) val, testA and testB."""
    flickr = set()
    for split in ("val", "test"):
        for image_id in flickr30k.image_ids(Path(flickr30k_root), split):
            if not image_id.isdecimal():
                raise ValueError(f"{Path(flickr30k_root, split)}.txt: the image id {shown(image_id)} is no number")
            flickr.add(int(image_id))
    path = Path(refer_root, "refcoco+", "refs(unc).p")
    coco = set()
    for number, ref in enumerate(refer.read_refs(path)):
        if entry(ref, "split", f"{path}, ref {number}") != "train":
            coco.add(id_entry(ref, "image_id", f"{path}, ref {number}"))
    return HeldOut(frozenset(coco), frozenset(flickr))


def ids_held_out(root: str | Path, held_out: HeldOut) -> set[str]:
    """Visual Genome's own ids of the images held out, by image_data.json."""
    path = Path(root, "image_data.json")
    coco, flickr = {str(image_id) for image_id in held_out.coco}, {str(image_id) for image_id in held_out.flickr}
    return {
        str(_image_id(record, f"{path}, image {number}")[0])
        for number, record in enumerate(read_list(path))
        if isinstance(record, Mapping)
        and (str(record.get("coco_id")) in coco or str(record.get("flickr_id")) in flickr)
    }


class _Picture(NamedTuple):
    image: ImageFile
    image_id: str
    size: tuple[float, float]  # width, height


def read(
    root: str | Path,
    split: str = SPLIT,
    sources: Sequence[str] = ("regions", "attributes"),
    held_out: HeldOut = HeldOut(),
    strict: bool = True,
) -> Regions:
    """All regions of the sources, source by source, image by image, without the images held out.

    Boxes are xyxy in pixels of the original picture, clipped to it, since many overrun. Raises ValueError with one
    sentence that names the file and the record; with `strict=False` what is malformed is left out and counted: an
    image that is missing, a phrase without words, a box without area inside the picture.
    """
    if split != SPLIT:
        raise ValueError(f"unknown Visual Genome split {split!r}; known: {SPLIT}")
    if unknown := [source for source in sources if source not in FILES]:
        raise ValueError(f"unknown Visual Genome source {unknown[0]!r}; known: {', '.join(FILES)}")
    root, skips = Path(root), Skips(strict)
    pictures, left_out = _pictures(root, held_out, skips)
    regions: list[Region] = []
    for source in sources:
        regions += _READERS[source](root / FILES[source], pictures, skips)
    return Regions(regions, skips.sentences, left_out)


def _pictures(root: Path, held_out: HeldOut, skips: Skips) -> tuple[dict[int | str, _Picture | None], int]:
    """The pictures by image id, None for those left out, and how many of these are held out."""
    path, folder = root / "image_data.json", ImageFolder(root, IMAGE_FOLDERS)
    held = ids_held_out(root, held_out)
    pictures: dict[int | str, _Picture | None] = {}
    for number, record in enumerate(read_list(path)):
        with skips.record():
            image_id, where = _image_id(record, f"{path}, image {number}")
            pictures[image_id] = None
            if str(image_id) not in held:
                sides = [0, 0, entry(record, "width", where), entry(record, "height", where)]
                size = four_numbers(sides, "width and height", where)[2:]
                pictures[image_id] = _Picture(folder.find(f"{image_id}.jpg", where), str(image_id), size)
    return pictures, len(held)


def _image_id(record: Any, where: str) -> tuple[int | str, str]:
    """The image id of a record, and `where` with it; some files and versions call it `id`."""
    has_long_name = isinstance(record, Mapping) and "image_id" in record
    image_id = id_entry(record, "image_id" if has_long_name else "id", where)
    return image_id, f"{where} ({named(str(image_id))})"


def _things(
    path: Path, name: str, pictures: Mapping[int | str, _Picture | None], skips: Skips
) -> Iterator[tuple[_Picture, list[Any], str]]:
    """Picture, records under `name`, and where they stand, for every image of a file that is not left out."""
    for number, record in enumerate(read_list(path)):
        picture = None
        with skips.record():
            image_id, where = _image_id(record, f"{path}, image {number}")
            if image_id not in pictures:
                raise ValueError(f"{where}: image_data.json has no such image")
            picture, things = pictures[image_id], list_entry(record, name, where)
        if picture is not None:
            yield picture, things, where


def _clipped(thing: Any, sides: tuple[str, str], picture: _Picture, where: str) -> Box:
    """xyxy inside the picture."""
    values = [entry(thing, name, where) for name in ("x", "y", *sides)]
    x1, y1, x2, y2 = checked(from_size(values, where), where, picture.size)
    width, height = picture.size
    return max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)


def _described(path: Path, pictures: Mapping[int | str, _Picture | None], skips: Skips) -> Iterator[Region]:
    for picture, things, where in _things(path, "regions", pictures, skips):
        for number, thing in enumerate(things):
            with skips.record():
                at = f"{where}, region {number}"
                box = _clipped(thing, ("width", "height"), picture, at)
                image_id = str(id_entry(thing, "image_id", at)) if "image_id" in thing else picture.image_id
                if image_id != picture.image_id:
                    raise ValueError(f"{at}: is of image {named(image_id)}")
                phrase = phrase_of(entry(thing, "phrase", at), at)
                name = f"regions:{picture.image_id}:{id_entry(thing, 'region_id', at)}-0"
                yield Region(name, SPLIT, picture.image, picture.image_id, phrase, (box,))


def _merged(source: str, phrases_of: Callable[[Any, str], list[str]]) -> Callable[..., Iterator[Region]]:
    """A reader of objects whose equal phrases, cleaned, are one region."""

    def regions(path: Path, pictures: Mapping[int | str, _Picture | None], skips: Skips) -> Iterator[Region]:
        for picture, things, where in _things(path, source, pictures, skips):
            boxes: dict[str, dict[Box, None]] = {}
            for number, thing in enumerate(things):
                with skips.record():
                    at = f"{where}, object {number}"
                    if phrases := phrases_of(thing, at):
                        box = _clipped(thing, ("w", "h"), picture, at)
                        for phrase in phrases:
                            boxes.setdefault(phrase, {})[box] = None
            for number, (phrase, of_phrase) in enumerate(boxes.items()):
                name, kind = f"{source}:{picture.image_id}:{number}-0", "group" if len(of_phrase) > 1 else "object"
                yield Region(name, SPLIT, picture.image, picture.image_id, phrase, tuple(of_phrase), kind)

    return regions


def _names(thing: Any, where: str) -> list[str]:
    return [clean(phrase_of(name, where)) for name in list_entry(thing, "names", where)]


def _with_attributes(thing: Any, where: str) -> list[str]:
    """ "attribute name", if there are attributes at all."""
    names = _names(thing, where)
    attributes = list_entry(thing, "attributes", where) if "attributes" in thing else []
    return [f"{clean(phrase_of(attribute, where))} {name}" for attribute in attributes for name in names]


_READERS = {
    "regions": _described,
    "attributes": _merged("attributes", _with_attributes),
    "objects": _merged("objects", _names),
}


def read_records(path: str | Path, image_root: str | Path, strict: bool = True) -> Regions:
    """The authors' annotation files: a JSON list of {image, caption (text or list), bbox [[x1, y1, x2, y2], ...]}.

    Boxes are pixels of the original picture. Every caption is one region with all boxes of its record; ids are
    `FILE:RECORD-CAPTION`. Errors and `strict` as in `read`; a record with any fault is left out whole.
    """
    path, skips = Path(path), Skips(strict)
    regions: list[Region] = []

    @cache
    def image_file(path: Path) -> ImageFile | None:
        return ImageFile(path) if os.path.isfile(path) else None

    for number, record in enumerate(read_list(path)):
        with skips.record():
            where = f"{path}, record {number}"
            name = text_entry(record, "image", where)
            if (image := image_file(path_below(Path(image_root), name, where))) is None:
                raise ValueError(f"{where}: the image {named(name)} is not in {image_root}")
            regions += _of_record(record, image, name, f"{path.stem}:{number}", where)
    return Regions(regions, skips.sentences)


def _of_record(record: Any, image: ImageFile, image_id: str, row: str, where: str) -> list[Region]:
    captions = entry(record, "caption", where)
    corners = [four_numbers(box, "x1, y1, x2 and y2", where) for box in list_entry(record, "bbox", where)]
    boxes = tuple(checked(box, where) for box in corners)
    kind = "group" if len(boxes) > 1 else "object"
    phrases = [phrase_of(text, where) for text in (captions if isinstance(captions, list) else [captions])]
    return [
        Region(f"{row}-{number}", SPLIT, image, image_id, phrase, boxes, kind) for number, phrase in enumerate(phrases)
    ]
