"""What of the paper tier's data is there, what is missing, and what is broken, beside the numbers of complete sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.datasets.image_files import ImageFile, ImageFolder
from amc_lib.datasets.records import Regions, read_text

FAILED = ("missing", "broken")  # the verdicts that stop the study
SENTENCES = 5  # about records of one split, before a count of the others


class Split(NamedTuple):
    """A split that a reader reads, and how many refs or phrases the complete one has."""

    set: str
    name: str
    read: Callable[[Path], Regions]  # of the root
    expected: dict[str, int]
    training: bool = False  # what training leaves out costs little; evaluation must be complete


class Number(NamedTuple):
    """Something that is counted; `expected` is None where the complete number is not known."""

    set: str
    what: str
    count: Callable[[Path], int]  # of the root
    expected: int | None = None
    optional: bool = False


def _genome(root: Path, source: str) -> Regions:
    return visual_genome.read(root / "visual_genome", sources=(source,), strict=False)


def _refer(root: Path, dataset: str, split: str) -> Regions:
    return refer.read(root / "refer", dataset, "unc", split, strict=False)


SPLITS = (
    Split("Visual Genome", "regions", partial(_genome, source="regions"), {"phrases": 5_408_689}, training=True),
    Split("Visual Genome", "attributes", partial(_genome, source="attributes"), {}, training=True),
    Split("Flickr30k Entities", "test", lambda root: flickr30k.read(root / "flickr30k", "test", strict=False), {}),
    Split("RefCOCO+", "testA", partial(_refer, dataset="refcoco+", split="testA"), {"refs": 1_975, "phrases": 5_726}),
    Split("RefCOCO+", "testB", partial(_refer, dataset="refcoco+", split="testB"), {"refs": 1_798, "phrases": 4_889}),
    Split("RefCLEF", "test", partial(_refer, dataset="refclef", split="test"), {}),
)
DETECTIONS, VOCABULARY = "refer/refcoco+/dets.json", "bert-base-uncased/vocab.txt"
NUMBERS = (
    Number(
        "Visual Genome",
        "pictures of VG_100K",
        lambda root: len(ImageFolder(root / "visual_genome", visual_genome.IMAGE_FOLDERS)),
        108_077,
    ),
    Number("Flickr30k Entities", "test pictures", lambda r: len(flickr30k.image_ids(r / "flickr30k", "test")), 1_000),
    Number("RefCOCO+", "images of dets.json", lambda r: len(refer.read_detections(r / DETECTIONS)), optional=True),
    Number("ALBEF", "bytes of ALBEF.pth", lambda root: (root / "checkpoints" / "ALBEF.pth").stat().st_size),
    Number("BERT", "tokens of vocab.txt", lambda root: len(read_text(root / VOCABULARY).splitlines()), 30_522),
)


def check(root: str | Path, decode: bool = False) -> pd.DataFrame:
    """A row for each thing looked for below `root`: set, what, found, expected (both numbers), verdict.

    Verdicts: ok; differs (readable, but not as many as the complete set has); left out (records that training does
    without); absent (optional); missing; broken. `decode` opens every picture that a region names as well. Sentences
    about broken records are rows of their own, at most SENTENCES for each split.
    """
    root, opened = Path(root).expanduser(), set()
    rows = [row for split in SPLITS for row in _split_rows(split, root, opened if decode else None)]
    for number in NUMBERS:
        try:
            rows.append(_row(number.set, number.what, number.count(root), number.expected))
        except (OSError, ValueError) as error:
            rows.append(_failure(number.set, error, number.optional))
    frame = pd.DataFrame(list(dict.fromkeys(rows)), columns=["set", "what", "found", "expected", "verdict"])
    return frame.astype({"found": "Int64", "expected": "Int64"})


def _row(set_name: str, what: str, found: int, expected: int | None) -> tuple:
    return set_name, what, found, expected, "ok" if expected in (None, found) else "differs"


def _failure(set_name: str, error: Exception, optional: bool = False) -> tuple:
    missing = isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
    return set_name, str(error), None, None, ("absent" if optional else "missing") if missing else "broken"


def _split_rows(split: Split, root: Path, opened: set[ImageFile] | None) -> Iterator[tuple]:
    """Rows of one split; its pictures are opened unless `opened`, those opened before, is None."""
    try:
        regions = split.read(root)
    except ValueError as error:
        yield _failure(split.set, error)
        return
    counts = {"refs": len({region.id.rpartition("-")[0] for region in regions}), "phrases": len(regions)}
    for unit in split.expected or ("phrases",):
        yield _row(split.set, f"{split.name}: {unit}", counts[unit], split.expected.get(unit))
    yield from _sentences(split, "records left out", regions.skipped, "left out" if split.training else "broken")
    if opened is not None:
        images = {region.image for region in regions} - opened
        opened |= images
        yield from _sentences(split, "pictures that do not open", _unreadable(images), "broken")


def _sentences(split: Split, what: str, sentences: list[str], verdict: str) -> Iterator[tuple]:
    if sentences:
        yield split.set, f"{split.name}: {what}", len(sentences), 0, verdict
    yield from ((split.set, sentence, None, None, verdict) for sentence in sentences[:SENTENCES])


def _unreadable(images: Iterable[ImageFile]) -> list[str]:
    """A sentence for each picture that does not open."""

    def sentence(image: ImageFile) -> str:
        try:
            image.open()
        except ValueError as error:
            return str(error)
        return ""

    images = sorted(images, key=str)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sentences = tqdm(pool.map(sentence, images), total=len(images), desc="opening pictures", unit="picture")
        return [text for text in sentences if text]
