"""What the detector reads of a split: three feature maps of the frozen trunk, and all named things."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib.config import PhotoSettings, SceneSettings
from amc_lib.model.trunk import NETWORKS
from amc_lib.regions import Box, Region
from amc_study.photos.album import AlbumSplit, open_album
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes.cache import Part, open_entry
from amc_study.scenes.scene import draw
from amc_study.scenes.splits import open_scenes

CODE = ("notebooks/amc_study/rival/objects.py",)
Levels = list[Tensor]  # float [B, C, S / stride, S / stride] for each stride of the trunk, the finest first


@dataclass(frozen=True)
class NamedObject:
    """A named thing in a picture: its box (xyxy, in scenes tight about its visible pixels) and what it is.

    `concept`: in scenes its own, of photographs its entity type. `colour` and `pattern` are "" where they do not apply
    or nobody says; `annotated`: whether what it is named has boxes in finetuning.
    """

    box: Box
    concept: str
    colour: str
    pattern: str
    annotated: bool


@dataclass(frozen=True)
class ObjectSplit:
    """One split of n pictures, squashed to the detector's input; photographs may have their mirror images after them.

    maps: what the other systems read, the features of all pictures as `FrozenTrunk` gives them, float16 [m, C, G, G],
    and those of the mirrored ones.
    """

    size: int  # side of the square pictures in whose pixels the boxes are
    side: int  # of the detector's input, pixels
    maps: list[Tensor]
    trunk: str
    objects: list[list[NamedObject]]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def scale(self) -> float:
        """Pixels of the detector's input for one of the picture."""
        return self.side / self.size

    def levels(self, indices: Sequence[int]) -> Levels:
        """The trunk's features of some pictures, float32."""
        return levels_of(self.maps, self.trunk, indices)


def levels_of(maps: Sequence[Tensor], trunk: str, indices: Sequence[int]) -> Levels:
    """Levels of some pictures, float32, out of `ObjectSplit.maps`."""
    n = len(maps[0])
    return trunk_levels(torch.stack([maps[index // n][index % n] for index in indices]).float(), trunk)


def trunk_levels(features: Tensor, trunk: str) -> Levels:
    """`FrozenTrunk.forward` backwards: [B, C, G, G] -> its three levels."""
    fine, middle, coarse = NETWORKS[trunk].channels
    fine, middle, coarse = features.split((4 * fine, middle, coarse), dim=1)
    return [F.pixel_shuffle(fine, 2), middle, coarse[..., ::2, ::2]]


def open_objects(data: SceneSettings | PhotoSettings, settings: DetectorSettings, split: str) -> ObjectSplit:
    """A split as a detector of these settings reads it; what the cache does not hold yet is computed now.

    The three levels are those of the features that the other systems read at the same side.
    """
    side, trunk = settings.image_size, settings.trunk
    if isinstance(data, PhotoSettings):
        album = open_album(data, settings.vision, split)
        maps = [album.inputs] if album.mirrored is None else [album.inputs, album.mirrored]
        return ObjectSplit(side, side, maps, trunk, _objects_of(album, side))
    scenes = open_scenes(data, settings.vision, split)
    _, records = open_entry("objects", _named_in_scenes, data, split, [], CODE)
    objects = [[NamedObject(tuple(box), *rest) for box, *rest in scene] for scene in records]
    return ObjectSplit(data.size, side, [scenes.inputs], trunk, objects)


def _named_in_scenes(settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    drawn = [draw(settings, split, index) for index in range(start, stop)]
    return {}, [
        [(t.box, t.concept.name, t.colour, t.pattern, t.concept.annotated) for t in scene.objects] for scene in drawn
    ]


# --------------------------------------------------------------------------------------------------------- photographs


def _objects_of(album: AlbumSplit, side: int) -> list[list[NamedObject]]:
    """The boxed things of each photograph and then of each mirrored one, boxes in pixels of a square of `side`.

    Boxes that are equal are one thing. Its type is the one that most phrases give it; it is annotated where one of them
    is, since finetuning then sees the box too.
    """
    phrases: list[dict[Box, list[Region]]] = [defaultdict(list) for _ in album.rows]
    for region in album.all_regions():
        height, width = album.size(region)
        for x1, y1, x2, y2 in region.boxes:
            box = (x1 * side / width, y1 * side / height, x2 * side / width, y2 * side / height)
            phrases[album.rows[region.image_id]][box].append(region)
    objects = [[_thing(box, its_phrases) for box, its_phrases in boxes.items()] for boxes in phrases]
    if album.mirrored is None:
        return objects
    return objects + [[_mirrored(thing, side) for thing in things] for things in objects]


def _mirrored(thing: NamedObject, side: int) -> NamedObject:
    x1, y1, x2, y2 = thing.box
    return replace(thing, box=(side - x2, y1, side - x1, y2))


def _thing(box: Box, phrases: list[Region]) -> NamedObject:
    types = Counter(region.entity for region in phrases)
    return NamedObject(box, types.most_common(1)[0][0], "", "", any(region.annotated for region in phrases))
