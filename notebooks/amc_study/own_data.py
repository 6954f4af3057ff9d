"""Own pictures, phrases and boxes as finetuning and evaluation read them, in every tier.

For a model above a frozen trunk (scenes, photos) pictures go through the trunk once; for one of pixels (paper, BLIP)
they are read and augmented anew in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint, load_checkpoint
from amc_lib.config import Settings, VisionSettings
from amc_lib.data import PairDataset
from amc_lib.datasets import own_table
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import Augment
from amc_lib.files import sha256_of
from amc_lib.model.trunk import NETWORKS, FrozenTrunk, pixels
from amc_study.photos import photo_table
from amc_study.photos.album import AlbumPairs, AlbumSplit
from amc_study.photos.pairs import PhotoPairs
from amc_study.photos.splits import PhotoSplit

WARMUP_SHARE = 0.1  # of all updates, at most


@dataclass(frozen=True)
class SplitSettings:
    """Shares of the images for validation and test, drawn with a seed where the table has no column `split`."""

    val_share: float = 0.1  # 0: no validation during training
    test_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.val_share < 1 and 0 < self.test_share < 1 and self.val_share + self.test_share < 1):
            raise ValueError(
                "val_share must be at least 0, test_share more than 0, and both must leave images to train on; "
                f"got {self.val_share} and {self.test_share}"
            )


@dataclass(frozen=True)
class OwnData:
    """A table's regions by split ("train", "test" and perhaps "val"), with the folder of their pictures."""

    root: Path  # that below which all pictures lie
    splits: dict[str, Regions]
    sha256: str  # of regions and pictures: a run on other data is another run

    def training_pairs(self, settings: Settings) -> PairDataset:
        """The training images with all their phrases, as the model of these settings reads them."""
        training, photos = settings.finetuning, settings.photos
        flip = photos.flip if settings.tier == "photos" else 0.0
        split = self.split("train", settings, mirrored=flip > 0)
        if isinstance(split, AlbumSplit):
            return AlbumPairs(split, split.region_phrases(), training.seed, training.phrases_per_image, flip)
        table, augment = photo_table.build(split.regions, self.root), Augment(photos, split.image_size)
        return PhotoPairs(table, self.root, augment, training.seed, training.phrases_per_image)

    def split(self, name: str, settings: Settings, mirrored: bool = False) -> AlbumSplit | PhotoSplit:
        """A split as a model of these settings reads it; `mirrored`: above a trunk, with the mirror images too."""
        regions, model = self.splits[name], settings.model
        if model.vision.trunk not in NETWORKS:
            resize = "bicubic" if model.backbone == "blip" else "bilinear"
            return PhotoSplit(name, regions, model.vision.image_size, resize)
        images = {region.image_id: region.image for region in regions}
        rows, sizes = {image_id: row for row, image_id in enumerate(images)}, [one.size() for one in images.values()]
        read = partial(_features, name, images.values(), model.vision)
        return AlbumSplit(name, rows, read(), read(flip=True) if mirrored else None, sizes, [], regions)

    def validation_split(self, settings: Settings) -> AlbumSplit | PhotoSplit | None:
        return self.split("val", settings) if "val" in self.splits else None


def _features(name: str, images: Collection[ImageFile], vision: VisionSettings, flip: bool = False) -> Tensor:
    """float16 [n, C, G, G] of the n pictures of a split, or of their mirror images, through the frozen trunk."""
    trunk, features = FrozenTrunk(vision.trunk).to(memory_format=torch.channels_last), []
    for image in tqdm(images, desc=f"reading {name}", unit="picture"):
        picture = pixels(image.open(), vision.image_size)[None]  # [1, 3, S, S]
        features.append(trunk(picture.flip(-1) if flip else picture)[0].half())
    return torch.stack(features)


def open_data(csv: str | Path, images: str | Path | None = None, shares: SplitSettings = SplitSettings()) -> OwnData:
    """A table's regions, in the splits that it names or, where it names none, divided by image as `shares` say.

    Raises ValueError with one sentence where the table is at fault (see `own_table.read`), or a split has no image.
    """
    regions = own_table.read(csv, images)
    first = _first_of_same(regions)
    if regions[0].split:
        split_of = {region.image_id: region.split for region in regions}
        for image_id, twin in first.items():
            if split_of[image_id] != split_of[twin]:
                splits = f"{split_of[twin]} and {split_of[image_id]}"
                raise ValueError(f"{csv}: {twin} and {image_id} show the same pixels, but are in the splits {splits}")
    else:
        if copies := [f"{image_id} = {twin}" for image_id, twin in first.items() if image_id != twin]:
            print(f"{len(copies)} pictures are there twice, and stay in one split: {', '.join(copies[:3])}")
        regions = _divided(regions, shares, first)
    splits = {split: Regions(r for r in regions if r.split == split) for split in own_table.SPLITS}
    for split in ("train", "test"):
        if not splits[split]:
            raise ValueError(f"{csv}: no image is in the split {split}")
    pictures = dict.fromkeys(region.image.path for region in regions)
    folder = Path(csv).expanduser().parent if images is None else Path(images).expanduser()
    root = Path(os.path.commonpath([os.path.abspath(folder), *pictures]))
    content = [[(r.image_id, r.split, r.phrase, r.boxes) for r in regions], [sha256_of(path) for path in pictures]]
    sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return OwnData(root, {split: part for split, part in splits.items() if part}, sha256)


def _first_of_same(regions: Regions) -> dict[str, str]:
    """Image id -> that of the first image, by name, of the same pixels: its own where no other shows them."""
    first, by_pixels = {}, {}
    for image_id, image in sorted({region.image_id: region.image for region in regions}.items()):
        picture = image.open()
        pixels_hash = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
        first[image_id] = by_pixels.setdefault(pixels_hash, image_id)
    return first


def _divided(regions: Regions, shares: SplitSettings, first: Mapping[str, str]) -> Regions:
    """The regions with a split by image, the same for images of the same pixels (`_first_of_same`).

    It depends on the names of the images and on the seed alone.
    """
    names = sorted({first[region.image_id] for region in regions})
    order = np.random.default_rng(shares.seed).permutation(len(names))
    tests = max(1, round(shares.test_share * len(names)))
    vals = round(shares.val_share * len(names))
    split_of = dict.fromkeys(names, "train")
    split_of |= {names[i]: "test" if place < tests else "val" for place, i in enumerate(order[: tests + vals])}
    return Regions(replace(region, split=split_of[first[region.image_id]]) for region in regions)


def starting_checkpoint(source: str | Path, tier: str) -> Checkpoint:
    """The checkpoint that finetuning starts from. ValueError for one of another tier; a BLIP goes with photographs."""
    checkpoint = load_checkpoint(source)
    own = checkpoint.settings.tier
    if own != tier and (tier == "scenes" or checkpoint.settings.model.backbone != "blip"):
        raise ValueError(f"{source} is a checkpoint of the tier {own!r}, not of {tier!r}: take -p tier {own}")
    return checkpoint


def fitted(settings: Settings, data: OwnData) -> Settings:
    """The settings with a batch that the training images can fill, and a warm-up of at most a tenth of the updates."""
    training = settings.finetuning
    images = len({region.image_id for region in data.splits["train"]})
    batch_size = min(training.batch_size, max(1, images // training.accumulation))
    updates = images // (batch_size * training.accumulation) * training.epochs
    warmup = min(training.warmup_steps, round(WARMUP_SHARE * updates))
    return replace(settings, finetuning=replace(training, batch_size=batch_size, warmup_steps=warmup))
