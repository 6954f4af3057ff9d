"""Is a heatmap faithful to the match score, or only well placed? Deletion and insertion (Petsiuk et al., BMVC 2018).

The picture, as the model reads it, is cut into the cells of the heatmap. Deletion replaces cells by a fill, hottest
first: the sooner the match probability falls, the better the heatmap says what the score rests on. Insertion begins
with the fill and shows cells, hottest first: the sooner the probability rises, the better. The same is done coldest
first, by a blurred copy of the heatmap (does its detail matter?), in random order and with the cells of the true boxes
first. All orders move whole cells, so they differ in place alone. Fills stand in `fills.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import ground_phrases, match_probabilities, peak, point_hits
from amc_lib.grounder import model_input
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.explain.fills import FILLS, Fill
from amc_study.explain.heatmap_quality import pixels_inside
from amc_study.statistics import mean_interval
from amc_study.tiers import Split

SHARES = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)  # of the cells that are deleted, or shown
CURVES = ("deletion", "insertion")
OWN_ORDERS = ("heatmap", "coldest", "blurred")  # of a heatmap; the others are the same for every system
ORDERS = (*OWN_ORDERS, "random", "box")
COPY_BLUR = 8  # the heatmap's side over the standard deviation of its blurred copy


def faithfulness(
    systems: Mapping[str, Sequence[tuple[Checkpoint, int]]],
    regions: Sequence[Region],
    split: Split,
    fill: str,
    seed: int = 0,
    progress: str | None = None,
) -> pd.DataFrame:
    """Match probabilities of `regions` along each curve, for each system's checkpoints (one a seed), read at a layer.

    Columns: fill, system, seed, phrase_id, image_id, hit (of the heatmap's peak), curve, order, share, probability.
    Random orders and ties depend on (seed, number of the region) alone: all systems lose the same cells there, and the
    frozen trunk, where there is one, sees each picture once for all of them.
    """
    names = [(system, checkpoint.seed) for system, trained in systems.items() for checkpoint, _ in trained]
    checkpoints = [pair for trained in systems.values() for pair in trained]
    axes = pd.MultiIndex.from_product((CURVES, ORDERS, SHARES), names=("curve", "order", "share"))
    parts = []
    for number, region in enumerate(tqdm(regions, desc=progress, disable=progress is None)):
        rng = np.random.default_rng((seed, number))
        measured = zip(names, phrase_curves(checkpoints, region, split, fill, rng), strict=True)
        for (system, of_seed), (curves, hit) in measured:
            part = pd.DataFrame({"probability": curves.ravel()}, index=axes).reset_index()
            columns = {"system": system, "seed": of_seed, "phrase_id": region.id, "image_id": region.image_id}
            parts.append(part.assign(fill=fill, hit=hit, **columns))
    return pd.concat(parts, ignore_index=True)


def phrase_curves(
    checkpoints: Sequence[tuple[Checkpoint, int]], region: Region, split: Split, fill: str, rng: np.random.Generator
) -> list[tuple[np.ndarray, bool]]:
    """For each (checkpoint, layer) the probabilities [curve, order, share] of one phrase, and whether its map hits."""
    first = checkpoints[0][0].model
    image, size = picture_input(split, region, first), split.size(region)
    fill = FILLS[fill]
    nothing = fill(image, torch.ones(1, *image.shape[1:], dtype=torch.bool))[0]
    heatmaps = [_heatmap(checkpoint, layer, split, image, region.phrase) for checkpoint, layer in checkpoints]
    grid = heatmaps[0].shape[-1]
    ties, random = rng.permutation(grid**2), rng.permutation(grid**2)
    ends = first.read_image(torch.stack((image, nothing)))
    box = hottest_first(box_cells(region, size, grid), ties)
    shared = [_inputs(first, image, fill, order) for order in (random, box)]
    measured = []
    for (checkpoint, _), heatmap in zip(checkpoints, heatmaps, strict=True):
        own = [_inputs(first, image, fill, order) for order in own_orders(heatmap, ties)]
        with split.fit(checkpoint.model):
            inputs = torch.cat((ends, *own, *shared))
            probabilities = match_probabilities(checkpoint.model, checkpoint.tokenizer, inputs, region.phrase)
        hit = bool(point_hits(peak(heatmap[None], size), [region])[0] and heatmap.any())
        measured.append((_curves(probabilities.numpy()), hit))
    return measured


def _curves(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of (picture, fill) and then of every order, curve and inner share -> [curve, order, share]."""
    (picture, filled), inner = probabilities[:2], probabilities[2:].reshape(len(ORDERS), len(CURVES), -1)
    curves = np.pad(inner.swapaxes(0, 1), ((0, 0), (0, 0), (1, 1)))
    curves[0, :, 0] = curves[1, :, -1] = picture  # deletion starts from the picture, insertion ends with it
    curves[0, :, -1] = curves[1, :, 0] = filled
    return curves


def _heatmap(checkpoint: Checkpoint, layer: int, split: Split, image: Tensor, phrase: str) -> Tensor:
    model, tokenizer, explanation = checkpoint.model, checkpoint.tokenizer, checkpoint.settings.amc.explanation
    with split.fit(model):
        raw, _ = ground_phrases(model, tokenizer, image[None], [phrase], [0], layer, explanation)
    return raw[0]  # [G, G]


def own_orders(heatmap: Tensor, ties: np.ndarray) -> list[np.ndarray]:
    """The orders of cells that a heatmap [G, G] gives, by OWN_ORDERS; ties of the blurred copy as in the map itself."""
    sigma = heatmap.shape[-1] / COPY_BLUR
    size = 2 * min(round(2 * sigma), heatmap.shape[-1] - 1) + 1  # a kernel no wider than its reflected map
    copy = gaussian_blur(heatmap[None], [size] * 2, [sigma] * 2)[0]
    return [hottest_first(values.numpy(), ties) for values in (heatmap, -heatmap, copy)]


def _inputs(model: ALBEF, image: Tensor, fill: Fill, order: np.ndarray) -> Tensor:
    """What the image tower reads of a picture with cells erased in `order`: [curves * inner shares, ...]."""
    return model.read_image(erased(image, fill, order).flatten(0, 1).contiguous(memory_format=torch.channels_last))


def erased(image: Tensor, fill: Fill, order: np.ndarray, shares: Sequence[float] = SHARES[1:-1]) -> Tensor:
    """[2, shares, 3, S, S]: `image` [3, S, S] with the first cells of `order` filled, and with all others filled.

    order: cells of a square grid in row-major numbers, first first.
    """
    grid, side = round(len(order) ** 0.5), image.shape[-1]
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    cell = torch.arange(side) * grid // side  # [S]: each pixel's row or column of cells
    of_pixel = torch.from_numpy(rank).view(grid, grid)[cell][:, cell]  # [S, S]
    counts = torch.tensor([round(share * len(order)) for share in shares])
    first = of_pixel < counts[:, None, None]  # [shares, S, S]
    return torch.stack((fill(image, first), fill(image, ~first)))


def hottest_first(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Row-major numbers of the cells of `values` [G, G] from the largest down; equal ones in the order of `ties`."""
    return ties[np.argsort(-values.flatten()[ties], kind="stable")]


def box_cells(region: Region, size: tuple[int, int], grid: int) -> np.ndarray:
    """[grid, grid]: the share of each cell of a picture of `size` (height, width) inside the region's boxes."""
    inside = pixels_inside(region.boxes, size).float()
    return torch.nn.functional.adaptive_avg_pool2d(inside[None], grid)[0].numpy()


def picture_input(split: Split, region: Region, model: ALBEF) -> Tensor:
    """The pixels [3, S, S] that the model reads of a region's picture, where the split holds a trunk's features too."""
    loaded = split.load(region)[0]
    return loaded.float() if loaded.shape[0] == 3 else model_input(region.image.open(), model)


def curve_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean match probability at each share, with its interval over images, of what `faithfulness` gives.

    Columns: fill, system, curve, order, share, probability, ci_low, ci_high.
    """
    table = group_means(measured, ["fill", "system", "curve", "order", "share"], "probability")
    return table.rename(columns={"probability_low": "ci_low", "probability_high": "ci_high"}).round(4)


def area_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean area under each curve over the share of cells, and its gain over random order (paired; positive: better).

    Columns: fill, system, curve, order, where, area, area_low, area_high, gain, gain_low, gain_high, answers, seeds.
    where: all phrases, those whose heatmap points at the right thing (hit), the others (miss), of each seed's own.
    answers: phrases times seeds.
    """
    answer = ["fill", "system", "curve", "seed", "phrase_id", "image_id", "hit"]
    curves = measured.pivot(index=answer, columns=["order", "share"], values="probability")
    areas = pd.DataFrame({order: np.trapezoid(curves[order], SHARES, axis=1) for order in ORDERS}, index=curves.index)
    better = np.where(areas.index.get_level_values("curve") == "deletion", -1, 1)  # deletion should lose area
    gains = areas.sub(areas["random"], axis=0).mul(better, axis=0)
    long = pd.DataFrame({"area": areas.stack(), "gain": gains.stack()}).rename_axis([*answer, "order"]).reset_index()
    parts = {"all": long, "hit": long[long["hit"]], "miss": long[~long["hit"]]}
    long = pd.concat([part.assign(where=where) for where, part in parts.items()])
    groups = ["fill", "system", "curve", "order", "where"]
    counts = long.groupby(groups, sort=False).agg(answers=("area", "size"), seeds=("seed", "nunique"))
    means = group_means(long, groups, "area").merge(group_means(long, groups, "gain"), on=groups)
    return means.merge(counts, on=groups).round(4)


def group_means(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Mean of a column for each group, and the ends of its interval over images: COLUMN, COLUMN_low, COLUMN_high."""
    rows = []
    for group, part in table.groupby(list(by), sort=False):
        interval = mean_interval(part[column], part["image_id"])
        rows.append((*group, interval.value, interval.low, interval.high))
    return pd.DataFrame(rows, columns=[*by, column, f"{column}_low", f"{column}_high"])
