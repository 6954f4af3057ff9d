"""Photographs of the paper tier: what finetuning visits, and the splits of evaluation.

data/README.md says what goes where below `files.data_root`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from amc_lib.config import Settings
from amc_lib.data import PairDataset, Pairs, Phrase
from amc_lib.datasets import flickr30k, photo_table, records, refer, visual_genome
from amc_lib.datasets.image_files import ImageFile, UnreadableImageError
from amc_lib.datasets.photo_table import PhotoTable, open_table
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import Augment, Resize, to_input
from amc_lib.distributed import process_state
from amc_lib.files import ROOT, data_root
from amc_lib.model import ALBEF
from amc_lib.model.vision import input_side
from amc_lib.regions import Box, Region
from amc_lib.tokens import MAX_WORDS, clean

CACHE = ROOT / "data" / "cache"
ATTRIBUTION = "Pictures: Flickr30k, MS COCO, SAIAPR TC-12; for research only"
MOST_UNREADABLE = 20  # pictures in a row that may fail before training stops
EVALUATED = {  # the splits of table 1, as (data set, split)
    "flickr30k": ("flickr30k", "test"),
    "refcoco+ A": ("refcoco+", "testA"),
    "refcoco+ B": ("refcoco+", "testB"),
    "refclef": ("refclef", "test"),
}
TITLES = {"flickr30k": "Flickr30k", "refcoco+": "RefCOCO+", "refclef": "RefCLEF"}


# ---------------------------------------------------------------------------------------------------------- finetuning


class PhotoPairs(PairDataset):
    """Rows of a table, each visit with its picture read and augmented anew.

    A picture that cannot be read, or does not hold one of its boxes, is named in a warning, counted in
    `Pairs.unreadable`, and the next row of another picture stands in.
    """

    def __init__(self, table: PhotoTable, root: Path, augment: Augment, seed: int, per_image: int = 1) -> None:
        super().__init__(seed, per_image, table.about)
        self.table, self.root, self.augment = table, root, augment

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Pairs:
        failed: dict[str, str] = {}  # why, by picture: a picture has many rows, one after the other
        for row in chain(range(index, len(self)), range(index)):
            if (picture := self.table.image(row)) in failed:
                continue
            try:
                return replace(self.pairs(row), unreadable=len(failed))
            except UnreadableImageError as error:
                failed[picture] = str(error)
                warnings.warn(f"left out in this epoch: {error}", stacklevel=2)
            if len(failed) == MOST_UNREADABLE:
                break
        first = next(iter(failed.values()))
        raise UnreadableImageError(f"{len(failed)} pictures in a row cannot be read; the first: {first}")

    def choices(self, row: int) -> list[Phrase]:
        return self.table.phrases(row)

    def image_name(self, row: int) -> str:
        return self.table.image(row)

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, list[Phrase]]:
        path = self.root / self.table.image(row)
        picture = ImageFile(path).open()
        try:
            return self.augment(picture, phrases, rng)
        except ValueError as error:
            raise UnreadableImageError(f"{path}: {error}") from error


def training_pairs(settings: Settings) -> PhotoPairs:
    """Visual Genome's regions without the images that evaluation needs; of several processes one reads, all map.

    Where `visual_genome/records/` holds the authors' own annotation files, these are read instead.
    """
    root = data_root() / "visual_genome"
    folder = CACHE / f"visual-genome-{_fingerprint(root)}"
    with process_state().main_process_first():
        table = open_table(folder, lambda: _read_training(root))
    training = settings.finetuning
    augment = Augment(settings.photos, settings.model.vision.image_size)
    return PhotoPairs(table, root, augment, training.seed, training.phrases_per_image)


def _records(root: Path) -> list[Path]:
    """The authors' annotation files."""
    return sorted((root / "records").glob("[!.]*.json"))


def _read_training(root: Path) -> PhotoTable:
    held_out = visual_genome.held_out_ids(root, data_root() / "flickr30k", data_root() / "refer")
    if files := _records(root):
        parts = [visual_genome.read_records(path, root, strict=False) for path in files]
        everything = list(chain.from_iterable(parts))
        kept = [region for region in everything if region.image.path.stem not in held_out]
        held = held_out & {region.image.path.stem for region in everything}
        regions = Regions(kept, chain.from_iterable(part.skipped for part in parts), len(held))
    else:
        regions = visual_genome.read(root, held_out=held_out, strict=False)
    return photo_table.build(regions, root, regions.about)


def _fingerprint(root: Path) -> str:
    """Hash of names, sizes and times of annotation files, picture folders and held-out lists, and of the code."""
    data = data_root()
    sources = [*sorted(root.glob("*.json")), *_records(root), data / "refer" / "refcoco+" / "refs(unc).p"]
    sources += [data / "flickr30k" / f"{split}.txt" for split in ("val", "test")]
    sources += [root / name for name in visual_genome.IMAGE_FOLDERS]  # their times change with what is put there
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources if path.exists()]
    digest = hashlib.sha256(json.dumps(stats).encode())
    for module in (visual_genome, flickr30k, refer, records, photo_table):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class PhotoSplit:
    """A split of photographs to be asked of a model, resized as the split's authors do."""

    title: str
    regions: Regions
    image_size: int  # side of the model's input, pixels
    resize: Resize
    detections: dict[str, tuple[Box, ...]] | None = None  # image id -> boxes xyxy, for the ranking of boxes

    @property
    def skipped(self) -> list[str]:
        return self.regions.skipped

    def all_regions(self) -> list[Region]:
        return list(self.regions)

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input [3, S, S] and the picture's (height, width). ValueError names region and file."""
        try:
            picture = region.image.open()
        except ValueError as error:
            raise ValueError(f"{self.title}, region {region.id}: {error}") from error
        return to_input(picture, self.image_size, self.resize), (picture.height, picture.width)

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: its position embeddings resized."""
        return input_side(model.visual_encoder, self.image_size)

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture, from its header."""
        return region.image.size()


def evaluation_splits(settings: Settings) -> dict[str, PhotoSplit]:
    """The splits of table 1 that are there; those that are not are said to be left out."""
    splits = {}
    for name, (dataset, split) in EVALUATED.items():
        if (folder := _folder(dataset)).is_dir():
            splits[name] = open_split(settings, dataset, split)
        else:
            print(f"{name}: left out, there is no {folder}")
    if not splits:
        raise ValueError(f"{data_root()}: holds none of the evaluation sets; data/README.md says what goes where")
    return splits


def validation_split(settings: Settings) -> PhotoSplit:
    return open_split(settings, "flickr30k", "val")


def _folder(dataset: str) -> Path:
    return data_root() / dataset if dataset == "flickr30k" else data_root() / "refer" / dataset


def open_split(settings: Settings, dataset: str, split: str) -> PhotoSplit:
    """A split of flickr30k, refcoco+ or refclef; phrases are cut and pictures resized as the authors do."""
    folder, photos = _folder(dataset), settings.photos
    if dataset == "flickr30k":
        regions, words, side = flickr30k.read(folder, split, strict=False), MAX_WORDS, settings.model.vision.image_size
    else:
        regions = refer.read(folder.parent, dataset, "unc", split, strict=False)
        words, side = photos.refer_max_words, photos.refer_image_size
    cut = Regions((replace(region, phrase=clean(region.phrase, words)) for region in regions), regions.skipped)
    detections = refer.read_detections(folder / "dets.json") if (folder / "dets.json").is_file() else None
    resize = "bilinear" if dataset == "flickr30k" else "bicubic"
    return PhotoSplit(f"{TITLES[dataset]} {split}", cut, side, resize, detections)
