"""What the detector reads of a split: three feature maps of the frozen trunk, and all named things."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from amc_lib.config import PhotoSettings, SceneSettings
from amc_lib.model.trunk import NETWORKS, load_pyramid, normalise, pixels
from amc_lib.regions import Box, Region
from amc_study.photos.album import AlbumSplit, open_album
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes.cache import Part, open_entry
from amc_study.scenes.scene import Scene, draw

CODE = ("notebooks/amc_study/rival/objects.py",)
AT_ONCE = 4  # pictures in one pass: of more, the first maps no longer fit a core's cache
Levels = list[Tensor]  # float [B, C, S / stride, S / stride] for each stride of the trunk, the finest first


class FrozenPyramid(nn.Module):
    """Pixels -> a trunk's features at strides 8, 16 and 32, frozen and always in evaluation mode.

    The features of each place are normalised over channels, without parameters, as in `trunk.FrozenTrunk`.
    """

    def __init__(self, trunk: str) -> None:
        super().__init__()
        network = load_pyramid(trunk).eval()
        _fold_norms(network)
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Levels:
        """image: float [B, 3, S, S], normalised with the trunk's MEAN and STD."""
        parts = image.contiguous(memory_format=torch.channels_last).split(AT_ONCE)
        return [normalise(torch.cat(level)) for level in zip(*map(self.network, parts), strict=True)]


def _fold_norms(module: nn.Module) -> None:
    """Put each batch norm, which is affine in evaluation mode, into the convolution before it; activations stay."""
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and isinstance(before, nn.Conv2d):
            statistics = (child.running_mean, child.running_var, child.eps, child.weight, child.bias)
            before.weight, before.bias = fuse_conv_bn_weights(before.weight, before.bias, *statistics)
            setattr(module, name, child.act)
        else:
            _fold_norms(child)
        before = child


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
    """One split of n pictures."""

    size: int  # side of the square pictures in whose pixels the boxes are
    side: int  # of the detector's input, pixels
    maps: Levels  # of scenes each level, float16 [n, C, H, W], mapped from disk
    objects: list[list[NamedObject]]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def scale(self) -> float:
        """Pixels of the detector's input for one of the picture."""
        return self.side / self.size

    def levels(self, indices: list[int]) -> Levels:
        """The trunk's features of some pictures, float32."""
        return [level[indices].float() for level in self.maps]


@dataclass(frozen=True)
class PhotoObjects(ObjectSplit):
    """A split of photographs, squashed to the detector's input; after them the mirrored ones, where there are any.

    maps: the features of all photographs as `FrozenTrunk` gives them, float16 [m, C, G, G], and of the mirrored ones.
    """

    trunk: str

    def levels(self, indices: list[int]) -> Levels:
        return photo_levels(self.maps, self.trunk, indices)


def open_objects(data: SceneSettings | PhotoSettings, settings: DetectorSettings, split: str) -> ObjectSplit:
    """A split as a detector of these settings reads it; what the cache does not hold yet is computed now.

    Of photographs nothing is kept but what the other systems read: the three levels stand in the same features.
    """
    side, trunk = settings.image_size, settings.trunk
    if isinstance(data, PhotoSettings):
        album = open_album(data, settings.vision, split)
        maps = [album.inputs] if album.mirrored is None else [album.inputs, album.mirrored]
        return PhotoObjects(side, side, maps, _objects_of(album, side), trunk)
    arrays, records = open_entry("objects", partial(_draw, trunk, side), data, split, [trunk, side], CODE)
    objects = [[NamedObject(tuple(box), *rest) for box, *rest in scene] for scene in records]
    return ObjectSplit(data.size, side, [arrays[name] for name in sorted(arrays)], objects)


# --------------------------------------------------------------------------------------------------------- photographs


def photo_levels(maps: Sequence[Tensor], trunk: str, indices: Sequence[int]) -> Levels:
    """Levels of some photographs, float32, out of `PhotoObjects.maps`: `FrozenTrunk.forward` backwards."""
    n = len(maps[0])
    features = torch.stack([maps[index // n][index % n] for index in indices]).float()  # [B, C, G, G]
    fine, middle, coarse = NETWORKS[trunk].channels
    fine, middle, coarse = features.split((4 * fine, middle, coarse), dim=1)
    return [F.pixel_shuffle(fine, 2), middle, coarse[..., ::2, ::2]]


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


# -------------------------------------------------------------------------------------------------------------- scenes


def draw_levels(
    settings: SceneSettings, trunk: str, side: int, split: str, start: int, stop: int
) -> tuple[list[Scene], Levels]:
    """Scenes `start` to `stop` (exclusive) of a split and the trunk's features of their pictures."""
    drawn = [draw(settings, split, index) for index in range(start, stop)]
    return drawn, _pyramid(trunk)(torch.stack([pixels(scene.image, side) for scene in drawn]))


def _draw(trunk: str, side: int, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    drawn, levels = draw_levels(settings, trunk, side, split, start, stop)
    records = [
        [(t.box, t.concept.name, t.colour, t.pattern, t.concept.annotated) for t in scene.objects] for scene in drawn
    ]
    return {f"level{i}": level.half().contiguous().numpy() for i, level in enumerate(levels)}, records


@lru_cache(maxsize=1)
def _pyramid(trunk: str) -> FrozenPyramid:
    return FrozenPyramid(trunk)
