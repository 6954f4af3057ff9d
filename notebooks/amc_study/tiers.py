"""The two tiers by the same names: what training visits, what validates it, and what evaluation asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import pandas as pd
from PIL import Image
from torch import Tensor

from amc_lib.config import Settings
from amc_lib.data import FixedPairs, PairDataset
from amc_lib.datasets import photos
from amc_lib.datasets.check import check
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.rival.detector_runs import load_detector
from amc_study.rival.proposals import ProposalSplit, open_proposals
from amc_study.scenes import pictograms
from amc_study.scenes.scene import SPLITS
from amc_study.scenes.splits import SceneSplit, open_scenes

EVALUATED_SCENES = ("phrases", "referring_a", "referring_b")


class Split(Protocol):
    """A split that is asked of models: scenes (`SceneSplit`) or photographs (`PhotoSplit`)."""

    title: str
    skipped: list[str]  # a sentence for each record that was left out as malformed

    def all_regions(self) -> list[Region]: ...

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input and the picture's (height, width)."""
        ...

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture."""
        ...

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block."""
        ...


@dataclass(frozen=True)
class SheetImage:
    """A picture with the regions that it holds."""

    image: Image.Image
    regions: list[Region]


def training_pairs(settings: Settings, stage: str) -> PairDataset:
    """Captions alone for pretraining (scenes), region phrases with boxes for finetuning."""
    if settings.tier == "paper":
        return photos.training_pairs(settings)
    training = getattr(settings, stage)
    bank = scene_split(settings, "pretrain" if stage == "pretraining" else "train")
    phrases = bank.caption_phrases() if stage == "pretraining" else bank.region_phrases()
    return FixedPairs(bank.inputs, phrases, training.seed, training.phrases_per_image)


def scene_split(settings: Settings, split: str) -> SceneSplit | ProposalSplit:
    """A split of scenes as the model of these settings reads it: pictures, or what the shipped detector proposes."""
    bank = open_scenes(settings.scenes, settings.model.vision, split)
    if settings.model.vision.trunk != "regions":
        return bank
    return open_proposals(bank, load_detector())


def validation_split(settings: Settings) -> Split:
    """The split on which settings are chosen: never one that the table reports."""
    if settings.tier == "paper":
        return photos.validation_split(settings)
    return scene_split(settings, "val")


def evaluation_splits(settings: Settings) -> dict[str, Split]:
    """The splits of table 1 by name."""
    if settings.tier == "paper":
        return photos.evaluation_splits(settings)
    return {split: scene_split(settings, split) for split in EVALUATED_SCENES}


def check_data(settings: Settings) -> pd.DataFrame | str:
    """What is there, missing or broken of the data sets that people download."""
    return check(photos.data_root()) if settings.tier == "paper" else "Scenes are drawn: there is nothing to download."


def shown_splits(settings: Settings) -> dict[str, Split]:
    """The splits that 01 shows: all but those for training on photographs, whose millions stay on disk."""
    if settings.tier == "paper":
        return {"validation": validation_split(settings)} | evaluation_splits(settings)
    shown = [split for split in SPLITS if split != "pretrain"]
    return {split: scene_split(settings, split) for split in shown}


def split_sizes(banks: Mapping[str, Split]) -> pd.DataFrame:
    """What each split holds: images, phrases, phrases by kind, those of concepts never boxed, records left out."""
    rows = []
    for name, bank in banks.items():
        regions = bank.all_regions()
        kinds = Counter(region.kind for region in regions)
        rows.append(
            {
                "split": name,
                "images": len({region.image_id for region in regions}),
                "phrases": len(regions),
                "objects": kinds["object"],
                "groups": kinds["group"],
                "parts": kinds["part"],
                "unboxed": sum(not region.annotated for region in regions),
                "left_out": len(bank.skipped),
            }
        )
    return pd.DataFrame(rows)


def sheet_images(banks: Mapping[str, Split], of_each: int = 2) -> list[SheetImage]:
    """The first images of every split with their regions, for `figures.scene_sheet`."""
    shown = []
    for bank in banks.values():
        of_image: dict[str, list[Region]] = defaultdict(list)
        for region in bank.all_regions():
            of_image[region.image_id].append(region)
        shown += [SheetImage(regions[0].image.open(), regions) for regions in islice(of_image.values(), of_each)]
    return shown


def attribution(settings: Settings) -> str:
    """What stands below pictures of a tier."""
    return photos.ATTRIBUTION if settings.tier == "paper" else pictograms.ATTRIBUTION
