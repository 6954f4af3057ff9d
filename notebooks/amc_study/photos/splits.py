"""Splits of evaluation: photographs as the authors of each data set resize them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from amc_lib.config import Settings
from amc_lib.datasets import flickr30k, refer
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import Resize, to_input
from amc_lib.files import data_root
from amc_lib.model import ALBEF, Backbone
from amc_lib.model.vision import input_side
from amc_lib.regions import Box, Region
from amc_lib.tokens import MAX_WORDS, clean

ATTRIBUTION = "Pictures: Flickr30k, MS COCO, SAIAPR TC-12; for research only"
EVALUATED = {  # the splits of table 1, as (data set, whose split, split)
    "flickr30k": ("flickr30k", "", "test"),
    "refcoco+ A": ("refcoco+", "unc", "testA"),
    "refcoco+ B": ("refcoco+", "unc", "testB"),
    "refcoco A": ("refcoco", "unc", "testA"),
    "refcoco B": ("refcoco", "unc", "testB"),
    "refcocog": ("refcocog", "umd", "test"),
    "refclef": ("refclef", "berkeley", "test"),
    "refclef A": ("refclef", "unc", "testA"),
    "refclef B": ("refclef", "unc", "testB"),
    "refclef C": ("refclef", "unc", "testC"),
}
TITLES = {
    "flickr30k": "Flickr30k",
    "refcoco": "RefCOCO",
    "refcoco+": "RefCOCO+",
    "refcocog": "RefCOCOg",
    "refclef": "RefCLEF",
}


@dataclass(frozen=True)
class PhotoSplit:
    """A split of photographs to be asked of a model, resized as the split's authors do."""

    title: str
    regions: Regions
    image_size: int  # side of the model's input, pixels
    resize: Resize = "bicubic"
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

    def fit(self, model: ALBEF | Backbone) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: an ALBEF with its position embeddings resized."""
        if not isinstance(model, ALBEF):
            return nullcontext()
        return input_side(model.visual_encoder, self.image_size)

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture, from its header."""
        return region.image.size()


def evaluation_splits(settings: Settings) -> dict[str, PhotoSplit]:
    """The splits of table 1 that are there; for each that is missing or broken a line is printed."""
    splits = {}
    for dataset in TITLES:
        if not (folder := _folder(dataset)).is_dir():
            print(f"{TITLES[dataset]}: left out, there is no {folder}")
    for name, (dataset, split_by, split) in EVALUATED.items():
        if not _folder(dataset).is_dir():
            continue
        try:
            opened = _open(settings, dataset, split_by, split)
            if not opened.regions:
                broken = opened.regions.skipped[:1] or [f"{_folder(dataset)} holds none"]
                raise ValueError(f"it has no phrase that can be read: {broken[0]}")
            splits[name] = opened
        except ValueError as error:
            print(f"{name}: left out, {error}")
    if not splits:
        raise ValueError(f"{data_root()}: holds none of the evaluation sets; data/README.md says what goes where")
    return splits


def as_read_by(model: ALBEF | Backbone, split: Any) -> Any:
    """A split of photographs as a model reads it that has an input of its own (BLIP); for all others the split itself.

    ValueError for a split without photographs.
    """
    if isinstance(model, ALBEF):
        return split
    if not isinstance(regions := getattr(split, "regions", None), Regions):
        raise ValueError(f"{split.title}: BLIP reads photographs, in the tiers photos and paper")
    detections = getattr(split, "detections", None)
    return PhotoSplit(split.title, regions, model.settings.vision.image_size, model.resize, detections)


def validation_split(settings: Settings) -> PhotoSplit:
    return _open(settings, "flickr30k", "", "val")


def _folder(dataset: str) -> Path:
    return data_root() / ("" if dataset == "flickr30k" else "refer") / dataset


def _open(settings: Settings, dataset: str, split_by: str, split: str) -> PhotoSplit:
    """A split of flickr30k or, as `split_by` has split it, of a refer set.

    Phrases are cut and pictures resized as the authors do.
    """
    folder, photos = _folder(dataset), settings.photos
    if dataset == "flickr30k":
        regions, words = flickr30k.read(folder, split), MAX_WORDS
        side, resize = settings.model.vision.image_size, "bilinear"
    else:
        regions, words = refer.read(folder.parent, dataset, split_by, split), photos.refer_max_words
        side, resize = photos.refer_image_size, "bicubic"
    cut = regions.replaced(replace(region, phrase=clean(region.phrase, words)) for region in regions)
    return PhotoSplit(f"{TITLES[dataset]} {split}", cut, side, resize, _detections(folder / "dets.json", cut))


def _detections(path: Path, regions: Regions) -> dict[str, tuple[Box, ...]] | None:
    """The detector's boxes by image id; None without the file and, with a line, for a broken one or other pictures'.

    It serves the second metric alone: the set is scored without it.
    """
    if not path.is_file():
        return None
    asked = {region.image_id: region.image for region in regions}
    try:
        found = refer.read_detections(path, asked)
    except ValueError as error:
        print(f"boxes are not ranked: {error}")
        return None
    if lacking := len(asked.keys() - found.keys()):
        print(f"{path}: {lacking} of {len(asked)} pictures have no detection; their boxes count as misses")
    return found
