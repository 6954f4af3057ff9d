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
    things = neighbours(split.all_regions())

    def outcome(row: pd.Series) -> str:
        region = regions[row.phrase_id]
        if row.hit:
            return "right"
        if any(distance((row.x, row.y), box) == 0 for box in things[row.image_id] if box not in region.boxes):
            return "another thing"
        nearest = min(distance((row.x, row.y), box) for box in region.boxes)
        return "close by" if nearest <= CLOSE * max(split.size(region)) else "elsewhere"

    return [outcome(row) for row in answers.itertuples()]


def distance(point: Sequence[float], box: Box) -> float:
    """Pixels from a point (x, y) to a box (xyxy); 0 inside."""
    (x, y), (x1, y1, x2, y2) = point, box
    return float(np.hypot(max(x1 - x, 0, x - x2), max(y1 - y, 0, y - y2)))


def outcome_table(answers: pd.DataFrame, split: Split) -> pd.DataFrame:
    """How often points are on what, in percent with intervals over images and seeds; `answers`: rows of one split."""
    point_on = np.array(outcomes(answers, split))
    parts = [answers.assign(hit=point_on == outcome, point_on=outcome) for outcome in OUTCOMES]
    table = accuracy(pd.concat(parts, ignore_index=True), by=["system", "split", "point_on"])
    return table.rename(columns={"accuracy": "share"}).round(2)


def random_misses(answers: pd.DataFrame, split: Split, count: int, seed: int = 0) -> list[Region]:
    """`count` phrases, one an image, that one system and seed (the rows of `answers`) misses, each as likely."""
    missed = set(answers.loc[answers["hit"] == 0, "phrase_id"])
    return one_an_image([region for region in split.all_regions() if region.id in missed], count, seed)
