"""Flickr30k Entities (Plummer et al., ICCV 2015) as people download it, read into regions.

Under the root: `Sentences/ID.txt` (five captions a picture, phrases marked `[/EN#chain/type words]`),
`Annotations/ID.xml` (boxes of chains, 1-based), `train.txt`, `val.txt`, `test.txt` (one ID a line; other lists are
read by their names) and the pictures:

ID.jpg          in `flickr30k-images/` or `images/`: all of Flickr30k; a picture that is not there is a fault
ID_letters.jpg  in the folder of Flickr8k's archive, a part of Flickr30k: the ids of the others are counted, no more

Every phrase of every caption whose chain has a box is one region with all boxes of its chain; chain 0 ("not visual")
has none.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from amc_lib.datasets.image_files import ImageFile, ImageFolder
from amc_lib.datasets.records import Regions, box_xyxy, read_text, region, scale, scaled, visible
from amc_lib.files import content_or
from amc_lib.regions import Box, Region

SPLITS = ("train", "val", "test")
IMAGE_FOLDERS = ("flickr30k-images", "images")
FLICKR8K_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images")  # the first as its archive spells it
FLICKR8K_NAME = re.compile(r"(\d+)_\w+\.jpg")  # id, letters
MARK = "[/EN#"
NOT_VISUAL = "0"  # the chain of phrases that name nothing to see
PHRASE = re.compile(r"\[/EN#(\d+)/([^\s/\]]+)(?:/[^\s/\]]+)*\s+([^\]]+)\]")  # chain, first type, words


def read(root: str | Path, split: str) -> Regions:
    """Regions of a split, picture by picture, caption by caption; ids are `IMAGE-PHRASE`.

    Boxes are xyxy in 0-based pixels of the original picture: one is taken off each coordinate of the file. A region's
    `entity` is the phrase's type, the first where it has several, and `chain` its chain's id. What is malformed is left
    out and named in `skipped`: a picture without its files, a phrase without words, and every phrase of a chain that
    has a bad box, since a hit in the lost box would count as a miss. ValueError for a bad list.

    A picture of another size than its annotation states keeps its size, and its boxes are scaled to it, if both have
    the same shape (`scale`); else it is left out and named.
    """
    root, regions = Path(root).expanduser(), Regions()
    ids, images = image_ids(root, split), pictures(root)
    if not {path.name for path in root.iterdir()} & {*IMAGE_FOLDERS}:
        regions.without_picture = len({*ids} - images.keys())
        ids = [image_id for image_id in ids if image_id in images]
    for image_id in ids:
        with regions.record(f"{root / split}.txt, image {image_id}"):
            regions += _of_picture(root, split, image_id, images, regions)
    return regions


def _of_picture(
    root: Path, split: str, image_id: str, images: dict[str, ImageFile], regions: Regions
) -> Iterator[Region]:
    """The regions of a picture; what is malformed about a box or a phrase is named in `regions`."""
    sentences = root / "Sentences" / f"{image_id}.txt"
    boxes, size = chain_boxes(root / "Annotations" / f"{image_id}.xml", regions)
    marked = phrases(sentences)
    if image_id not in images:
        raise ValueError(f"the image '{image_id}.jpg' is not in {' or '.join(IMAGE_FOLDERS)}")
    image = images[image_id]
    if size:
        height, width = image.size()
        factors = scale(size, (width, height))
        boxes = {chain: tuple(scaled(box, factors) for box in its_boxes) for chain, its_boxes in boxes.items()}
    for number, (chain, entity, phrase) in enumerate(marked):
        if chain in boxes:
            with regions.record(f"{sentences}, phrase {number}"):
                names = {"entity": entity, "chain": chain}
                yield region(f"{image_id}-{number}", split, image, image_id, phrase, boxes[chain], **names)


def pictures(root: Path) -> dict[str, ImageFile]:
    """The pictures by image id. ValueError where there is no folder of pictures."""
    folder = ImageFolder(root, (*IMAGE_FOLDERS, *FLICKR8K_FOLDERS))
    names = {match[1]: name for name in folder if (match := FLICKR8K_NAME.fullmatch(name))}
    names |= {name.removesuffix(".jpg"): name for name in folder}
    return {image_id: folder.find(name) for image_id, name in names.items()}


def image_ids(root: Path, split: str) -> list[str]:
    """Ids of the pictures of a split, in the order of its list SPLIT.txt, each once.

    A list may have any name, and name pictures by their files. ValueError where there is none of that name.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in visible(root.glob("*.txt")))) or "none"
        raise ValueError(f"{path}: no such file; the lists that are there: {there}") from FileNotFoundError(path)
    ids = list(dict.fromkeys(name.removesuffix(".jpg") for name in read_text(path).split()))
    if bad := [image_id for image_id in ids if not re.fullmatch(r"[\w-]+", image_id)]:
        raise ValueError(f"{path}: {bad[0]!r:.80} is not an image id")
    return ids


def phrases(path: Path) -> list[tuple[str, str, str]]:
    """(chain, entity type, phrase) of every marked phrase of a Sentences file, in order; those of chain 0 included."""
    return [(chain, entity, " ".join(words.split())) for chain, entity, words in PHRASE.findall(_marked(path))]


def captions(path: str | Path) -> list[str]:
    """The captions of a Sentences file, one a line, without the marks of phrases; words stay as they are written.

    Words and signs stand apart by one space, as in the file. ValueError as for `phrases`.
    """
    lines = PHRASE.sub(r"\3", _marked(Path(path))).splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def _marked(path: Path) -> str:
    """The text of a Sentences file. ValueError naming it where a mark is not well formed, or there is none."""
    text = read_text(path)
    if not 0 < len(PHRASE.findall(text)) == text.count(MARK):
        raise ValueError(f"{path}: has no marked phrase, or one that is not closed or has no words")
    return text


def chain_boxes(path: Path, regions: Regions) -> tuple[dict[str, tuple[Box, ...]], tuple[float, float] | None]:
    """All boxes of each chain of an Annotations file, and the picture's (width, height) if it is stated.

    Chains without a box, or with a bad one, do not appear.
    """
    try:
        annotation = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is not XML: {error}") from error
    if annotation.tag != "annotation":
        raise ValueError(f"{path}: {content_or(path, f'its outermost element is {annotation.tag}, not annotation')}")
    size = annotation.find("size")
    if size is not None:
        size = float(size.findtext("width")), float(size.findtext("height"))
    boxes: dict[str, list[Box | None]] = defaultdict(list)  # None: a bad box
    for number, thing in enumerate(annotation.findall("object"), start=1):
        if (corners := thing.find("bndbox")) is None:
            continue  # `nobndbox` or `scene`: named, but without a place
        chains, box = {(name.text or "").strip() for name in thing.findall("name")} or {""}, None
        with regions.record(f"{path}, object {number}"):
            edges = [float(corners.findtext(edge)) - 1 for edge in ("xmin", "ymin", "xmax", "ymax")]
            box = box_xyxy(*edges, size=size)
            if "" in chains:
                raise ValueError("the chain of its box, or one of several, is not named")
        for chain in chains - {"", NOT_VISUAL}:
            boxes[chain].append(box)
    return {chain: tuple(its_boxes) for chain, its_boxes in boxes.items() if None not in its_boxes}, size
