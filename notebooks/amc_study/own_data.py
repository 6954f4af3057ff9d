"""One's own pictures, phrases and boxes as finetuning and evaluation read them, in either tier.

In the scenes tier pictures go once through the frozen trunk, in the paper tier they are read and augmented anew in
every epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.config import Settings
from amc_lib.data import FixedPairs, PairDataset, Phrase
from amc_lib.datasets import own_table as own_csv
from amc_lib.datasets import photo_table
from amc_lib.datasets.photos import PhotoPairs, PhotoSplit
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import Augment
from amc_lib.files import sha256_of
from amc_lib.model import ALBEF
from amc_lib.model.trunk import Lite0Trunk, pixels
from amc_lib.regions import Region

WARMUP_SHARE = 0.1  # of all updates, at most


@dataclass(frozen=True)
class SplitSettings:
    """How images are divided where the table does not say: by image, drawn with a seed."""

    val_share: float = 0.1  # of the images; 0: no validation during training
    test_share: float = 0.25  # of the images
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.test_share == 0 or self.val_share + self.test_share >= 1:
            raise ValueError("test_share must be positive and leave, with val_share, images to train on")


@dataclass(frozen=True)
class OwnData:
    """A table's regions by split ("train", "test" and perhaps "val"), with the folder of their pictures."""

    title: str
    root: Path
    splits: dict[str, Regions]
    sha256: str  # of regions and pictures: a run on other data is another run

    def training_pairs(self, settings: Settings) -> PairDataset:
        """The training images with all their phrases, as the model of these settings reads them."""
        training, regions = settings.finetuning, self.splits["train"]
        if settings.tier == "paper":
            augment = Augment(settings.photos, settings.model.vision.image_size)
            table = photo_table.build(regions, self.root, regions.about)
            return PhotoPairs(table, self.root, augment, training.seed, training.phrases_per_image)
        bank = self.bank("train", settings)
        phrases: dict[str, list[Phrase]] = {image_id: [] for image_id in bank.features}
        for region in regions:
            height, width = bank.size(region)
            shares = [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2 in region.boxes]
            phrases[region.image_id].append(Phrase(region.phrase, tuple(shares)))
        images, per_image = [*bank.features.values()], training.phrases_per_image
        return FixedPairs(images, [*phrases.values()], training.seed, per_image, regions.about)

    def bank(self, split: str, settings: Settings) -> FeatureSplit | PhotoSplit:
        """A split as a model of these settings is asked about it."""
        regions, vision = self.splits[split], settings.model.vision
        if settings.tier == "paper":
            return PhotoSplit(split, regions, vision.image_size, "bilinear")
        return _through_trunk(split, regions, vision.image_size)

    def validation_split(self, settings: Settings) -> FeatureSplit | PhotoSplit | None:
        return self.bank("val", settings) if "val" in self.splits else None

    def summary(self) -> pd.DataFrame:
        """Images, phrases and boxes of each split."""
        rows = [
            {
                "split": split,
                "images": len({region.image_id for region in regions}),
                "phrases": len(regions),
                "boxes": sum(len(region.boxes) for region in regions),
            }
            for split, regions in self.splits.items()
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class FeatureSplit:
    """A split of pictures whose trunk features are in memory."""

    title: str
    regions: Regions
    features: dict[str, Tensor]  # of each image, float16 [C, G, G]
    sizes: dict[str, tuple[int, int]]  # of each image, (height, width) in pixels

    @property
    def skipped(self) -> list[str]:
        return self.regions.skipped

    def all_regions(self) -> list[Region]:
        return list(self.regions)

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input for a region's picture, and the picture's (height, width)."""
        return self.features[region.image_id], self.size(region)

    def size(self, region: Region) -> tuple[int, int]:
        return self.sizes[region.image_id]

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: unchanged."""
        return nullcontext()


def _through_trunk(split: str, regions: Regions, side: int) -> FeatureSplit:
    trunk = Lite0Trunk().to(memory_format=torch.channels_last)
    features, sizes = {}, {}
    of_image = {region.image_id: region.image for region in regions}
    for image_id, source in tqdm(of_image.items(), desc=f"reading {split}", unit="picture"):
        picture = source.open()
        features[image_id] = trunk(pixels(picture, side)[None])[0].half()  # [1, 3, S, S] -> [C, G, G]
        sizes[image_id] = (picture.height, picture.width)
    return FeatureSplit(split, regions, features, sizes)


def open_data(csv: str | Path, images: str | Path | None = None, shares: SplitSettings | None = None) -> OwnData:
    """A table's regions, in the splits that it names or, where it names none, divided by image as `shares` say.

    Raises ValueError with one sentence where the table is at fault (see `own_csv.read`), or a split has no image.
    """
    for name, value in (("csv", csv), ("images", images)):
        if not isinstance(value, str | Path | None):
            raise ValueError(f"{name} must be a path, got {value!r}")
    csv = Path(csv)
    regions = own_csv.read(csv, images)
    if not regions[0].split:
        regions = _divided(regions, shares or SplitSettings())
    splits = {split: Regions(r for r in regions if r.split == split) for split in own_csv.SPLITS}
    for split in ("train", "test"):
        if not splits[split]:
            raise ValueError(f"{csv}: no image is in the split {split}")
    root = csv.parent if images is None else Path(images)
    return OwnData(csv.name, root, {split: own for split, own in splits.items() if own}, _hash(regions))


def _divided(regions: Regions, shares: SplitSettings) -> Regions:
    """The regions with a split by image. It depends on the names of the images and on the seed alone."""
    names = sorted({region.image_id for region in regions})
    order = np.random.default_rng(shares.seed).permutation(len(names))
    tests = max(1, round(shares.test_share * len(names)))
    others = tests + round(shares.val_share * len(names))
    split_of = {
        names[i]: "test" if place < tests else "val" if place < others else "train" for place, i in enumerate(order)
    }
    return Regions(dataclasses.replace(region, split=split_of[region.image_id]) for region in regions)


def _hash(regions: Regions) -> str:
    records = [(r.image_id, r.split, r.phrase, r.boxes) for r in regions]
    pictures = {region.image_id: region.image.path for region in regions}
    content = [records, [sha256_of(path) for path in pictures.values()]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fitted(settings: Settings, data: OwnData) -> Settings:
    """The settings with a batch that the training images can fill, and a warm-up of at most a tenth of the updates."""
    training = settings.finetuning
    images = len({region.image_id for region in data.splits["train"]})
    batch_size = min(training.batch_size, max(1, images // training.accumulation))
    updates = images // (batch_size * training.accumulation) * training.epochs
    warmup = min(training.warmup_steps, round(WARMUP_SHARE * updates))
    return dataclasses.replace(
        settings, finetuning=dataclasses.replace(training, batch_size=batch_size, warmup_steps=warmup)
    )
