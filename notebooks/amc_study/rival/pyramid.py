"""The frozen trunk as a detector reads it: three feature maps, kept apart."""

from __future__ import annotations

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from amc_lib.model.trunk import CHANNELS, STRIDES, load_lite0, normalise

AT_ONCE = 4  # pictures in one pass: of more, the first maps no longer fit a core's cache
Levels = list[Tensor]  # float [B, C, S / stride, S / stride] for each stride, the finest first


class Lite0Pyramid(nn.Module):
    """Pixels -> EfficientNet-Lite0's features at strides 8, 16 and 32, frozen and always in evaluation mode.

    The features of each place are normalised over channels, without parameters, as in `trunk.Lite0Trunk`.
    """

    def __init__(self) -> None:
        super().__init__()
        network = load_lite0().eval()
        _fold_norms(network)
        self.network = network.requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Lite0Pyramid:
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Levels:
        """image: float [B, 3, S, S], normalised with the trunk's MEAN and STD."""
        parts = image.contiguous(memory_format=torch.channels_last).split(AT_ONCE)
        return [normalise(torch.cat(level)) for level in zip(*map(self.network, parts), strict=True)]


def shapes(side: int) -> list[tuple[int, int, int]]:
    """(C, H, W) of each level for a square input of `side` pixels."""
    return [(channels, side // stride, side // stride) for channels, stride in zip(CHANNELS, STRIDES, strict=True)]


def pack(levels: Levels) -> Tensor:
    """Levels -> float16 [B, N]: one row a picture, as it is kept on disk."""
    return torch.cat([level.flatten(1) for level in levels], dim=1).half()


def unpack(rows: Tensor, side: int) -> Levels:
    """What `pack` gave for pictures of `side` pixels -> levels, float32."""
    sizes = [channels * height * width for channels, height, width in shapes(side)]
    return [
        part.float().unflatten(1, shape) for part, shape in zip(rows.split(sizes, dim=1), shapes(side), strict=True)
    ]


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
