"""Where a system fails: what it points at instead, and examples that chance has picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from amc_lib.evaluate import Pointing
from amc_lib.regions import Box, Region
from amc_study.explain.difficulty import neighbours
from amc_study.explain.faithfulness import one_an_image
from amc_study.rival.region_answers import RegionAnswers
from amc_study.statistics import accuracy_interval
from amc_study.tiers import Split

CLOSE = 0.05  # share of the picture's longer side; on drawn scenes a quarter of a thing's width
OUTCOMES = ("right", "another thing", "close by", "elsewhere")


def outcomes(answers: Pointing | RegionAnswers, bank: Split) -> np.ndarray:
    """What each phrase's point is on, text [P] out of OUTCOMES.

    Right: a hit. Another thing: inside a box that other phrases of the picture mean. Close by: at most CLOSE beside
    one of the phrase's own boxes. Elsewhere: on what no phrase names.
    """
    things, found = neighbours(answers.regions), []
    for point, region, hit in zip(answers.points, answers.regions, answers.hits, strict=True):
        others = [box for box in things[region.image_id] if box not in region.boxes]
        if hit:
            found.append("right")
        elif any(distance(point, box) == 0 for box in others):
            found.append("another thing")
        else:
            away = min(distance(point, box) for box in region.boxes)
            found.append("close by" if away <= CLOSE * max(bank.size(region)) else "elsewhere")
    return np.array(found)


def distance(point: Sequence[float], box: Box) -> float:
    """Pixels from a point (x, y) to a box (xyxy); 0 inside."""
    (x, y), (x1, y1, x2, y2) = point, box
    return float(np.hypot(max(x1 - x, 0, x - x2), max(y1 - y, 0, y - y2)))


def outcome_table(
    answers: Mapping[str, Sequence[Mapping[str, Pointing | RegionAnswers]]], banks: Mapping[str, Split]
) -> pd.DataFrame:
    """How often points are on what, in percent with intervals over images; `answers[system][seed][split]`."""
    rows = []
    for system, of_seed in answers.items():
        for split, bank in banks.items():
            found = np.array([outcomes(of_split[split], bank) for of_split in of_seed])  # [S, P]
            ids = [region.image_id for region in bank.all_regions()]
            for outcome in OUTCOMES:
                interval = accuracy_interval(found == outcome, ids)
                row = {"system": system, "split": bank.title, "point_on": outcome, "share": round(interval.value, 2)}
                row |= {"ci_low": round(interval.low, 2), "ci_high": round(interval.high, 2)}
                rows.append(row | {"phrases": len(ids), "seeds": len(found)})
    return pd.DataFrame(rows)


def random_misses(answers: Pointing | RegionAnswers, count: int, seed: int = 0) -> list[Region]:
    """`count` phrases whose points miss, every miss as likely as every other, the later ones of a picture left out."""
    return one_an_image([answers.regions[p] for p in np.flatnonzero(~answers.hits)], count, seed)
