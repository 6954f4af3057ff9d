"""A split of scenes as the detector-based system reads it: proposals of the detector instead of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from amc_lib.config import SceneSettings
from amc_lib.regions import Box, Region
from amc_study.rival.detector_runs import SceneDetector, load_detector
from amc_study.rival.objects import CODE, draw_levels
from amc_study.scenes.cache import Part, open_entry
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


class ProposalSplit(SceneSplit):
    """A split of scenes whose inputs are what the detector proposes there (`RegionInputs`)."""

    inputs: RegionInputs

    def boxes(self, region: Region) -> Tensor:
        """The proposals' boxes [K, 4], xyxy in pixels; without area where there are fewer."""
        return self.inputs.boxes[region.image.index].float()

    @cached_property
    def detections(self) -> dict[str, tuple[Box, ...]]:
        """image id -> the proposals' boxes, xyxy in pixels, for the ranking of boxes by heatmaps."""
        boxes = {region.image_id: self.boxes(region) for region in self.all_regions()}
        return {
            name: tuple(map(tuple, part[(part[:, 2:] > part[:, :2]).all(1)].tolist())) for name, part in boxes.items()
        }


def open_proposals(scenes: SceneSplit, detector: SceneDetector) -> ProposalSplit:
    """Proposals of a split from the cache or, where they are not there yet, found now (with a progress bar)."""
    code = (*CODE, *(f"notebooks/amc_study/rival/{name}.py" for name in ("detector", "proposals")))
    compute = partial(_propose, detector.folder, detector.sha256)
    depends_on = [detector.sha256, detector.settings]
    arrays, _ = open_entry("proposals", compute, scenes.settings, scenes.split, depends_on, code)
    inputs = RegionInputs(arrays["boxes"], arrays["features"], scenes.settings.size)
    return ProposalSplit(scenes.settings, scenes.split, inputs, scenes.captions, scenes.regions)


def _propose(folder: Path, sha256: str, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    """The proposals of each scene, the best first; without area, and with features 0, where there are fewer than K."""
    detector = _detector(folder, sha256)
    K = detector.settings.boxes
    _, levels = draw_levels(settings, detector.settings.image_size, split, start, stop)
    boxes, features = torch.zeros(stop - start, K, 4), torch.zeros(stop - start, K, detector.settings.width)
    for row, found in enumerate(detector.detector.propose(levels)):
        boxes[row, : len(found.boxes)] = found.resized((settings.size, settings.size)).boxes
        features[row, : len(found.boxes)] = found.features
    return {"boxes": boxes.numpy(), "features": features.half().numpy()}, []


@lru_cache(maxsize=1)
def _detector(folder: Path, sha256: str) -> SceneDetector:
    """The detector of this process, loaded anew where the folder's weights are others."""
    return load_detector(folder)
