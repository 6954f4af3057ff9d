"""What the detector is put together from: torchvision's proposal network and box heads, and how boxes are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

from amc_lib.model.trunk import NETWORKS, STRIDES
from amc_study.rival.objects import Levels
from amc_study.rival.settings import DetectorSettings

PLACING = 128  # width of the part of the box head that moves boxes


def proposal_network(settings: DetectorSettings) -> RegionProposalNetwork:
    """torchvision's, over the feature pyramid: at each of its levels one or two anchor sizes in all ratios."""
    factors = (1.0,) if settings.anchor_growth == 1 else (1.0, settings.anchor_growth)
    sizes = tuple(tuple(round(share * settings.image_size * f) for f in factors) for share in settings.anchors)
    kept = dict.fromkeys(("training", "testing"), settings.candidates)
    return RegionProposalNetwork(
        AnchorGenerator(sizes, (settings.ratios,) * len(sizes)),
        RPNHead(settings.channels, len(factors) * len(settings.ratios)),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n={name: 2 * number for name, number in kept.items()},
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def box_heads(settings: DetectorSettings, classes: int) -> RoIHeads:
    """The box head reads the trunk itself, not the pyramid: things are named from features that were there before."""
    channels = NETWORKS[settings.trunk].channels
    pooled = sum(number * grid**2 for number, grid in zip(channels, settings.grids, strict=True))
    return RoIHeads(
        partial(pool, grids=settings.grids),
        BoxHead(pooled, settings.width),
        Predictor(settings.width, classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=32,
        positive_fraction=0.75,
        bbox_reg_weights=None,
        score_thresh=0.0,
        nms_thresh=settings.overlap,
        detections_per_img=settings.boxes,
    )


def pool(levels: Levels, boxes: list[Tensor], grids: Sequence[int], samples: int = 2) -> Tensor:
    """Boxes in pixels of the input -> [sum of boxes, features]: means over the cells of a grid in each box.

    grids: their sides at each stride, 0 to leave it out. samples: along a cell's side; -1: one for each place.
    """
    pooled = [
        roi_align(level, boxes, grid, 1 / stride, sampling_ratio=samples, aligned=True).flatten(1)
        for level, grid, stride in zip(levels, grids, STRIDES, strict=True)
        if grid
    ]
    return torch.cat(pooled, dim=1)


class BoxHead(nn.Module):
    """Pooled boxes -> [n, width], from which things are named, and [n, PLACING], from which boxes are moved."""

    def __init__(self, pooled: int, width: int) -> None:
        super().__init__()
        self.naming = nn.Sequential(nn.Linear(pooled, width), nn.LayerNorm(width), nn.ReLU())
        self.placing = nn.Sequential(nn.Linear(pooled, PLACING), nn.LayerNorm(PLACING), nn.ReLU())

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.naming(pooled), self.placing(pooled)


class Predictor(nn.Module):
    """What `BoxHead` gives -> logits [n, 1 + classes], background first, and corrections [n, 4 * (1 + classes)].

    A box has a single correction. It is repeated for every class, as torchvision's loss reads it.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.label, self.box = nn.Linear(width, 1 + classes), nn.Linear(PLACING, 4)

    def forward(self, naming: Tensor, placing: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.label(naming)
        return logits, self.box(placing).repeat(1, logits.shape[1])
