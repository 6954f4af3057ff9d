"""Is a heatmap faithful to the match score, or only well placed? Deletion and insertion (Petsiuk et al., BMVC 2018).

The picture, as the model reads it, is cut into the cells of the heatmap. Deletion replaces cells by a fill, hottest
first: the sooner the match probability falls, the better the heatmap says what the score rests on. Insertion begins
with the fill and shows cells, hottest first: the sooner the probability rises, the better. The same is done in random
order and with the cells of the true boxes first. All orders move whole cells, so they differ in place alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import ground_phrases, peak, point_hits
from amc_lib.grounder import model_input
from amc_lib.matching import match_probabilities
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.explain.heatmap_quality import pixels_inside
from amc_study.tiers import Split

SHARES = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)  # of the cells that are deleted, or shown
CURVES = ("deletion", "insertion")
ORDERS = ("heatmap", "random", "box")
BLUR = 8  # the picture's side over the blur's standard deviation


def mean_colour(image: Tensor) -> Tensor:
    """[3, S, S] -> the same shape in the picture's own mean colour."""
    return image.mean((1, 2), keepdim=True).expand_as(image)


def blurred(image: Tensor) -> Tensor:
    """[3, S, S] -> the picture blurred until nothing can be recognised; large areas keep their colour."""
    sigma = image.shape[-1] / BLUR
    return gaussian_blur(image, [2 * round(2 * sigma) + 1] * 2, [sigma] * 2)


FILLS: dict[str, Callable[[Tensor], Tensor]] = {"mean colour": mean_colour, "blur": blurred}


@dataclass
class Faithfulness:
    """Of N phrases for one checkpoint and fill: match probabilities [curve, order, N, share], and pointing hits [N].

    Curves, orders and shares as in CURVES, ORDERS, SHARES.
    """

    scores: np.ndarray
    hits: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """Area under each curve over the share of cells, [curve, order, N], in [0, 1]."""
        return np.trapezoid(self.scores, SHARES, axis=-1)

    @property
    def gains(self) -> np.ndarray:
        """How much better than random order, [curve, order, N]: a smaller area of deletion, a larger of insertion."""
        above = self.areas - self.areas[:, [ORDERS.index("random")]]
        return above * np.array([-1, 1])[:, None, None]


def faithfulness(
    systems: Mapping[str, Sequence[tuple[Checkpoint, int]]],
    regions: Sequence[Region],
    bank: Split,
    fill: str,
    seed: int = 0,
    progress: str | None = None,
) -> dict[str, list[Faithfulness]]:
    """Curves of `regions` for each system's checkpoints (one a seed), each read at its layer.

    Random orders and ties depend on (seed, number of the region) alone: all systems lose the same cells there, and the
    frozen trunk, where there is one, sees each picture once for all of them.
    """
    asked = [pair for of_seed in systems.values() for pair in of_seed]
    scores: list[list[np.ndarray]] = [[] for _ in asked]
    hits: list[list[bool]] = [[] for _ in asked]
    for number, region in enumerate(tqdm(regions, desc=progress, disable=progress is None)):
        with_orders = _of_region(asked, region, bank, fill, np.random.default_rng((seed, number)))
        for one, (curves, hit) in enumerate(with_orders):
            scores[one].append(curves)
            hits[one].append(hit)
    measured = iter(
        Faithfulness(np.stack(curves, axis=2), np.array(of_one)) for curves, of_one in zip(scores, hits, strict=True)
    )
    return {system: [next(measured) for _ in of_seed] for system, of_seed in systems.items()}


