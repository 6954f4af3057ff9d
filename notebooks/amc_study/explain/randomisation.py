"""Does a heatmap depend on what the model has learnt? Cascading randomisation (Adebayo et al., NeurIPS 2018).

Weights are replaced by those of an untrained model from the output downwards: the match head, the fusion layers from
the top, the text layers, the image tower. A frozen trunk below is no part of what was learnt and stays. After each
stage the heatmaps of the same phrases are compared with those of the trained model: a heatmap that does not change
explains nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from amc_lib.checkpoints import Checkpoint
from amc_lib.config import TextSettings
from amc_lib.evaluate import Pointing, point_at
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.statistics import mean_interval
from amc_study.tiers import Split

TRAINED, OTHER_PHRASE, OTHER_PICTURE = "nothing", "another phrase", "another picture"


@dataclass
class Randomised:
    """Of N phrases after each stage, by its name: rank correlation with the trained model's map, and pointing hits.

    Values [R, N] over R draws of random weights. Under TRAINED stand the trained model's own hits. OTHER_PHRASE and
    OTHER_PICTURE hold correlations alone: of the trained model's map with its map of another phrase of the same
    picture and with that of another picture; what is left at least of two maps that mean different things.
    """

    correlations: dict[str, np.ndarray]
    hits: dict[str, np.ndarray]


def stages(text: TextSettings) -> dict[str, tuple[str, ...]]:
    """What is randomised in turn, from the output downwards: name -> beginnings of parameters' names."""
    layer = "text_encoder.bert.encoder.layer"
    fusion = {f"fusion layer {i}": (f"{layer}.{i}.",) for i in reversed(range(text.fusion_from, text.layers))}
    below = ("text_encoder.bert.embeddings.", *(f"{layer}.{i}." for i in range(text.fusion_from)))
    return {"match head": ("itm_head.",), **fusion, "text layers": below, "image tower": ("visual_encoder.",)}


def cascade(model: ALBEF, seed: int) -> Iterator[tuple[str, ALBEF]]:
    """The name of each stage and the model after it: one copy that is randomised further and further.

    Weights are those that an untrained model of the same settings starts with. Random states stay as they were.
    """
    changed = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = type(model)(model.settings).state_dict()
    state = changed.state_dict()
    for name, beginnings in stages(model.settings.text).items():
        for parameter in state:
            if parameter.startswith(beginnings):
                state[parameter].copy_(untrained[parameter])
        yield name, changed


def randomise(checkpoint: Checkpoint, layer: int, regions: Sequence[Region], bank: Split, draws: int) -> Randomised:
    """Ask `regions` of the checkpoint and of every stage of its cascade, `draws` times with other random weights."""

    def ask(model: ALBEF) -> Pointing:
        with bank.fit(model):
            explanation = checkpoint.settings.amc.explanation
            return point_at(model, checkpoint.tokenizer, regions, bank.load, layer, explanation=explanation)

    trained = ask(checkpoint.model)
    correlations: dict[str, list[np.ndarray]] = {}
    hits: dict[str, list[np.ndarray]] = {TRAINED: [trained.hits]}
    for draw in range(draws):
        for stage, model in cascade(checkpoint.model, draw):
            after = ask(model)
            correlations.setdefault(stage, []).append(rank_correlations(trained.heatmaps, after.heatmaps))
            hits.setdefault(stage, []).append(after.hits)
    for name, fits in {OTHER_PHRASE: _another_phrase, OTHER_PICTURE: _another_picture}.items():
        partners = _partners(regions, fits)
        agreement = rank_correlations(trained.heatmaps, trained.heatmaps[partners])
        correlations[name] = [np.where(partners >= 0, agreement, np.nan)]
    return Randomised(
        {name: np.array(of_draws) for name, of_draws in correlations.items()},
        {name: np.array(of_draws) for name, of_draws in hits.items()},
    )


def of_first_pictures(regions: Sequence[Region], count: int) -> list[Region]:
    """All regions of the first `count` pictures."""
    chosen = set(list(dict.fromkeys(region.image_id for region in regions))[:count])
    return [region for region in regions if region.image_id in chosen]


def rank_correlations(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation [N] of heatmaps [N, G, G]; 0 where one of them is constant and so has no order."""
    ranks = [rankdata(maps.flatten(1).double().numpy(), axis=1) for maps in (first, second)]
    centred = [of_map - of_map.mean(axis=1, keepdims=True) for of_map in ranks]
    scale = np.sqrt(np.prod([(of_map**2).sum(axis=1) for of_map in centred], axis=0))
    return np.divide((centred[0] * centred[1]).sum(axis=1), scale, out=np.zeros(len(scale)), where=scale > 0)


def _partners(regions: Sequence[Region], fits: Callable[[Region, Region], bool]) -> np.ndarray:
    """For each region the number of the next one (after the last comes the first) that fits, int [N]; -1: none."""
    partners = np.full(len(regions), -1)
    for p, region in enumerate(regions):
        others = ((p + step) % len(regions) for step in range(1, len(regions)))
        partners[p] = next((other for other in others if fits(region, regions[other])), -1)
    return partners


def _another_phrase(region: Region, other: Region) -> bool:
    return other.image_id == region.image_id and not set(other.boxes) & set(region.boxes)


def _another_picture(region: Region, other: Region) -> bool:
    return other.image_id != region.image_id


def randomisation_table(randomised: Mapping[str, Sequence[Randomised]], regions: Sequence[Region]) -> pd.DataFrame:
    """A row for each system and stage: correlation [-1, 1] and pointing (percent), with intervals over images."""
    ids = [region.image_id for region in regions]
    rows = []
    for system, of_seed in randomised.items():
        names = [TRAINED, *of_seed[0].correlations]
        for number, stage in enumerate(names):
            row = {"system": system, "stage": stage, "order": number}
            if stage in of_seed[0].correlations:
                row |= _columns("correlation", np.concatenate([one.correlations[stage] for one in of_seed]), ids, 1, 4)
            if stage in of_seed[0].hits:
                row |= _columns("pointing", np.concatenate([one.hits[stage] for one in of_seed]), ids, 100, 2)
            rows.append(row | {"phrases": len(ids), "seeds": len(of_seed)})
    return pd.DataFrame(rows)


def _columns(name: str, values: np.ndarray, ids: Sequence[str], scale: float, digits: int) -> dict[str, float]:
    """Mean of values [R, N] and its interval; phrases without a value (NaN) are left out."""
    there = ~np.isnan(values.astype(float)).any(axis=0)
    kept = [image_id for image_id, take in zip(ids, there, strict=True) if take]
    interval = mean_interval(values[:, there], kept)
    ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {f"{name}{end}": round(scale * value, digits) for end, value in ends.items()}
