"""What of the data of a tier of photographs is there, missing or broken, beside the numbers of complete sets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
from tqdm.auto import tqdm

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.datasets.image_files import ImageFolder
from amc_lib.datasets.records import Regions, read_text
from amc_lib.files import unexpected_content
from amc_lib.model import ALBEF
from amc_lib.official import load_official
from amc_lib.presets import preset

FAILED = ("missing", "broken")  # the verdicts that stop the study
SENTENCES = 5  # about the records of one part, before a count of the others


class Part(NamedTuple):
    """Something to look for below the root: phrases that a reader reads, or a number of other things."""

    set: str
    what: str
    read: Callable[[Path], Regions | int]  # of the root
    expected: int | None = None  # how many the complete set has, where that is known
    role: Literal["evaluation", "training", "optional"] = "evaluation"  # training does without broken records


def _genome(source: str) -> Callable[[Path], Regions]:
    return lambda root: visual_genome.read(root / "visual_genome", (source,))


def _refer(dataset: str, split: str, split_by: str = "unc") -> Callable[[Path], Regions]:
    return lambda root: refer.read(root / "refer", dataset, split_by, split)


def _photographs(split: str) -> Callable[[Path], int]:
    return lambda root: len({*flickr30k.image_ids(root, split)} & flickr30k.pictures(root).keys())


def _phrases(split: str) -> Callable[[Path], Regions]:
    return lambda root: flickr30k.read(root, split)


def _pictures(root: Path) -> int:
    return len(ImageFolder(root / "visual_genome", visual_genome.IMAGE_FOLDERS))


def _files(folder: Path, ending: str) -> int:
    return sum(name.endswith(ending) and not name.startswith(".") for name in os.listdir(folder))


def _weights(root: Path) -> int:
    """The size of ALBEF.pth in bytes. ValueError where it does not fit the model, of which shapes alone are made."""
    path = root / "checkpoints" / "ALBEF.pth"
    size = path.stat().st_size
    with torch.device("meta"):
        model = ALBEF(preset("paper").model)
    with warnings.catch_warnings(action="ignore"):  # that nothing is copied into such a model
        load_official(path, model)
    return size


def _tokens(root: Path) -> int:
    path = root / "bert-base-uncased" / "vocab.txt"
    tokens = read_text(path).splitlines()
    if content := unexpected_content(path):
        raise ValueError(f"{path}: is {content}")
    return len(tokens)


def _detections(root: Path) -> int:
    """The pictures of dets.json. ValueError where it is of other pictures than RefCOCO+'s, if those are known."""
    asked = {}
    for split in ("testA", "testB"):
        with suppress(OSError, ValueError):
            asked |= {region.image_id: region.image for region in _refer("refcoco+", split)(root)}
    return len(refer.read_detections(root / "refer/refcoco+/dets.json", asked))


