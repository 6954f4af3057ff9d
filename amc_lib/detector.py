"""The detector: Faster R-CNN above the frozen Lite0 trunk, which knows the annotated concepts and no others.

It is put together from torchvision's parts. As the detector of bottom-up attention (Anderson et al., CVPR 2018) it has
a second head for attributes, so that region features carry colour and pattern too. Things of other concepts are not
labelled in training, as in Visual Genome: whatever is no labelled thing is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image, nms, roi_align

from amc_lib.config import DetectorSettings
from amc_lib.datasets.scene_bank import pixels
from amc_lib.model.pyramid import Levels, Lite0Pyramid
from amc_lib.model.trunk import CHANNELS, STRIDES

GRIDS = (5, 2)  # sides of the grids to which a box is pooled at strides 8 and 16
LEVELS = ("fine", "middle", "coarse")
AUXILIARY = 0.2  # weight of the box head's losses beside that of labels, which suffer from larger ones
UNKNOWN = -1  # an attribute that a thing does not have


@dataclass(frozen=True)
class Vocabulary:
    """What a detector can name: concepts, colours and patterns."""

    classes: tuple[str, ...]
    colours: tuple[str, ...]
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Proposals:
    """What a detector sees in one picture, best first: K boxes.

    boxes: float32 [K, 4], xyxy in pixels of the original picture. scores: float32 [K], probability of the likeliest
    class. labels: int64 [K], index of that class in the detector's classes. features: float32 [K, F]. size: (height,
    width) of the picture.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    features: Tensor
    size: tuple[int, int]

    def resized(self, size: tuple[int, int]) -> Proposals:
        """The same for the picture at another (height, width)."""
        (old_height, old_width), (height, width) = self.size, size
        scale = torch.tensor([width / old_width, height / old_height] * 2)
        return replace(self, boxes=self.boxes * scale, size=size)


@dataclass(frozen=True)
class Target:
    """The labelled things of one picture, n of them.

    boxes: float32 [n, 4], xyxy in pixels of the input. labels: int64 [n], 1 for the first class (0 is background).
    colours, patterns: int64 [n], or UNKNOWN.
    """

    boxes: Tensor
    labels: Tensor
    colours: Tensor
    patterns: Tensor


@dataclass(frozen=True)
class DetectorLosses:
    """Scalars; `total` is what is minimised."""

    objectness: Tensor
    anchor_box: Tensor
    label: Tensor
    box: Tensor
    attribute: Tensor

    @property
    def total(self) -> Tensor:
        return self.objectness + self.anchor_box + self.label + self.box + self.attribute


