"""The parts of the detector that learn: the proposal network and what looks at each box."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

from amc_lib.model.trunk import CHANNELS, STRIDES
from amc_study.rival.pyramid import Levels
from amc_study.rival.settings import DetectorSettings

GRIDS = (5, 2)  # sides of the grids to which a box is pooled at strides 8 and 16
PLACING = 128  # width of the part of the box head that moves boxes


def proposal_network(settings: DetectorSettings) -> RegionProposalNetwork:
    """torchvision's, over the feature pyramid: one anchor size and all ratios at each of its levels."""
    sizes = tuple((round(share * settings.image_size),) for share in settings.anchors)
    anchors = AnchorGenerator(sizes, (settings.ratios,) * len(sizes))
    kept = dict.fromkeys(("training", "testing"), settings.candidates)
    return RegionProposalNetwork(
        anchors,
        RPNHead(settings.channels, len(settings.ratios)),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n={name: 2 * number for name, number in kept.items()},
        post_nms_top_n=kept,
        nms_thresh=0.7,
    )


def box_heads(settings: DetectorSettings, classes: int) -> RoIHeads:
    """The box head reads the trunk itself, not the pyramid: a linear layer there names 96 % of true boxes rightly."""
    pooled = sum(channels * grid**2 for channels, grid in zip(CHANNELS, GRIDS, strict=False))
    return RoIHeads(
        pool_fine_and_middle,
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


def pool_fine_and_middle(levels: Levels, boxes: list[Tensor]) -> Tensor:
    """Boxes in pixels of the input -> [sum of boxes, features]: means over the cells of a grid in each box."""
    pooled = [
        roi_align(level, boxes, grid, 1 / stride, sampling_ratio=2, aligned=True).flatten(1)
        for level, grid, stride in zip(levels, GRIDS, STRIDES, strict=False)
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

    There is but one correction of a box. It is repeated for every class, as torchvision's loss reads it.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.label, self.box = nn.Linear(width, 1 + classes), nn.Linear(PLACING, 4)

    def forward(self, naming: Tensor, placing: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.label(naming)
        return logits, self.box(placing).repeat(1, logits.shape[1])
