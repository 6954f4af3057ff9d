"""A box regressed from the fused [CLS], and its loss: what boxes are usually used for, as an ablation against AMC.

Head and loss weights are those of DETR (Carion et al., ECCV 2020): three layers, L1 and generalised IoU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import MLP, box_convert, generalized_box_iou_loss

L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


class BoxHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = MLP(width, [width, width, 4])

    def forward(self, fusion_embeds: Tensor) -> Tensor:
        """[B, L, D] -> boxes [B, 4] xyxy, shares of the image; some of a box may lie outside."""
        return box_convert(self.layers(fusion_embeds[:, 0]).sigmoid(), "cxcywh", "xyxy")


def box_loss(boxes: Tensor, box_mask: Tensor) -> Tensor:
    """Scalar loss of boxes [K, 4] (xyxy, shares) against the boxes that enclose the masks [K, S, S]; 0 for none."""
    if len(boxes) == 0:
        return boxes.sum()
    targets = enclosing_boxes(box_mask)
    distance = (boxes - targets).abs().mean()
    return L1_WEIGHT * distance + GIOU_WEIGHT * generalized_box_iou_loss(boxes, targets, reduction="mean")


def enclosing_boxes(box_mask: Tensor) -> Tensor:
    """The smallest box (xyxy, shares of the side) around what is set in each mask [K, S, S], float [K, 4]."""
    side = box_mask.shape[-1]
    ends = []
    for axis in (1, 2):  # over rows: which columns are taken, then over columns
        taken = box_mask.amax(axis) > 0  # [K, S]
        first, last = taken.int().argmax(1), side - taken.flip(1).int().argmax(1)
        ends.append((first, last))
    (left, right), (top, bottom) = ends
    return torch.stack((left, top, right, bottom), dim=1).to(box_mask.dtype) / side
