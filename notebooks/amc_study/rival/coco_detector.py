"""The detector of the paper tier that a person can download: torchvision's Faster R-CNN, trained on COCO's 80 classes.

Dou & Peng used a detector trained on Visual Genome, whose output `bottom_up` reads. This one knows fewer classes, but
comes as one file: fasterrcnn_resnet50_fpn_coco-258fb6c6.pth, from the address that torchvision's documentation gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms.v2.functional import pil_to_tensor

from amc_lib.checkpoints import CheckpointError
from amc_lib.official import read_official
from amc_lib.wording import reason
from amc_study.rival.detector import Proposals, best_boxes

BOXES = 36  # proposals a picture, as in the files that bottom-up attention is shared in
OVERLAP = 0.5  # largest intersection over union of two kept boxes, whatever their labels
SHORT_SIDE = 800  # pixels to which a picture's shorter side is brought, as in the weights' training


def load_coco_detector(path: str | Path, boxes: int = BOXES, short_side: int = SHORT_SIDE) -> CocoDetector:
    """The detector with the weights of a downloaded file, of which tensors alone are read.

    Raises CheckpointError with one sentence if the file is missing, damaged, or holds other weights or such that are
    no finite numbers.
    """
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=len(_categories()), min_size=short_side
    )
    try:
        model.load_state_dict(read_official(path))
    except (CheckpointError, RuntimeError) as error:
        why = reason(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: is no file of torchvision's Faster R-CNN on COCO: {why}") from error
    return CocoDetector(model, boxes)


class CocoDetector:
    """Pictures -> proposals, with the box head's features (F = 1024)."""

    def __init__(self, model: FasterRCNN, boxes: int) -> None:
        self.model, self.boxes = model.eval(), boxes
        self.classes = tuple(_categories()[1:])  # the first is background; "N/A" ones are never found

    @torch.inference_mode()
    def propose(self, images: Sequence[Image.Image]) -> list[Proposals]:
        """At most `boxes` proposals for each picture, in its own pixels."""
        inputs, _ = self.model.transform([pil_to_tensor(image.convert("RGB")).float() / 255 for image in images])
        maps = self.model.backbone(inputs.tensors)
        candidates, _ = self.model.rpn(inputs, maps)
        logits, deltas = self.model.roi_heads.box_predictor(self._hidden(maps, candidates, inputs))
        scores, labels = logits.softmax(1)[:, 1:].max(1)
        moved = self.model.roi_heads.box_coder.decode(deltas, candidates)[torch.arange(len(labels)), labels + 1]
        counts = [len(of_picture) for of_picture in candidates]
        of_pictures = zip(*(part.split(counts) for part in (moved, scores, labels)), inputs.image_sizes, strict=True)
        best = [
            best_boxes(clip_boxes_to_image(boxes, size), scores, labels, OVERLAP, self.boxes)
            for boxes, scores, labels, size in of_pictures
        ]
        features = self._hidden(maps, [kept for kept, *_ in best], inputs).split([len(kept) for kept, *_ in best])
        return [
            Proposals(*parts, rows, size).resized(image.size[::-1])
            for parts, rows, size, image in zip(best, features, inputs.image_sizes, images, strict=True)
        ]

    def _hidden(self, maps: dict[str, Tensor], boxes: list[Tensor], inputs: ImageList) -> Tensor:
        """What the box head makes of all pictures' boxes, one after another: [sum of boxes, 1024]."""
        return self.model.roi_heads.box_head(self.model.roi_heads.box_roi_pool(maps, boxes, inputs.image_sizes))


def _categories() -> list[str]:
    return FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
