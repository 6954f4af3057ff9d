"""A split as the detector-based system reads it: proposals of the detector instead of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amc_lib.config import SceneSettings
from amc_lib.regions import Box, Region
from amc_study.photos import features
from amc_study.photos.album import AlbumSplit
from amc_study.rival.detector_runs import TrainedDetector, load_detector
from amc_study.rival.objects import CODE, Levels, levels_of
from amc_study.scenes.cache import Part, fingerprint, open_entry, open_rows
from amc_study.scenes.splits import SceneSplit, open_scenes

CODE = (*CODE, *(f"notebooks/amc_study/rival/{name}.py" for name in ("detector", "detector_parts", "proposals")))
PHOTOGRAPHS_A_TASK = 50


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


class ProposalSplit:
    """What a split is whose inputs are a detector's proposals in its pictures (`RegionInputs`)."""

    inputs: RegionInputs

    def row(self, region: Region) -> int:
        """Of a region's picture."""
        raise NotImplementedError

    def boxes(self, region: Region) -> Tensor:
        """The proposals' boxes [K, 4], xyxy in pixels of the picture; without area where there are fewer."""
        height, width = self.size(region)
        scale = torch.tensor([width / self.inputs.side, height / self.inputs.side] * 2)
        return self.inputs.boxes[self.row(region)].float() * scale

    @cached_property
    def detections(self) -> dict[str, tuple[Box, ...]]:
        """image id -> the proposals' boxes, xyxy in pixels, for the ranking of boxes by heatmaps."""
        boxes = {region.image_id: self.boxes(region) for region in self.all_regions()}
        return {
            name: tuple(map(tuple, part[(part[:, 2:] > part[:, :2]).all(1)].tolist())) for name, part in boxes.items()
        }


class SceneProposalSplit(ProposalSplit, SceneSplit):
    """Of drawn scenes."""

    def row(self, region: Region) -> int:
        return region.image.index


class PhotoProposalSplit(ProposalSplit, AlbumSplit):
    """Of photographs, and of the mirrored ones where training needs them."""

    def row(self, region: Region) -> int:
        return self.rows[region.image_id]


def open_proposals(split: SceneSplit | AlbumSplit, detector: TrainedDetector) -> ProposalSplit:
    """Proposals of a split from the cache or, where they are not there yet, found now (with a progress bar)."""
    if isinstance(split, AlbumSplit):
        return _open_photographs(split, detector)
    open_scenes(split.settings, detector.settings.vision, split.split)  # here, before each process opens it
    compute = partial(_propose_scenes, detector.folder, detector.sha256)
    depends_on = [detector.sha256, detector.settings]
    arrays, _ = open_entry("proposals", compute, split.settings, split.split, depends_on, CODE)
    inputs = RegionInputs(arrays["boxes"], arrays["features"], split.settings.size)
    return SceneProposalSplit(split.settings, split.split, inputs, split.captions, split.regions)


def _propose_scenes(folder: Path, sha256: str, settings: SceneSettings, split: str, start: int, stop: int) -> Part:
    detector = _detector(folder, sha256)
    maps = [_scene_features(detector, settings, split)]
    levels = levels_of(maps, detector.settings.trunk, range(start, stop))
    return _arrays(detector, levels, settings.size), []


def _open_photographs(album: AlbumSplit, detector: TrainedDetector) -> PhotoProposalSplit:
    """One entry for the photographs and, after them, the mirrored ones."""
    paths = tuple({region.image_id: region.image.path for region in album.regions}.values())
    with_mirrored, n = album.mirrored is not None, len(paths)
    stats = [(path.name, path.stat().st_size) for path in paths]
    key = fingerprint([detector.sha256, detector.settings, with_mirrored, stats], (*features.CODE, *CODE))
    compute = partial(_propose_photographs, detector.folder, detector.sha256, album.split, paths, with_mirrored)
    count, title = n * (1 + with_mirrored), f"proposals of {album.split}"
    arrays, _ = open_rows(f"proposals-photos-{album.split}-{key}", compute, count, title, PHOTOGRAPHS_A_TASK)
    inputs, mirrored = (
        RegionInputs(arrays["boxes"][rows], arrays["features"][rows], detector.settings.image_size)
        for rows in (slice(n), slice(n, None))
    )
    read = {"inputs": inputs, "mirrored": mirrored if with_mirrored else None}
    return PhotoProposalSplit(**vars(album) | read)


def _propose_photographs(
    folder: Path, sha256: str, split: str, paths: tuple[Path, ...], with_mirrored: bool, start: int, stop: int
) -> Part:
    detector = _detector(folder, sha256)
    maps = _maps(detector, split, paths, with_mirrored)
    levels = levels_of(maps, detector.settings.trunk, range(start, stop))
    return _arrays(detector, levels, detector.settings.image_size), []


def _arrays(detector: TrainedDetector, levels: Levels, side: int) -> dict[str, np.ndarray]:
    """The proposals of each picture, the best first, with boxes in pixels of a square of `side`.

    Where there are fewer than K, boxes have no area and features are 0.
    """
    count, K = len(levels[0]), detector.settings.boxes
    boxes, features = torch.zeros(count, K, 4), torch.zeros(count, K, detector.settings.feature_width)
    for row, found in enumerate(detector.detector.propose(levels)):
        boxes[row, : len(found.boxes)] = found.resized((side, side)).boxes
        features[row, : len(found.boxes)] = found.features
    return {"boxes": boxes.numpy(), "features": features.half().numpy()}


@lru_cache(maxsize=1)
def _detector(folder: Path, sha256: str) -> TrainedDetector:
    """The detector of this process, loaded anew where the folder's weights are others."""
    return load_detector(folder)


@lru_cache(maxsize=1)
def _scene_features(detector: TrainedDetector, settings: SceneSettings, split: str) -> Tensor:
    """The trunk's features of a split of scenes."""
    return open_scenes(settings, detector.settings.vision, split).inputs


@lru_cache(maxsize=1)
def _maps(detector: TrainedDetector, split: str, paths: tuple[Path, ...], with_mirrored: bool) -> list[Tensor]:
    """The trunk's features of photographs and, if wanted, of the mirrored ones."""
    maps = features.open_features(split, paths, detector.settings.vision, with_mirrored)
    return [level for level in maps if level is not None]
