"""Flickr30k Entities (Plummer et al., ICCV 2015) as people download it, read into regions.

Under the root: `Sentences/ID.txt` (five captions a picture, phrases marked `[/EN#chain/type words]`),
`Annotations/ID.xml` (boxes of chains, 1-based), `train.txt`, `val.txt`, `test.txt` (one ID a line) and the pictures in
`flickr30k-images/` or `images/`. Every phrase of every caption whose chain has a box is one region with all boxes of
its chain; chain 0 ("not visual") has none.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

from amc_lib.datasets.image_files import ImageFolder
from amc_lib.datasets.records import FARTHEST, Regions, Skips, checked, phrase_of, read_text
from amc_lib.regions import Box, Region
from amc_lib.wording import shown

SPLITS = ("train", "val", "test")
IMAGE_FOLDERS = ("flickr30k-images", "images")
NOT_VISUAL = "0"
_ID = re.compile(r"\w{1,100}", re.ASCII)  # of a picture, and the name of its files
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\]]+)+)\s+([^\]]+)\]")  # chain, types, words


def read(root: str | Path, split: str, strict: bool = True) -> Regions:
    """All regions of a split, picture by picture, caption by caption; ids are `IMAGE-PHRASE`.

    Boxes are xyxy in 0-based pixels of the original picture: one is taken off each coordinate of the file. Raises
    ValueError with one sentence that names the file and, where there is one, the record. With `strict=False` what is
    malformed below the split's list is left out and counted: a picture without its files, a phrase without words, and
    every phrase of a chain that has a bad box, since a hit in the lost box would count as a miss.
    """
    root = Path(root)
    ids = image_ids(root, split)
    images, skips = ImageFolder(root, IMAGE_FOLDERS), Skips(strict)
    regions: list[Region] = []
    for image_id in ids:
        with skips.record():
            sentences = root / "Sentences" / f"{image_id}.txt"
            boxes, marked = chain_boxes(root / "Annotations" / f"{image_id}.xml", skips), phrases(sentences)
            image = images.find(f"{image_id}.jpg", f"{root / f'{split}.txt'}, image {image_id}")
            for number, (chain, phrase) in enumerate(marked):
                if chain in boxes:
                    with skips.record():
                        phrase_of(phrase, f"{sentences}, phrase {number}")
                        kind = "group" if len(boxes[chain]) > 1 else "object"
                        name = f"{image_id}-{number}"
                        regions.append(Region(name, split, image, image_id, phrase, boxes[chain], kind))
    return Regions(regions, skips.sentences)


def image_ids(root: Path, split: str) -> list[str]:
    """The pictures of a split, in the order of its list."""
    if split not in SPLITS:
        raise ValueError(f"unknown Flickr30k Entities split {split!r}; known: {', '.join(SPLITS)}")
    path = root / f"{split}.txt"
    ids = read_text(path).split()
    if bad := [image_id for image_id in ids if not _ID.fullmatch(image_id)]:
        raise ValueError(f"{path}: {shown(bad[0])} is no image id")
    return ids


def phrases(path: Path) -> list[tuple[str, str]]:
    """(chain, phrase) of every marked phrase of a Sentences file, in order; those of chain 0 included."""
    found = []
    captions = read_text(path).splitlines()
    if not any(captions):
        raise ValueError(f"{path}: holds no caption")
    for number, caption in enumerate(captions, start=1):
        marked = _PHRASE.findall(caption)
        if len(marked) != caption.count("[/EN#"):
            raise ValueError(f"{path}, caption {number}: a phrase is not closed or has no words")
        found += [(chain, " ".join(words.split())) for chain, _, words in marked]
    return found


def chain_boxes(path: Path, skips: Skips) -> dict[str, tuple[Box, ...]]:
    """For each chain of an Annotations file all its boxes; chains without a box, or with a bad one, do not appear."""
    try:
        annotation = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no XML: {error}") from error
    size = _size(annotation, path)
    boxes: dict[str, list[Box]] = defaultdict(list)
    without = {"", NOT_VISUAL}
    for number, thing in enumerate(annotation.findall("object"), start=1):
        if (corners := thing.find("bndbox")) is None:
            continue  # `nobndbox` or `scene`: named, but without a place
        chains = {name.text or "" for name in thing.findall("name")}
        bad = set(chains)
        with skips.record():
            box = _box(corners, size, f"{path}, object {number}")
            bad.clear()
            for chain in chains:
                boxes[chain].append(box)
        without |= bad
    return {chain: tuple(of_chain) for chain, of_chain in boxes.items() if chain not in without}


def _size(annotation: ElementTree.Element, path: Path) -> tuple[float, float] | None:
    """(width, height) of the picture, where the file says it."""
    if (size := annotation.find("size")) is None:
        return None
    try:
        width, height = (float(size.findtext(name, "")) for name in ("width", "height"))
        if not (0 < width <= FARTHEST and 0 < height <= FARTHEST):
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{path}: size needs the numbers width and height") from error
    return width, height


def _box(corners: ElementTree.Element, size: tuple[float, float] | None, where: str) -> Box:
    try:
        x1, y1, x2, y2 = (float(corners.findtext(name, "")) - 1 for name in ("xmin", "ymin", "xmax", "ymax"))
        if not all(abs(edge) <= FARTHEST for edge in (x1, y1, x2, y2)):
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{where}: a box needs the numbers xmin, ymin, xmax and ymax") from error
    return checked((x1, y1, x2, y2), where, size)
