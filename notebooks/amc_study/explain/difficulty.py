"""Where pointing is hard: accuracy by the size of what a phrase means, by how full the scene is, by what overlaps it.

What stands in a scene is read from the boxes of all phrases of its picture, so drawn scenes and photographs are
measured alike; what no phrase names is not counted. Parts and groups are left out: they are hard in ways of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Box, Region
from amc_study.comparison import union_area
from amc_study.statistics import accuracy_interval
from amc_study.tiers import Split

QUARTERS = (0.25, 0.5, 0.75)
SOME_OVERLAP = 0.2  # share of the boxes that others overlap; what is below is called little


def difficulty_table(hits: Mapping[str, np.ndarray], bank: Split) -> pd.DataFrame:
    """Accuracy of each system's hits ([P] or [S, P] on all phrases of `bank`) in groups of its single things.

    Columns: by (size, things, overlap), group, system, accuracy, ci_low, ci_high (percent), phrases, seeds. Groups of
    size and things are quarters of the phrases (as near as whole numbers allow), from small to large.
    """
    regions = bank.all_regions()
    single = np.array([region.kind == "object" for region in regions])
    chosen = [region for region in regions if region.kind == "object"]
    others = neighbours(regions)
    of_variable = {
        "size": _quarters([area_share(region, bank.size(region)) for region in chosen], _percent_range),
        "things": _quarters([len(others[region.image_id]) for region in chosen], _number_range),
        "overlap": _overlap_groups([overlap(region.boxes, others[region.image_id]) for region in chosen]),
    }
    rows = []
    for variable, of_group in of_variable.items():
        for group, members in of_group.items():
            ids = [region.image_id for region, member in zip(chosen, members, strict=True) if member]
            for system, of_system in hits.items():
                of_system = np.atleast_2d(of_system)[:, single][:, members]  # [S, P] -> [S, those of the group]
                interval = accuracy_interval(of_system, ids)
                row = {"by": variable, "group": group, "system": system, "accuracy": round(interval.value, 2)}
                row |= {"ci_low": round(interval.low, 2), "ci_high": round(interval.high, 2)}
                rows.append(row | {"phrases": len(ids), "seeds": len(of_system)})
    return pd.DataFrame(rows)


def neighbours(regions: Sequence[Region]) -> dict[str, list[Box]]:
    """image id -> the different boxes of things that its phrases mean, parts of things left out."""
    boxes: dict[str, dict[Box, None]] = defaultdict(dict)
    for region in regions:
        boxes[region.image_id].update(dict.fromkeys(() if region.kind == "part" else region.boxes))
    return {image_id: list(of_image) for image_id, of_image in boxes.items()}


def area_share(region: Region, size: tuple[int, int]) -> float:
    """Share of a picture of `size` (height, width) that the region's boxes cover."""
    return union_area(region.boxes) / (size[0] * size[1])


def overlap(boxes: Sequence[Box], things: Sequence[Box]) -> float:
    """Share of the union of `boxes` that lies inside boxes of other things."""
    shared = []
    for x1, y1, x2, y2 in boxes:
        for box in things:
            left, top, right, bottom = max(x1, box[0]), max(y1, box[1]), min(x2, box[2]), min(y2, box[3])
            if box not in boxes and left < right and top < bottom:
                shared.append((left, top, right, bottom))
    return union_area(shared) / union_area(boxes)


def _quarters(values: Sequence[float], name: Callable[[float, float], str]) -> dict[str, np.ndarray]:
    """Label -> bool [P], cut at the quartiles; a group that would be empty is left out."""
    values = np.asarray(values, dtype=float)
    of_value = np.searchsorted(np.unique(np.quantile(values, QUARTERS)), values)  # a cut belongs to the lower group
    groups = [of_value == group for group in np.unique(of_value)]
    return {name(values[members].min(), values[members].max()): members for members in groups}


def _percent_range(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def _number_range(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def _overlap_groups(values: Sequence[float]) -> dict[str, np.ndarray]:
    values = np.asarray(values)
    groups = {
        "none": values == 0,
        f"up to {100 * SOME_OVERLAP:.0f} %": (values > 0) & (values <= SOME_OVERLAP),
        "more": values > SOME_OVERLAP,
    }
    return {label: members for label, members in groups.items() if members.any()}
