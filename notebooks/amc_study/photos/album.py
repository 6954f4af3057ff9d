"""Photographs of the photos tier as the models read them: trunk features, computed once, with captions and regions.

Flickr8k's pictures with the phrases and boxes of Flickr30k Entities, below `amc_lib.files.photos_root()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from amc_lib.config import PhotoSettings, VisionSettings
from amc_lib.data import FixedPairs, Phrase
from amc_lib.datasets import flickr30k
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import swap_sides
from amc_lib.files import photos_root
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.photos.entities import head_noun, never_boxed
from amc_study.photos.features import open_features

CODE = (  # what decides which phrases and boxes a split holds
    "amc_lib/datasets/flickr30k.py",
    *(f"notebooks/amc_study/photos/{name}.py" for name in ("album", "entities")),
)


@dataclass(frozen=True)
class AlbumSplit:
    """A split of n photographs."""

    split: str
    rows: Mapping[str, int]  # of the photographs, by image id
    inputs: Tensor | None  # of a model: the trunk's features, float16 [n, C, G, G]; None where no trunk is read
    mirrored: Tensor | None  # the same of the mirrored photographs; of train alone
    sizes: Sequence[tuple[int, int]]  # (height, width) of each photograph, pixels
    captions: Sequence[Sequence[str]]  # five of each photograph
    regions: Regions

    @property
    def title(self) -> str:
        return title(self.split)

    @property
    def skipped(self) -> list[str]:
        return self.regions.skipped

    def all_regions(self) -> list[Region]:
        return list(self.regions)

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input for a region's photograph, and the photograph's (height, width)."""
        return self.inputs[self.rows[region.image_id]], self.size(region)

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the photograph."""
        return self.sizes[self.rows[region.image_id]]

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: unchanged."""
        return nullcontext()

    def caption_phrases(self) -> list[list[Phrase]]:
        """The captions of each photograph."""
        return [[Phrase(caption) for caption in captions] for captions in self.captions]

    def region_phrases(self) -> list[list[Phrase]]:
        """The boxed phrases of each photograph; boxes as shares of its sides, none where a head noun is never boxed."""
        phrases: list[list[Phrase]] = [[] for _ in self.rows]
        for region in self.regions:
            phrase = Phrase.of(region, self.size(region))
            phrases[self.rows[region.image_id]].append(phrase if region.annotated else replace(phrase, boxes=()))
        return phrases


class AlbumPairs(FixedPairs):
    """Photographs with their phrases, half of the visits mirrored: left and right change places in the phrases."""

    def __init__(self, split: AlbumSplit, phrases: Sequence[Sequence[Phrase]], seed: int, per_image: int, flip: float):
        super().__init__(split.inputs, phrases, seed, per_image, split.regions.about)
        self.split, self.flip = split, flip

    def image_name(self, row: int) -> str:
        return list(self.split.rows)[row]

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, list[Phrase]]:
        if rng.random() >= self.flip or self.split.mirrored is None:
            return self.split.inputs[row], list(phrases)
        return self.split.mirrored[row], [mirrored(phrase) for phrase in phrases]


def title(split: str) -> str:
    return f"photographs {split}"


def mirrored(phrase: Phrase) -> Phrase:
    """The phrase and its boxes as they are true of the mirrored picture."""
    boxes = tuple((1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in phrase.boxes)
    return replace(phrase, text=swap_sides(phrase.text), boxes=boxes)


@lru_cache(maxsize=8)
def open_album(photos: PhotoSettings, vision: VisionSettings | None, split: str) -> AlbumSplit:
    """A split, its features from the cache or, where they are not there yet, computed now; without `vision` none.

    A photograph without any boxed phrase takes no part. ValueError where the data are not there.
    """
    root, regions = photos_root(), read_regions(photos, split)
    images: dict[str, ImageFile] = {region.image_id: region.image for region in regions}
    sizes = [image.size() for image in images.values()]
    paths = [image.path for image in images.values()]
    arrays = open_features(split, paths, vision, with_mirrored=split == "train") if vision else (None, None)
    captions = [flickr30k.captions(root / "Sentences" / f"{image_id}.txt") for image_id in images]
    rows = {image_id: row for row, image_id in enumerate(images)}
    return AlbumSplit(split, rows, *arrays, sizes, captions, regions)


def read_regions(photos: PhotoSettings, split: str) -> Regions:
    """The regions of a split; not `annotated` where the head noun is never boxed."""
    root = photos_root()
    regions, lot = _read(root, split), _lot(root, photos.never_boxed)
    return regions.replaced(replace(region, annotated=head_noun(region.phrase) not in lot) for region in regions)


@lru_cache(maxsize=1)
def _read(root: Path, split: str) -> Regions:
    """The regions of a split: train's are needed twice."""
    return flickr30k.read(root, split)


@lru_cache(maxsize=1)
def _lot(root: Path, share: float) -> frozenset[str]:
    """The head nouns whose phrases give no box in finetuning."""
    return never_boxed(_read(root, "train"), share)
