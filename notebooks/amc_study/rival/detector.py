"""The detector: Faster R-CNN above the frozen trunk, which knows what is annotated and nothing else.

It is put together from torchvision's parts. As in bottom-up attention (Anderson et al., CVPR 2018) a second head names
attributes, so that region features carry colour and pattern too. What is not annotated (on scenes, things of other
concepts) is background in training, as in Visual Genome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image, nms

from amc_lib.model.trunk import NETWORKS, STRIDES
from amc_study.rival.detector_parts import box_heads, pool, proposal_network
from amc_study.rival.objects import Levels
from amc_study.rival.settings import DetectorSettings

LEVELS = ("fine", "middle", "coarse")
AUXILIARY = 0.2  # weight of the box head's losses beside that of labels, which suffer from larger ones
ROUNDS = 2  # of correcting a box and looking at it again, by the same head
UNKNOWN = -1  # an attribute that a thing does not have


@dataclass(frozen=True)
class Vocabulary:
    """What a detector can name: classes of things, and colours and patterns if there are any."""

    classes: tuple[str, ...]
    colours: tuple[str, ...]
    patterns: tuple[str, ...]


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


class Detector(nn.Module):
    """Levels of the frozen trunk -> boxes with classes, and features that also carry colour and pattern.

    The features are those from which the box head names things (`detection.measure` says how well it names them at
    true boxes). Of a coarser vocabulary than that of scenes they are worth less: the trunk's own can stand beside them.
    """

    def __init__(self, settings: DetectorSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.settings, self.vocabulary = settings, vocabulary
        self.fpn = FeaturePyramidNetwork(list(NETWORKS[settings.trunk].channels), settings.channels)
        self.rpn = proposal_network(settings)
        self.heads = box_heads(settings, len(vocabulary.classes))
        attributes = vocabulary.colours, vocabulary.patterns
        self.colour, self.pattern = (nn.Linear(settings.width, len(w)) if w else None for w in attributes)

    def losses(self, levels: Levels, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalars to be added up, for B pictures with one target each.

        Anchors and boxes are sampled with torch's global generator.
        """
        boxed = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
        boxes, anchor_losses, size = self._candidates(levels, boxed)
        parts = levels[0].new_zeros(3)
        for _ in range(ROUNDS):
            boxes, matched, labels, goals = self.heads.select_training_samples(boxes, boxed)
            naming, placing = self._look(levels, boxes)
            logits, deltas = self.heads.box_predictor(naming, placing)
            attribute = self._attribute_loss(naming, torch.cat(labels) > 0, matched, targets)
            parts = parts + torch.stack((*fastrcnn_loss(logits, deltas, labels, goals), attribute)) / ROUNDS
            boxes = self._corrected(boxes, deltas.detach(), size)
        label, box, attribute = parts
        return {
            "objectness": anchor_losses["loss_objectness"],
            "anchor_box": anchor_losses["loss_rpn_box_reg"],
            "label": label,
            "box": AUXILIARY * box,
            "attribute": AUXILIARY * attribute,
        }

    @torch.inference_mode()
    def propose(self, levels: Levels, count: int | None = None) -> list[Proposals]:
        """The best boxes of each picture, at most `count` (by default `settings.boxes`), in pixels of the input."""
        boxes, _, size = self._candidates(levels)
        for _ in range(ROUNDS):
            logits, deltas = self.heads.box_predictor(*self._look(levels, boxes))
            boxes = self._corrected(boxes, deltas, size)
        scores, labels = logits.softmax(1)[:, 1:].max(1)
        best = []
        for candidates in zip(boxes, *(values.split([*map(len, boxes)]) for values in (scores, labels)), strict=True):
            kept = nms(*candidates[:2], self.settings.overlap)[: count or self.settings.boxes]
            best.append([values[kept] for values in candidates])
        boxes = [part[0] for part in best]
        features = self._features(levels, boxes).split([*map(len, boxes)])
        return [Proposals(*part, seen, size) for part, seen in zip(best, features, strict=True)]

    @torch.inference_mode()
    def name(self, levels: Levels, boxes: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest class, colour and pattern of each box of all pictures, as indices of the vocabulary.

        boxes: xyxy in pixels of the input, [n, 4] of each picture. Each answer: int64 [sum of n]; UNKNOWN for all where
        the vocabulary has no colours or patterns.
        """
        naming, placing = self._look(levels, boxes)
        logits, _ = self.heads.box_predictor(naming, placing)
        label, unknown = logits[:, 1:].argmax(1), logits.new_full((len(logits),), UNKNOWN, dtype=torch.int64)
        return label, *(head(naming).argmax(1) if head else unknown for head in (self.colour, self.pattern))

    def _candidates(
        self, levels: Levels, boxed: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor], tuple[int, int]]:
        """Boxes of the proposal network for each picture, its losses, and the input's (height, width)."""
        batch, _, height, width = levels[0].shape
        size = (height * STRIDES[0], width * STRIDES[0])
        images = ImageList(levels[0].new_empty(batch, 0, *size), [size] * batch)  # read for their sizes alone
        maps = self.fpn(dict(zip(LEVELS, levels, strict=True)))
        return *self.rpn(images, maps, boxed), size

    def _look(self, levels: Levels, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the box head makes of all pictures' boxes, one after another: for naming and for placing them."""
        return self.heads.box_head(self.heads.box_roi_pool(levels, boxes))

    def _features(self, levels: Levels, boxes: list[Tensor]) -> Tensor:
        """[sum of boxes, F]: the naming part of what the box head makes of them and, if wanted, means of the levels."""
        naming = self._look(levels, boxes)[0]
        if not self.settings.trunk_features:
            return naming
        return torch.cat((naming, pool(levels, boxes, (1,) * len(STRIDES), samples=-1)), dim=1)

    def _corrected(self, boxes: list[Tensor], deltas: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Boxes of each picture moved as the box head says, inside pictures of `size` (height, width)."""
        moved = clip_boxes_to_image(self.heads.box_coder.decode(deltas[:, :4], boxes)[:, 0], size)
        return list(moved.split([len(part) for part in boxes]))

    def _attribute_loss(
        self, naming: Tensor, labelled: Tensor, matched: list[Tensor], targets: Sequence[Target]
    ) -> Tensor:
        """Mean cross-entropy of colour and of pattern over the labelled boxes that have one."""
        total = naming.new_zeros(())
        for head, name in ((self.colour, "colours"), (self.pattern, "patterns")):
            # a picture with nothing labelled matches every box with a first thing, which it lacks
            padded = [F.pad(getattr(target, name), (0, 1), value=UNKNOWN) for target in targets]
            known = torch.cat([values[index] for values, index in zip(padded, matched, strict=True)])
            known = known.where(labelled, UNKNOWN)
            if (known != UNKNOWN).any():
                total = total + F.cross_entropy(head(naming), known, ignore_index=UNKNOWN)
        return total
