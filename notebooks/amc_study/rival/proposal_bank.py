"""A split of scenes as the detector-based system reads it: proposals instead of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from amc_lib.data import Phrase
from amc_lib.model import ALBEF
from amc_lib.regions import Box, Region
from amc_study.scenes.splits import SceneSplit


class RegionInputs(Sequence[Tensor]):
    """For each of n pictures its proposals as `region_tower` reads them, float [K, F + 5].

    boxes: [n, K, 4], xyxy in pixels of square pictures of `side`; features: [n, K, F]. A picture with fewer proposals
    has boxes without area at the end.
    """

    def __init__(self, boxes: Tensor, features: Tensor, side: int) -> None:
        self.boxes, self.features, self.side = boxes, features, side

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Tensor:
        corners = self.boxes[index].float() / self.side  # [K, 4], shares of the side
        area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        return torch.cat((self.features[index].float(), corners, area[:, None]), dim=1)


@dataclass(frozen=True)
class ProposalSplit:
    """The same phrases of the same scenes as `scenes`, each with what the detector proposes there."""

    scenes: SceneSplit
    inputs: RegionInputs

    @property
    def title(self) -> str:
        return self.scenes.title

    @property
    def skipped(self) -> list[str]:
        return self.scenes.skipped

    def caption_phrases(self) -> list[list[Phrase]]:
        return self.scenes.caption_phrases()

    def region_phrases(self) -> list[list[Phrase]]:
        return self.scenes.region_phrases()

    def all_regions(self) -> list[Region]:
        return self.scenes.all_regions()

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The proposals of a region's scene, [K, F + 5], and the picture's (height, width)."""
        return self.inputs[region.image.index], self.size(region)

    @cached_property
    def detections(self) -> dict[str, tuple[Box, ...]]:
        """image id -> the proposals' boxes, xyxy in pixels, for the ranking of boxes by heatmaps."""
        by_image = {region.image_id: self.boxes(region) for region in self.all_regions()}
        return {
            image_id: tuple(tuple(box) for box in boxes.tolist() if box[2] > box[0] and box[3] > box[1])
            for image_id, boxes in by_image.items()
        }

    def boxes(self, region: Region) -> Tensor:
        """The proposals' boxes [K, 4], xyxy in pixels; without area where there are fewer."""
        return self.inputs.boxes[region.image.index].float()

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.scenes.size(region)

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: unchanged."""
        return nullcontext()