def _of_region(
    asked: Sequence[tuple[Checkpoint, int]], region: Region, bank: Split, fill: str, rng: np.random.Generator
) -> list[tuple[np.ndarray, bool]]:
    """For each checkpoint the scores [curve, order, share] of one phrase, and whether its heatmap's peak hits."""
    first = asked[0][0].model
    image, size = picture_input(bank, region, first), bank.size(region)
    blank = FILLS[fill](image)
    heatmaps = [_heatmap(checkpoint, layer, bank, image, region.phrase) for checkpoint, layer in asked]
    grid = heatmaps[0].shape[-1]
    ties, random = rng.permutation(grid**2), rng.permutation(grid**2)
    ends = first.read_image(torch.stack((image, blank)))
    box = hottest_first(box_cells(region, size, grid), ties)
    shared = [_inputs(first, image, blank, order) for order in (random, box)]
    answers = []
    for (checkpoint, _), heatmap in zip(asked, heatmaps, strict=True):
        own = _inputs(first, image, blank, hottest_first(heatmap.numpy(), ties))
        with bank.fit(checkpoint.model):
            inputs = torch.cat((ends, own, *shared))
            probabilities = match_probabilities(checkpoint.model, checkpoint.tokenizer, inputs, region.phrase)
        hit = bool(point_hits(peak(heatmap[None], size), [region])[0] and heatmap.any())
        answers.append((_curves(probabilities.numpy()), hit))
    return answers


def _curves(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of (picture, fill) and then of every order, curve and inner share -> [curve, order, share]."""
    ends, inner = probabilities[:2], probabilities[2:].reshape(len(ORDERS), len(CURVES), -1).swapaxes(0, 1)
    begin = np.stack((ends, ends[::-1]))  # [curve, first and last share]: deletion starts from the picture
    first, last = (np.broadcast_to(begin[:, [end], None], (*inner.shape[:2], 1)) for end in (0, 1))
    return np.concatenate((first, inner, last), axis=-1)


def _heatmap(checkpoint: Checkpoint, layer: int, bank: Split, image: Tensor, phrase: str) -> Tensor:
    model, tokenizer, explanation = checkpoint.model, checkpoint.tokenizer, checkpoint.settings.amc.explanation
    with bank.fit(model):
        raw, _ = ground_phrases(model, tokenizer, image[None], [phrase], [0], layer, explanation)
    return raw[0]  # [G, G]


def _inputs(model: ALBEF, image: Tensor, blank: Tensor, order: np.ndarray) -> Tensor:
    """What the image tower reads of a picture with cells erased in `order`: [curves * inner shares, ...]."""
    return model.read_image(erased(image, blank, order).flatten(0, 1).contiguous(memory_format=torch.channels_last))


def erased(image: Tensor, blank: Tensor, order: np.ndarray, shares: Sequence[float] = SHARES[1:-1]) -> Tensor:
    """[2, shares, 3, S, S]: `image` [3, S, S] with the first cells of `order` from `blank`, and the reverse.

    order: cells of a square grid in row-major numbers, first first.
    """
    grid, side = round(len(order) ** 0.5), image.shape[-1]
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    cell = torch.arange(side) * grid // side  # [S]: each pixel's row or column of cells
    of_pixel = torch.from_numpy(rank).view(grid, grid)[cell][:, cell]  # [S, S]
    counts = torch.tensor([round(share * len(order)) for share in shares])
    first = (of_pixel < counts[:, None, None])[:, None]  # [shares, 1, S, S]
    return torch.stack((torch.where(first, blank, image), torch.where(first, image, blank)))


def hottest_first(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Row-major numbers of the cells of `values` [G, G] from the largest down; equal ones in the order of `ties`."""
    return ties[np.argsort(-values.flatten()[ties], kind="stable")]


def box_cells(region: Region, size: tuple[int, int], grid: int) -> np.ndarray:
    """[grid, grid]: the share of each cell of a picture of `size` (height, width) inside the region's boxes."""
    inside = pixels_inside(region.boxes, size).float()
    return torch.nn.functional.adaptive_avg_pool2d(inside[None], grid)[0].numpy()


def picture_input(bank: Split, region: Region, model: ALBEF) -> Tensor:
    """The pixels [3, S, S] that the model reads of a region's picture, where the bank holds a trunk's features too."""
    loaded = bank.load(region)[0]
    return loaded.float() if loaded.shape[0] == 3 else model_input(region.image.open(), model.settings.vision)


def one_an_image(regions: Sequence[Region], count: int, seed: int = 0) -> list[Region]:
    """`count` regions of as many images (or one of each, if there are fewer), drawn at random."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Region] = {}
    for p in rng.permutation(len(regions)):
        drawn.setdefault(regions[p].image_id, regions[p])
    return list(drawn.values())[:count]
