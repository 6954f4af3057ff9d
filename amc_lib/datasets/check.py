"""What of the paper tier's data is there, what is missing, and what is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.datasets.image_files import ImageFile, ImageFolder
from amc_lib.datasets.records import Regions, read_text
from amc_lib.regions import Region

FAILED = ("missing", "broken")  # the verdicts that stop the study
SHOWN = 5  # sentences of one kind, before a count of the others

COUNTS: dict[str, Callable[[Region], str]] = {
    "refs": lambda region: region.id.rpartition("-")[0],
    "phrases": lambda region: region.id,
}


@dataclass(frozen=True)
class Part:
    """What one reader reads: its files, and how many pictures and of each of COUNTS the complete set has.

    None is a number that is not known.
    """

    set: str
    folder: str  # below the root
    split: str
    files: tuple[str, ...]  # below the folder
    read: Callable[[Path], Regions]
    known: Mapping[str, int | None]
    pictures: Callable[[Path], int] | None = None
    known_pictures: int | None = None
    required: bool = True
    for_training: bool = False  # what training leaves out costs little; evaluation must be complete


def _visual_genome(source: str, phrases: int | None = None, **more: Any) -> Part:
    read = partial(visual_genome.read, sources=(source,), strict=False)
    files = ("image_data.json", visual_genome.FILES[source])
    known = {"phrases": phrases}
    return Part("Visual Genome", "visual_genome", source, files, read, known, for_training=True, **more)


def _refer(name: str, dataset: str, split: str, refs: int | None = None, phrases: int | None = None) -> Part:
    read = partial(refer.read, dataset=dataset, split_by="unc", split=split, strict=False)
    files = (f"{dataset}/refs(unc).p", f"{dataset}/instances.json", refer.IMAGE_FOLDERS[dataset])
    return Part(name, "refer", split, files, read, {"refs": refs, "phrases": phrases})


PARTS = (
    _visual_genome(
        "regions",
        5_408_689,
        pictures=lambda folder: len(ImageFolder(folder, visual_genome.IMAGE_FOLDERS)),
        known_pictures=108_077,
    ),
    _visual_genome("attributes"),
    _visual_genome("objects", required=False),
    Part(
        "Flickr30k Entities",
        "flickr30k",
        "test",
        ("Sentences", "Annotations", "val.txt", "test.txt"),
        partial(flickr30k.read, split="test", strict=False),
        {"phrases": None},
        pictures=lambda folder: len(flickr30k.image_ids(folder, "test")),
        known_pictures=1_000,
    ),
    _refer("RefCOCO+", "refcoco+", "testA", 1_975, 5_726),
    _refer("RefCOCO+", "refcoco+", "testB", 1_798, 4_889),
    _refer("RefCLEF", "refclef", "test"),
)


def check(root: str | Path, decode: bool = False) -> pd.DataFrame:
    """One row for each thing looked for below `root`: set, what, found, expected (both numbers), verdict.

    Verdicts: ok; differs (readable, but not as many as the complete set has); left out (records that training does
    without); absent (optional); missing; broken. `decode` opens every picture that a region names as well. Sentences
    about broken records are rows of their own, at most SHOWN for each part.
    """
    root = Path(root)
    rows: list[tuple] = []
    decoded: set[ImageFile] = set()
    gone: set[str] = set()
    for part in PARTS:
        if (root / part.folder).is_dir():
            rows += _part(part, root / part.folder, decoded if decode else None)
        elif part.folder not in gone:
            gone.add(part.folder)
            sets = " and ".join(dict.fromkeys(other.set for other in PARTS if other.folder == part.folder))
            rows.append((sets, f"{part.folder}/", 0, 1, "missing"))
    rows += [*_detections(root), *_checkpoint(root), *_vocabulary(root)]
    frame = pd.DataFrame(list(dict.fromkeys(rows)), columns=["set", "what", "found", "expected", "verdict"])
    return frame.astype({"found": "Int64", "expected": "Int64"})


def _part(part: Part, folder: Path, decoded: set[ImageFile] | None) -> Iterator[tuple]:
    """Rows of one part; pictures are opened unless `decoded`, those opened before, is None."""
    absent = [name for name in part.files if not (folder / name).exists()]
    for name in absent:
        yield part.set, f"{part.folder}/{name}", 0, 1, "missing" if part.required else "absent"
    if absent:
        return
    try:
        regions = part.read(folder)
        pictures = part.pictures(folder) if part.pictures else None
    except ValueError as error:
        yield part.set, str(error), None, None, "broken"
        return
    counts = {unit: (len({COUNTS[unit](region) for region in regions}), known) for unit, known in part.known.items()}
    if pictures is not None:
        counts["pictures"] = pictures, part.known_pictures
    for unit, (found, expected) in counts.items():
        yield part.set, f"{part.split}: {unit}", found, expected, "ok" if expected in (None, found) else "differs"
    yield from _sentences(part, "records left out", regions.skipped, "left out" if part.for_training else "broken")
    if decoded is not None:
        images = dict.fromkeys(region.image for region in regions if region.image not in decoded)
        yield from _sentences(part, "pictures that do not open", _undecodable(images), "broken")
        decoded.update(images)


def _sentences(part: Part, what: str, sentences: list[str], verdict: str) -> Iterator[tuple]:
    if sentences:
        yield part.set, f"{part.split}: {what}", len(sentences), 0, verdict
    for sentence in sentences[:SHOWN]:
        yield part.set, sentence, None, None, verdict
    if len(sentences) > SHOWN:
        yield part.set, f"{part.split}: and {len(sentences) - SHOWN:,} more", None, None, verdict


def _undecodable(images: Iterable[ImageFile]) -> list[str]:
    """One sentence for each picture that does not open."""

    def sentence(image: ImageFile) -> str:
        try:
            image.open()
        except ValueError as error:
            return str(error)
        return ""

    images = list(images)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sentences = tqdm(pool.map(sentence, images), total=len(images), desc="opening pictures", unit="picture")
        return [text for text in sentences if text]


def _detections(root: Path) -> Iterator[tuple]:
    name, path = "refer/refcoco+/dets.json", root / "refer" / "refcoco+" / "dets.json"
    if not path.exists():
        yield "RefCOCO+", name, 0, 1, "absent"
        return
    try:
        yield "RefCOCO+", f"{name}: images", len(refer.read_detections(path)), None, "ok"
    except ValueError as error:
        yield "RefCOCO+", str(error), None, None, "broken"


def _checkpoint(root: Path) -> Iterator[tuple]:
    there = (root / "checkpoints" / "ALBEF.pth").is_file()
    yield "ALBEF", "checkpoints/ALBEF.pth", int(there), 1, "ok" if there else "missing"


def _vocabulary(root: Path) -> Iterator[tuple]:
    name, expected = "bert-base-uncased/vocab.txt", 30_522
    if not (root / name).exists():
        yield "BERT", name, 0, 1, "missing"
        return
    try:
        tokens = len(read_text(root / name).split("\n")) - 1
    except ValueError as error:
        yield "BERT", str(error), None, None, "broken"
        return
    yield "BERT", f"{name}: tokens", tokens, expected, "ok" if tokens == expected else "differs"
