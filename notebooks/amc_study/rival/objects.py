"""What the detector reads of a split of scenes: three feature maps of the frozen trunk, and all named things."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from amc_lib.config import SceneSettings
from amc_lib.model.trunk import load_pyramid, normalise, pixels
from amc_lib.regions import Box
from amc_study.scenes.cache import Part, open_entry
from amc_study.scenes.scene import Scene, draw

CODE = ("notebooks/amc_study/rival/objects.py",)
AT_ONCE = 4  # pictures in one pass: of more, the first maps no longer fit a core's cache
Levels = list[Tensor]  # float [B, C, S / stride, S / stride] for each stride of the trunk, the finest first


class Lite0Pyramid(nn.Module):
    """Pixels -> EfficientNet-Lite0's features at strides 8, 16 and 32, frozen and always in evaluation mode.

    The features of each place are normalised over channels, without parameters, as in `trunk.FrozenTrunk`.
    """

    def __init__(self) -> None:
        super().__init__()
        network = load_pyramid("lite0").eval()
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
    """A named thing in a scene: tight box of its visible pixels (xyxy, pixels of the scene) and what it is.

    `colour` and `pattern` are "" where they do not apply; `annotated`: whether its concept has boxes in finetuning.
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
    maps: Levels  # float16 [n, C, H, W] each, mapped from disk
    objects: list[list[NamedObject]]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def scale(self) -> float:
        """Pixels of the detector's input for one of the scene."""
        return self.side / self.settings.size

    def levels(self, indices: list[int]) -> Levels:
        """The trunk's features of some scenes, float32."""
        return [level[indices].float() for level in self.maps]


def open_objects(settings: SceneSettings, side: int, split: str) -> ObjectSplit:
    """A split from the cache or, where it is not there yet, drawn now (with a progress bar)."""
    arrays, records = open_entry("objects", partial(_draw, side), settings, split, side, CODE)
    objects = [[NamedObject(tuple(box), *rest) for box, *rest in scene] for scene in records]
    return ObjectSplit(settings, side, [arrays[name] for name in sorted(arrays)], objects)


def draw_levels(settings: SceneSettings, side: int, split: str, start: int, stop: int) -> tuple[list[Scene], Levels]:
    """Scenes `start` to `stop` (exclusive) of a split and the trunk's features of their pictures."""
    drawn = [draw(settings, split, index) for index in range(start, stop)]
    return drawn, _pyramid()(torch.stack([pixels(scene.image, side) for scene in drawn]))


def _draw(side: int, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    drawn, levels = draw_levels(settings, side, split, start, stop)
    records = [
        [(t.box, t.concept.name, t.colour, t.pattern, t.concept.annotated) for t in scene.objects] for scene in drawn
    ]
    return {f"level{i}": level.half().contiguous().numpy() for i, level in enumerate(levels)}, records


@lru_cache(maxsize=1)
def _pyramid() -> Lite0Pyramid:
    return Lite0Pyramid()