PHOTOS = (  # below `photos_root()`: Flickr8k's pictures, with the annotations of Flickr30k Entities
    Part("Flickr8k", "photographs of train", _photographs("train"), 7_559),
    Part("Flickr8k", "photographs of val", _photographs("val"), 247),
    Part("Flickr8k", "photographs of test", _photographs("test"), 285),
    Part("Flickr30k Entities", "files in Annotations", lambda root: _files(root / "Annotations", ".xml")),
    Part("Flickr30k Entities", "files in Sentences", lambda root: _files(root / "Sentences", ".txt")),
    Part("Flickr30k Entities", "phrases of train", _phrases("train"), 98_000, "training"),
    Part("Flickr30k Entities", "phrases of val", _phrases("val"), 3_239, "training"),
    Part("Flickr30k Entities", "phrases of test", _phrases("test"), 3_868, "training"),
)
PAPER = (  # below `data_root()`
    Part("Visual Genome", "pictures of VG_100K", _pictures, 108_077),
    Part("Visual Genome", "region descriptions", _genome("regions"), 5_408_689, "training"),
    Part("Visual Genome", "attributes", _genome("attributes"), None, "training"),
    Part("Flickr30k Entities", "pictures of test", lambda r: len(flickr30k.image_ids(r / "flickr30k", "test")), 1_000),
    Part("Flickr30k Entities", "phrases of test", lambda r: flickr30k.read(r / "flickr30k", "test")),
    Part("RefCOCO+", "sentences of testA", _refer("refcoco+", "testA"), 5_726),
    Part("RefCOCO+", "sentences of testB", _refer("refcoco+", "testB"), 4_889),
    Part("RefCOCO+", "pictures of dets.json", _detections, role="optional"),
    Part("RefCOCO", "sentences of testA", _refer("refcoco", "testA"), 5_657, "optional"),
    Part("RefCOCO", "sentences of testB", _refer("refcoco", "testB"), 5_095, "optional"),
    Part("RefCOCOg", "sentences of test", _refer("refcocog", "test", "umd"), 9_602, "optional"),
    Part("RefCLEF", "sentences of testA", _refer("refclef", "testA"), None, "optional"),
    Part("RefCLEF", "sentences of testB", _refer("refclef", "testB"), None, "optional"),
    Part("RefCLEF", "sentences of testC", _refer("refclef", "testC"), None, "optional"),
    Part("RefCLEF", "sentences of Berkeley's test", _refer("refclef", "test", "berkeley"), None, "optional"),
    Part("ALBEF", "bytes of ALBEF.pth", _weights),
    Part("BERT", "tokens", _tokens, 30_522),
)


def check(root: str | Path, decode: bool = False, parts: Sequence[Part] = PAPER) -> pd.DataFrame:
    """A row for each of the `parts` looked for below `root`: set, what, found, expected (both numbers), verdict.

    Verdicts: ok; differs (readable, but not as many as the complete set has); left out (records that training does
    without, and listed images that a smaller set does not have); absent (optional); missing; broken. `decode` opens
    every picture that a region names as well. Sentences about broken records are rows of their own, at most SENTENCES
    for each part.
    """
    root, opened, rows = Path(root).expanduser(), set(), []
    for part in parts:
        try:
            content = part.read(root)
        except (OSError, ValueError) as error:
            missing = FileNotFoundError in (type(error), type(error.__cause__))
            verdict = "broken" if not missing else "absent" if part.role == "optional" else "missing"
            sentence = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            rows.append((part.set, sentence, None, None, verdict))
            continue
        regions = content if isinstance(content, Regions) else Regions()
        found = content if isinstance(content, int) else len(content)
        verdict = "missing" if not found else "ok" if part.expected in (None, found) else "differs"
        rows.append((part.set, part.what, found, part.expected, verdict))
        if regions.without_picture:
            what = f"{part.what}: listed images that are not among the pictures"
            rows.append((part.set, what, regions.without_picture, None, "left out"))
        faults = [("records left out", regions.skipped, "left out" if part.role == "training" else "broken")]
        if decode:
            faults.append(("pictures that do not open", _unreadable(regions, opened), "broken"))
        for what, sentences, verdict in faults:
            if sentences:
                rows.append((part.set, f"{part.what}: {what}", len(sentences), 0, verdict))
            rows += [(part.set, sentence, None, None, verdict) for sentence in sentences[:SENTENCES]]
    frame = pd.DataFrame(list(dict.fromkeys(rows)), columns=["set", "what", "found", "expected", "verdict"])
    return frame.astype({"found": "Int64", "expected": "Int64"})


def _unreadable(regions: Regions, opened: set[Path]) -> list[str]:
    """A sentence for each picture that does not open; those in `opened` have been tried before."""
    images = {region.image.path: region.image for region in regions if region.image.path not in opened}
    opened |= images.keys()
    sentences = []
    for image in tqdm(images.values(), desc="opening pictures", unit="picture"):
        try:
            image.open()
        except ValueError as error:
            sentences.append(str(error))
    return sentences