class Detector(nn.Module):
    """Levels of the frozen trunk -> boxes with classes, attributes and features."""

    def __init__(self, settings: DetectorSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.settings, self.vocabulary = settings, vocabulary
        self.fpn = FeaturePyramidNetwork(list(CHANNELS), settings.channels)
        self.rpn = _proposal_network(settings)
        self.heads = _box_heads(settings, len(vocabulary.classes))
        self.colour = nn.Linear(settings.width, len(vocabulary.colours))
        self.pattern = nn.Linear(settings.width, len(vocabulary.patterns))

    @property
    def feature_width(self) -> int:
        return self.settings.width + sum(CHANNELS)

    def losses(self, levels: Levels, targets: Sequence[Target]) -> DetectorLosses:
        """levels: of B pictures; targets: one each. Anchors and boxes are sampled with torch's global generator."""
        boxed = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
        maps, images = self._maps(levels), self._images(levels)
        proposals, rpn_losses = self.rpn(images, maps, boxed)
        proposals, matched, labels, goals = self.heads.select_training_samples(proposals, boxed)
        hidden = self._hidden(levels, proposals)
        label, box = fastrcnn_loss(*self.heads.box_predictor(hidden), labels, goals)
        attribute = self._attribute_loss(hidden, torch.cat(labels) > 0, matched, targets)
        return DetectorLosses(rpn_losses["loss_objectness"], rpn_losses["loss_rpn_box_reg"], label, AUXILIARY * box, AUXILIARY * attribute)

    @torch.inference_mode()
    def propose_levels(self, levels: Levels, count: int | None = None) -> list[Proposals]:
        """The best boxes of each picture, in pixels of the input: at most `count`, by default the settings'."""
        maps, images = self._maps(levels), self._images(levels)
        candidates, _ = self.rpn(images, maps)
        logits, deltas = self.heads.box_predictor(self._hidden(levels, candidates))
        scores, labels = logits.softmax(1)[:, 1:].max(1)
        boxes = self.heads.box_coder.decode(deltas, candidates)[torch.arange(len(labels)), labels + 1]
        counts = [len(of_picture) for of_picture in candidates]
        of_pictures = zip(*(part.split(counts) for part in (boxes, scores, labels)), strict=True)
        size, most = images.image_sizes[0], count or self.settings.boxes
        best = [_best(*parts, size, self.settings.overlap, most) for parts in of_pictures]
        features = self._features(levels, [boxes for boxes, *_ in best])
        return [Proposals(*parts, rows, size) for parts, rows in zip(best, features, strict=True)]

    def _maps(self, levels: Levels) -> dict[str, Tensor]:
        return self.fpn(dict(zip(LEVELS, levels, strict=True)))

    def _images(self, levels: Levels) -> ImageList:
        """What torchvision's parts read of the pictures: their sizes, never their pixels."""
        batch, _, height, width = levels[0].shape
        side = (height * STRIDES[0], width * STRIDES[0])
        return ImageList(levels[0].new_empty(batch, 0, *side), [side] * batch)

    def _hidden(self, levels: Levels, boxes: list[Tensor]) -> Tensor:
        """What the box head makes of all pictures' boxes, one after another: [sum of boxes, width]."""
        return self.heads.box_head(self.heads.box_roi_pool(levels, boxes))

    def _attribute_loss(
        self, hidden: Tensor, labelled: Tensor, matched: list[Tensor], targets: Sequence[Target]
    ) -> Tensor:
        """Mean cross-entropy of colour and of pattern over the labelled boxes that have one."""
        total = hidden.new_zeros(())
        for head, name in ((self.colour, "colours"), (self.pattern, "patterns")):
            known = [_taken(getattr(target, name), index) for target, index in zip(targets, matched, strict=True)]
            values = torch.cat(known).where(labelled, UNKNOWN)
            if (values != UNKNOWN).any():
                total = total + F.cross_entropy(head(hidden), values, ignore_index=UNKNOWN)
        return total

    def _features(self, levels: Levels, boxes: list[Tensor]) -> list[Tensor]:
        """[K, width + sum of CHANNELS] of each picture: the box head's, and the trunk's averaged over the box."""
        average = [_pool(level, boxes, 1, stride) for level, stride in zip(levels, STRIDES, strict=True)]
        return torch.cat((self._hidden(levels, boxes), *average), dim=1).split([len(rows) for rows in boxes])


class SceneDetector:
    """A trained detector with its trunk: pictures -> proposals."""

    def __init__(self, detector: Detector, sha256: str) -> None:
        self.detector, self.sha256 = detector.eval(), sha256
        self.trunk = Lite0Pyramid()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.detector.vocabulary.classes

    def propose(self, images: Sequence[Image.Image]) -> list[Proposals]:
        """At most `settings.boxes` proposals for each picture, in its own pixels."""
        side = self.detector.settings.image_size
        found = self.detector.propose_levels(self.trunk(torch.stack([pixels(image, side) for image in images])))
        return [of_image.resized(image.size[::-1]) for of_image, image in zip(found, images, strict=True)]


def _proposal_network(settings: DetectorSettings) -> RegionProposalNetwork:
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


def _box_heads(settings: DetectorSettings, classes: int) -> RoIHeads:
    """The box head reads the trunk itself, not the pyramid: a linear layer there names 96 % of true boxes rightly."""
    pooled = sum(channels * grid**2 for channels, grid in zip(CHANNELS, GRIDS, strict=False))
    return RoIHeads(
        _pool_fine_and_middle,
        nn.Sequential(nn.Linear(pooled, settings.width), nn.LayerNorm(settings.width), nn.ReLU()),
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


def _pool_fine_and_middle(levels: Levels, boxes: list[Tensor]) -> Tensor:
    """[sum of boxes, features] of boxes in pixels of the input."""
    pooled = [_pool(level, boxes, grid, stride) for level, grid, stride in zip(levels, GRIDS, STRIDES, strict=False)]
    return torch.cat(pooled, dim=1)


def _pool(level: Tensor, boxes: list[Tensor], grid: int, stride: int) -> Tensor:
    """[sum of boxes, C * grid * grid]: means over the cells of a grid in each box."""
    return roi_align(level, boxes, grid, 1 / stride, sampling_ratio=4 if grid == 1 else 2, aligned=True).flatten(1)


def _best(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], overlap: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes of one picture of `size` (height, width) that overlap by at most `overlap`."""
    boxes = clip_boxes_to_image(boxes, size)
    kept = nms(boxes, scores, overlap)[:most]
    return boxes[kept], scores[kept], labels[kept]


class Predictor(nn.Module):
    """Features of boxes -> logits [n, 1 + classes] (background first) and one correction of the box for all classes.

    The correction is repeated for every class, as torchvision's parts read it: [n, 4 * (1 + classes)].
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.label, self.box = nn.Linear(width, 1 + classes), nn.Linear(width, 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.label(hidden)
        return logits, self.box(hidden).repeat(1, logits.shape[1])


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]`, or UNKNOWN throughout where a picture has nothing labelled."""
    return values[index] if len(values) else torch.full_like(index, UNKNOWN)
