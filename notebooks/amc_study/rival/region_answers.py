"""What the detector-based system answers: for each phrase the proposal that matches it best, and its centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import point_hits
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer
from amc_study.rival.proposals import ProposalSplit
from amc_study.rival.vmrm import WAYS, score_regions

DEFAULT_WAY = "similarity"  # the best on validation scenes (figures/layers.csv)
RIGHT_IOU = 0.5
PHRASES_AT_ONCE = 32  # of more, what the fusion layers make of all proposals is so large that it takes longer


@dataclass
class RegionAnswers:
    """P regions, the boxes [P, 4] (xyxy, pixels) chosen for them, and how sure the system is of each, [P]."""

    regions: list[Region]
    boxes: np.ndarray
    scores: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """(x, y) [P, 2]: the centres of the boxes."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def hits(self) -> np.ndarray:
        """bool [P]: does the centre lie strictly inside a box of the region?"""
        return point_hits(self.points, self.regions)

    @property
    def iou(self) -> np.ndarray:
        """float [P]: the best IoU of the chosen box with a box of the region."""
        chosen = torch.from_numpy(self.boxes).float().split(1)
        truth = [torch.tensor(region.boxes, dtype=torch.float64) for region in self.regions]
        return np.array([float(box_iou(*pair).max()) for pair in zip(chosen, truth, strict=True)])

    @property
    def right_boxes(self) -> np.ndarray:
        """bool [P]: does the chosen box share half of the union with a box of the region?"""
        return self.iou >= RIGHT_IOU


def choose_regions(
    model: ALBEF,
    tokenizer: Tokenizer,
    regions: Sequence[Region],
    split: ProposalSplit,
    ways: Sequence[str] = WAYS,
    progress: str | None = None,
) -> dict[str, RegionAnswers]:
    """The answers to `regions` by each way of scoring, in their order."""
    best: dict[str, list[tuple[Tensor, Tensor]]] = {way: [] for way in ways}  # boxes and scores
    starts = range(0, len(regions), PHRASES_AT_ONCE)
    for start in tqdm(starts, desc=progress, disable=progress is None):
        part = regions[start : start + PHRASES_AT_ONCE]
        images = {region.image_id: region for region in part}
        rows = [[*images].index(region.image_id) for region in part]
        inputs = torch.stack([split.load(region)[0] for region in images.values()])  # [I, K, F + 5]
        candidates = torch.stack([split.boxes(region) for region in part])  # [P, K, 4]
        scores = score_regions(model, tokenizer, inputs, [region.phrase for region in part], rows, ways)
        for way in ways:
            highest, index = scores[way].max(1)
            best[way].append((candidates[torch.arange(len(part)), index], highest))
    return {
        way: RegionAnswers(list(regions), *(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
        for way, parts in best.items()
    }


def way_accuracies(checkpoint: Checkpoint, split: ProposalSplit, ways: Sequence[str] = WAYS) -> dict[str, float]:
    """Pointing accuracy in percent of each way to score proposals on a split."""
    answers = choose_regions(checkpoint.model, checkpoint.tokenizer, split.all_regions(), split, ways)
    return {way: 100 * float(answers[way].hits.mean()) for way in ways}


def oracle(split: ProposalSplit) -> RegionAnswers:
    """The best that any choice among the proposals can do: one whose centre hits and, of those, of highest IoU."""
    regions, boxes, scores = split.all_regions(), [], []
    for region in regions:
        candidates = split.boxes(region)  # [K, 4]
        overlap = box_iou(candidates, torch.tensor(region.boxes, dtype=candidates.dtype)).amax(1).numpy()  # [K]
        each = RegionAnswers([region] * len(candidates), candidates.numpy(), overlap)
        best = int((overlap + each.hits).argmax())  # a hit outweighs any overlap
        boxes.append(each.boxes[best])
        scores.append(overlap[best])
    return RegionAnswers(regions, np.stack(boxes), np.array(scores))
