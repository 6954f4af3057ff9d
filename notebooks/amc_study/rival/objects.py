"""A split of scenes as the detector reads it: features of the frozen trunk and the boxes of all named things."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from amc_lib.config import SceneSettings
from amc_lib.files import plain
from amc_lib.model.trunk import pixels
from amc_lib.regions import Box
from amc_study.rival.pyramid import Levels, Lite0Pyramid, pack, unpack
from amc_study.scenes.cache import Part, open_entry
from amc_study.scenes.scene import Scene, SceneObject, draw

CODE = ("notebooks/amc_study/rival/objects.py", "notebooks/amc_study/rival/pyramid.py")


@dataclass(frozen=True)
class NamedObject:
    """A named thing in a scene: tight box of its visible pixels (xyxy, pixels of the scene) and what it is.

    `colour` and `pattern` are "" where they do not apply. `annotated` is False where the concept never has a box in
    finetuning.
    """

    box: Box
    concept: str
    colour: str
    pattern: str
    annotated: bool


@dataclass(frozen=True)
class ObjectSplit:
    """One split of scenes, n of them."""

    settings: SceneSettings
    side: int  # of the detector's input, pixels
    rows: Tensor  # float16 [n, N], mapped from disk: the packed levels of each scene
    objects: list[list[NamedObject]]

    def __len__(self) -> int:
        return len(self.objects)

    def levels(self, indices: list[int]) -> Levels:
        """The trunk's features of some scenes, float32."""
        return unpack(self.rows[indices], self.side)


def open_objects(settings: SceneSettings, side: int, split: str) -> ObjectSplit:
    """A split from the cache or, where it is not there yet, drawn now (with a progress bar)."""
    arrays, records = open_entry("objects", partial(_draw, side), settings, split, side, CODE)
    objects = [[NamedObject(**record | {"box": tuple(record["box"])}) for record in scene] for scene in records]
    return ObjectSplit(settings, side, arrays["levels"], objects)


def draw_levels(settings: SceneSettings, side: int, split: str, start: int, stop: int) -> tuple[list[Scene], Levels]:
    """Scenes `start` to `stop` (exclusive) of a split and the trunk's features of their pictures."""
    drawn = [draw(settings, split, index) for index in range(start, stop)]
    return drawn, _pyramid()(torch.stack([pixels(scene.image, side) for scene in drawn]))


def _draw(side: int, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    drawn, levels = draw_levels(settings, side, split, start, stop)
    return {"levels": pack(levels).numpy()}, [[plain(_named(thing)) for thing in scene.objects] for scene in drawn]


def _named(thing: SceneObject) -> NamedObject:
    concept = thing.concept
    return NamedObject(thing.box, concept.name, thing.colour, thing.pattern, concept.annotated)


@lru_cache(maxsize=1)
def _pyramid() -> Lite0Pyramid:
    return Lite0Pyramid()
