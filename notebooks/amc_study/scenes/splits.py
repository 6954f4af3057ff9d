"""A split of scenes as the models read it: trunk features, captions and regions, from the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from amc_lib.config import SceneSettings, VisionSettings
from amc_lib.data import Phrase
from amc_lib.files import plain
from amc_lib.model import ALBEF
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.regions import Region
from amc_study.scenes.cache import Part, open_entry
from amc_study.scenes.scene import SceneImage, draw

SCENES_A_TASK = 50


@dataclass(frozen=True)
class SceneSplit:
    """One split of drawn scenes, n of them."""

    settings: SceneSettings
    split: str
    inputs: Sequence[Tensor]  # of a model for each scene: the trunk's features, float16 [n, C, G, G]
    captions: list[list[str]]  # of each scene, shortest first
    regions: list[list[Region]]

    def caption_phrases(self) -> list[list[Phrase]]:
        """For each scene its captions and the noun phrases that longer captions list, without boxes."""
        return [[phrase for caption in captions for phrase in _in_caption(caption)] for captions in self.captions]

    def region_phrases(self) -> list[list[Phrase]]:
        """For each scene the phrases that come with boxes, relative to the picture's side."""
        return [[Phrase.of(region, self.size(region)) for region in regions] for regions in self.regions]

    def all_regions(self) -> list[Region]:
        return [region for regions in self.regions for region in regions]

    @property
    def skipped(self) -> list[str]:
        return []  # what is drawn is never malformed

    @property
    def title(self) -> str:
        return self.split.replace("_a", " A").replace("_b", " B")

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input for a region's scene, and the picture's (height, width)."""
        return self.inputs[region.image.index], self.size(region)

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.settings.size, self.settings.size

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: unchanged."""
        return nullcontext()


def _in_caption(caption: str) -> list[Phrase]:
    """A caption and, where it lists several things (joined by commas and "and"), each of them alone."""
    listed = re.split(", | and ", caption)
    alone = [Phrase(text) for text in listed] if len(listed) > 1 else []
    return [Phrase(caption, things=len(listed)), *alone]


def open_scenes(settings: SceneSettings, vision: VisionSettings, split: str) -> SceneSplit:
    """A split from the cache or, where it is not there yet, drawn now (with a progress bar)."""
    side = vision.image_size
    arrays, records = open_entry("scenes", partial(_draw, side), settings, split, side, scenes_a_task=SCENES_A_TASK)
    regions = [
        [
            Region(
                **region | {"image": SceneImage(settings, split, index), "boxes": tuple(map(tuple, region["boxes"]))}
            )
            for region in scene["regions"]
        ]
        for index, scene in enumerate(records)
    ]
    return SceneSplit(settings, split, arrays["features"], [scene["captions"] for scene in records], regions)


def _draw(side: int, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    drawn = [draw(settings, split, index) for index in range(start, stop)]
    features = _trunk()(torch.stack([pixels(scene.image, side) for scene in drawn]))  # [m, C, G, G]
    records = [
        {"captions": scene.captions, "regions": [plain(replace(region, image=None)) for region in scene.regions]}
        for scene in drawn
    ]
    return {"features": features.half().contiguous().numpy()}, records


@lru_cache(maxsize=1)
def _trunk() -> FrozenTrunk:
    return FrozenTrunk("lite0").to(memory_format=torch.channels_last)
