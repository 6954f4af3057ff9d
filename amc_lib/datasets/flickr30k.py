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

from amc_lib.datasets.image_files import ImageFile
from amc_lib.regions import Box, Region

SPLITS = ("train", "val", "test")
IMAGE_FOLDERS = ("flickr30k-images", "images")
NOT_VISUAL = "0"
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\]]+)+)\s+([^\]]+)\]")  # chain, types, words


def read(root: str | Path, split: str) -> list[Region]:
    """All regions of a split, picture by picture, caption by caption.

    Boxes are xyxy in 0-based pixels of the original picture: one is taken off each coordinate of the file. Raises
    ValueError with one sentence that names the file and, where there is one, the record.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"unknown Flickr30k Entities split {split!r}; known: {', '.join(SPLITS)}")
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    if images is None:
        raise ValueError(f"{root}: holds neither {' nor '.join(f'{name}/' for name in IMAGE_FOLDERS)}")
    regions: list[Region] = []
    for image_id in _text(root / f"{split}.txt").split():
        boxes = chain_boxes(root / "Annotations" / f"{image_id}.xml")
        image = ImageFile(images / f"{image_id}.jpg")
        for number, (chain, phrase) in enumerate(phrases(root / "Sentences" / f"{image_id}.txt")):
            if chain in boxes:
                kind = "group" if len(boxes[chain]) > 1 else "object"
                regions.append(Region(f"{image_id}-{number}", split, image, image_id, phrase, boxes[chain], kind))
    return regions


def phrases(path: Path) -> list[tuple[str, str]]:
    """(chain, phrase) of every marked phrase of a Sentences file, in order; those of chain 0 included."""
    found = []
    for number, caption in enumerate(_text(path).splitlines(), start=1):
        marked = _PHRASE.findall(caption)
        if len(marked) != caption.count("[/EN#"):
            raise ValueError(f"{path}, caption {number}: a phrase is not closed or has no words")
        found += [(chain, " ".join(words.split())) for chain, _, words in marked]
    return found


def chain_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """For each chain of an Annotations file all its boxes; chains without a box do not appear."""
    try:
        objects = ElementTree.fromstring(_text(path)).findall("object")
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no XML: {error}") from error
    boxes: dict[str, list[Box]] = defaultdict(list)
    for number, thing in enumerate(objects, start=1):
        if (corners := thing.find("bndbox")) is None:
            continue  # `nobndbox` or `scene`: named, but without a place
        box = _box(corners, f"{path}, object {number}")
        for name in thing.findall("name"):
            boxes[name.text or ""].append(box)
    return {chain: tuple(of_chain) for chain, of_chain in boxes.items() if chain not in ("", NOT_VISUAL)}


def _box(corners: ElementTree.Element, where: str) -> Box:
    try:
        x1, y1, x2, y2 = (float(corners.findtext(name, "")) - 1 for name in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise ValueError(f"{where}: a box needs the numbers xmin, ymin, xmax and ymax") from error
    if not (0 <= x1 < x2 and 0 <= y1 < y2):
        raise ValueError(f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area or begins outside the picture")
    return x1, y1, x2, y2


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text: {error}") from error
