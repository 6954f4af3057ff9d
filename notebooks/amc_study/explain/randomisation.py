"""Does a heatmap depend on what the model has learnt? Randomisation of weights (Adebayo et al., NeurIPS 2018).

Weights are replaced by those of an untrained model from the output downwards: the match head, the fusion layers from
the top, the text layers, the image tower; "cascading" each stage on top of those before, "independent" each alone. A
frozen trunk below is no part of what was learnt and stays. After each stage the heatmaps of the same phrases are
compared with those of the trained model: a heatmap that does not change explains nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import ConstantInputWarning, spearmanrho
from torch import Tensor

from amc_lib.checkpoints import Checkpoint
from amc_lib.config import TextSettings
from amc_lib.evaluate import Pointing, point_at
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.explain.faithfulness import group_means
from amc_study.tiers import Split

TRAINED, OTHER_PHRASE, OTHER_PICTURE = "nothing", "another phrase", "another picture"
FIRST_SEED = 1_000_000  # far from the seeds of trainings: the same seed would give a model its own beginning back
OTHERS: dict[str, Callable[[Region, Region], bool]] = {  # whether two phrases are to be compared
    OTHER_PHRASE: lambda one, other: one.image_id == other.image_id and not set(one.boxes) & set(other.boxes),
    OTHER_PICTURE: lambda one, other: one.image_id != other.image_id,
}


def stages(text: TextSettings) -> dict[str, tuple[str, ...]]:
    """What is randomised in turn, from the output downwards: name -> beginnings of parameters' names."""
    layer = "text_encoder.bert.encoder.layer"
    fusion = {f"fusion layer {i}": (f"{layer}.{i}.",) for i in reversed(range(text.fusion_from, text.layers))}
    below = ("text_encoder.bert.embeddings.", *(f"{layer}.{i}." for i in range(text.fusion_from)))
    return {"match head": ("itm_head.",), **fusion, "text layers": below, "image tower": ("visual_encoder.",)}


def cascade(model: ALBEF, seed: int, alone: bool = False) -> Iterator[tuple[str, ALBEF]]:
    """The name of each stage and the model after it: one copy that is randomised further and further, or each `alone`.

    Weights are those that an untrained model of the same settings starts with, not the one that this model started as.
    Random states stay as they were.
    """
    changed = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + seed)
        untrained = type(model)(model.settings).state_dict()
    state, trained = changed.state_dict(), model.state_dict()
    for name, beginnings in stages(model.settings.text).items():
        if alone:
            changed.load_state_dict(trained)
        for parameter in state:
            if parameter.startswith(beginnings):
                state[parameter].copy_(untrained[parameter])
        yield name, changed


def randomise(
    checkpoint: Checkpoint, layer: int, regions: Sequence[Region], split: Split, draws: int, alone: bool = False
) -> pd.DataFrame:
    """The answers to N phrases by the trained model and after every stage of its `cascade`, `draws` times.

    Columns: stage, draw, phrase_id, image_id, correlation (Spearman's, over cells, with the trained model's map), hit.
    Stage TRAINED has no correlation. OTHER_PHRASE and OTHER_PICTURE have no hits: they compare the trained model's map
    with its map of another phrase of the same picture, or of another picture: what two maps of different things share.
    """

    def ask(model: ALBEF) -> Pointing:
        with split.fit(model):
            explanation = checkpoint.settings.amc.explanation
            return point_at(model, checkpoint.tokenizer, regions, split.load, layer, explanation=explanation)

    def rows(stage: str, draw: int, correlation: np.ndarray | float, hits: np.ndarray | float) -> pd.DataFrame:
        names = {"phrase_id": [r.id for r in regions], "image_id": [r.image_id for r in regions]}
        return pd.DataFrame({"stage": stage, "draw": draw, **names, "correlation": correlation, "hit": hits})

    trained = ask(checkpoint.model)
    parts = [rows(TRAINED, 0, np.nan, trained.hits.astype(float))]
    for draw in range(draws):
        for stage, model in cascade(checkpoint.model, draw, alone):
            after = ask(model)
            correlation = rank_correlations(trained.heatmaps, after.heatmaps)
            parts.append(rows(stage, draw, correlation, after.hits.astype(float)))
    for stage, fits in OTHERS.items():
        partners = _partners(regions, fits)
        correlation = rank_correlations(trained.heatmaps, trained.heatmaps[partners])
        parts.append(rows(stage, 0, np.where(partners >= 0, correlation, np.nan), np.nan))
    return pd.concat(parts, ignore_index=True)


def rank_correlations(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation [N] of heatmaps [N, G, G]; 0 where one of them is constant and so has no order."""
    maps = [heatmaps.flatten(1).double().numpy() for heatmaps in (first, second)]  # [N, G, G] -> [N, G * G]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return np.nan_to_num(spearmanrho(*maps, axis=1).statistic)


def _partners(regions: Sequence[Region], fits: Callable[[Region, Region], bool]) -> np.ndarray:
    """For each region the number of the next one (after the last comes the first) that fits, int [N]; -1: none."""
    numbers = range(len(regions))
    after = [(*numbers[p + 1 :], *numbers[:p]) for p in numbers]
    return np.array([next((q for q in after[p] if fits(regions[p], regions[q])), -1) for p in numbers])


def randomisation_table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for each system and stage: correlation [-1, 1] and pointing (percent), with intervals over images.

    answers: what `randomise` gives, with columns system and seed. Columns: system, stage, order (number of the stage),
    correlation and pointing, each with _low and _high (NaN where a stage has none), phrases, seeds.
    """
    by, answers = ["system", "stage"], answers.assign(pointing=100 * answers["hit"])
    table = answers[by].drop_duplicates().assign(order=lambda rows: pd.factorize(rows["stage"])[0])
    for column, digits in {"correlation": 4, "pointing": 2}.items():
        means = group_means(answers.dropna(subset=column), by, column)
        table = table.merge(means.round(digits), how="left", on=by)
    counts = answers.groupby(by, sort=False).agg(phrases=("phrase_id", "nunique"), seeds=("seed", "nunique"))
    return table.merge(counts, on=by)
