"""Where a system fails: what it points at instead, and misses drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Box, Region
from amc_study.explain.difficulty import neighbours
from amc_study.explain.samples import one_an_image
from amc_study.table import accuracy
from amc_study.tiers import Split

CLOSE = 0.05  # share of the picture's longer side; on drawn scenes a quarter of a thing's width
OUTCOMES = ("right", "another thing", "close by", "elsewhere")


def outcomes(answers: pd.DataFrame, split: Split) -> list[str]:
    """What the point of each row of the tidy table is on, out of OUTCOMES.

    Right: a hit. Another thing: inside a box that other phrases of the picture mean. Close by: at most CLOSE beside
    one of the phrase's own boxes. Elsewhere: on what no phrase names.
    """
    regions = {region.id: region for region in split.all_regions()}
    things = neighbours(list(regions.values()))
    return [
        "right" if row.hit else _missed((row.x, row.y), regions[row.phrase_id], things[row.image_id], split)
        for row in answers.itertuples()
    ]


def _missed(point: tuple[float, float], region: Region, things: Sequence[Box], split: Split) -> str:
    if any(distance(point, box) == 0 for box in things if box not in region.boxes):
        return "another thing"
    nearest = min(distance(point, box) for box in region.boxes)
    return "close by" if nearest <= CLOSE * max(split.size(region)) else "elsewhere"


def distance(point: Sequence[float], box: Box) -> float:
    """Pixels from a point (x, y) to a box (xyxy); 0 inside."""
    (x, y), (x1, y1, x2, y2) = point, box
    return float(np.hypot(max(x1 - x, 0, x - x2), max(y1 - y, 0, y - y2)))


def outcome_table(answers: pd.DataFrame, split: Split) -> pd.DataFrame:
    """How often points are on what, in percent with intervals over images; `answers`: the tidy table of one split."""
    answers = answers.assign(point_on=outcomes(answers, split))
    tables = [
        accuracy(part.assign(hit=part["point_on"] == outcome)).assign(point_on=outcome)
        for _, part in answers.groupby("system", sort=False)
        for outcome in OUTCOMES
    ]
    table = pd.concat(tables, ignore_index=True).rename(columns={"accuracy": "share"})
    return table[["system", "split", "point_on", "share", "ci_low", "ci_high", "phrases", "seeds"]].round(2)


def random_misses(answers: pd.DataFrame, split: Split, count: int, seed: int = 0) -> list[Region]:
    """`count` phrases, one an image, that one system and seed (the rows of `answers`) misses, each as likely."""
    missed = set(answers.loc[answers["hit"] == 0, "phrase_id"])
    return one_an_image([region for region in split.all_regions() if region.id in missed], count, seed)
