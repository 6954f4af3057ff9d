"""Photographs of the photos tier as the models read them: trunk features, computed once, with captions and regions.

Flickr8k's pictures with the phrases and boxes of Flickr30k Entities, below `amc_lib.files.photos_root()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from amc_lib.config import PhotoSettings, VisionSettings
from amc_lib.data import FixedPairs, Phrase
from amc_lib.datasets import flickr30k
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import swap_sides
from amc_lib.files import photos_root
from amc_lib.model import ALBEF
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.regions import Region
from amc_study.photos.entities import head_noun, never_boxed
from amc_study.scenes.cache import Part, fingerprint, open_rows

PICTURES_A_TASK = 50
CODE = ("amc_lib/model/trunk.py", "amc_lib/datasets/image_files.py", "notebooks/amc_study/photos/album.py")


@dataclass(frozen=True)
class AlbumSplit:
    """A split of n photographs."""

    split: str
    rows: Mapping[str, int]  # of the photographs, by image id
    inputs: Tensor  # of a model: the trunk's features, float16 [n, C, G, G]
    mirrored: Tensor | None  # the same of the mirrored photographs; of train alone
    sizes: Sequence[tuple[int, int]]  # (height, width) of each photograph, pixels
    captions: Sequence[Sequence[str]]  # five of each photograph
    regions: Regions

    @property
    def title(self) -> str:
        return f"photographs {self.split}"

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
            height, width = self.size(region)
            shares = [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2 in region.boxes]
            boxes = tuple(shares) if region.annotated else ()
            phrases[self.rows[region.image_id]].append(Phrase(region.phrase, boxes))
        return phrases


class AlbumPairs(FixedPairs):
    """Photographs with their phrases, half of the visits mirrored: left and right change places in the phrases."""

    def __init__(self, split: AlbumSplit, phrases: Sequence[Sequence[Phrase]], seed: int, per_image: int, flip: float):
        super().__init__(split.inputs, phrases, seed, per_image, split.regions.about)
        self.split, self.flip = split, flip

    def image_name(self, row: int) -> str:
        return list(self.split.rows)[row]

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, list[Phrase]]:
        if rng.random() >= self.flip:
            return self.split.inputs[row], list(phrases)
        return self.split.mirrored[row], [mirrored(phrase) for phrase in phrases]


def mirrored(phrase: Phrase) -> Phrase:
    """The phrase and its boxes as they are true of the mirrored picture."""
    boxes = tuple((1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in phrase.boxes)
    return replace(phrase, text=swap_sides(phrase.text), boxes=boxes)


@lru_cache(maxsize=8)
def open_album(photos: PhotoSettings, vision: VisionSettings, split: str) -> AlbumSplit:
    """A split, its features from the cache or, where they are not there yet, computed now.

    A photograph without any boxed phrase takes no part. ValueError where the data are not there.
    """
    root = photos_root()
    regions = flickr30k.read(root, split)
    lot = never_boxed(flickr30k.read(root, "train") if split != "train" else regions, photos.never_boxed)
    kept = (replace(region, annotated=head_noun(region.phrase) not in lot) for region in regions)
    regions = regions.replaced(kept)
    images: dict[str, ImageFile] = {region.image_id: region.image for region in regions}
    sizes = [image.size() for image in images.values()]
    paths = [image.path for image in images.values()]
    stats = [(path.name, path.stat().st_size) for path in paths]
    key = fingerprint([vision.trunk, vision.image_size, stats], CODE)
    compute = partial(_features, vision.trunk, vision.image_size, paths, split == "train")
    arrays, _ = open_rows(f"photos-{split}-{key}", compute, len(paths), f"features of {split}", PICTURES_A_TASK)
    captions = [flickr30k.captions(root / "Sentences" / f"{image_id}.txt") for image_id in images]
    rows = {image_id: row for row, image_id in enumerate(images)}
    return AlbumSplit(split, rows, arrays["features"], arrays.get("mirrored"), sizes, captions, regions)


def _features(trunk: str, side: int, paths: list, with_mirrored: bool, start: int, stop: int) -> Part:
    inputs = torch.stack([pixels(ImageFile(path).open(), side) for path in paths[start:stop]])
    arrays = {"features": _read(trunk, inputs)}
    if with_mirrored:
        arrays["mirrored"] = _read(trunk, inputs.flip(-1))
    return arrays, [None] * (stop - start)


def _read(trunk: str, inputs: Tensor) -> np.ndarray:
    return _trunk(trunk)(inputs).half().contiguous().numpy()  # [m, C, G, G]


@lru_cache(maxsize=1)
def _trunk(name: str) -> FrozenTrunk:
    return FrozenTrunk(name).to(memory_format=torch.channels_last)
