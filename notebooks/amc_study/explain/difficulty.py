"""Where pointing is hard: accuracy by the size of what a phrase means, by how full the scene is, by what overlaps it.

What stands in a scene is read from the boxes of all phrases of its picture, so drawn scenes and photographs are
measured alike; what no phrase names is not counted. Parts and groups are left out: they are hard in ways of their own.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Box, Region
from amc_study.table import accuracy
from amc_study.tiers import Split

QUARTERS = (0.25, 0.5, 0.75)
SOME_OVERLAP = 0.2  # share of the boxes that others overlap; what is below is called little


def difficulty_table(answers: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Accuracy of each system in groups of the phrases that mean one thing; `answers`: the tidy table of one split.

    Columns: by (size, things, overlap), group, system, accuracy, ci_low, ci_high (percent), phrases, seeds. Groups of
    size and things are quarters of the phrases (as near as whole numbers allow), from small to large.
    """
    groups = phrase_groups(split)
    joined = answers.merge(groups, left_on="phrase_id", right_index=True)
    parts = [joined.assign(by=name, group=joined[name]).sort_values("group", kind="stable") for name in groups]
    return accuracy(pd.concat(parts, ignore_index=True), by=["by", "group", "system"]).round(2)


def phrase_groups(split: Split) -> pd.DataFrame:
    """The group of each phrase that means one thing, by phrase id: columns size, things, overlap (ordered)."""
    regions = split.all_regions()
    things = neighbours(regions)
    single = [region for region in regions if region.kind == "object"]
    size = [area_share(region, split.size(region)) for region in single]
    count = [len(things[region.image_id]) for region in single]
    covered = [overlap(region.boxes, things[region.image_id]) for region in single]
    labels = ["none", f"up to {100 * SOME_OVERLAP:.0f} %", "more"]
    groups = {
        "size": _quarters(size, lambda low, high: f"{100 * low:.1f}–{100 * high:.1f} %"),
        "things": _quarters(count, lambda low, high: f"{low}" if low == high else f"{low}–{high}"),
        "overlap": pd.cut(covered, [-np.inf, 0, SOME_OVERLAP, np.inf], labels=labels),
    }
    return pd.DataFrame(groups, index=[region.id for region in single])


def _quarters(values: Sequence[float], label: Callable[[float, float], str]) -> pd.Categorical:
    """Values cut at their quartiles (a cut belongs to the lower group), labelled by the ends of each group."""
    values = pd.Series(values)
    groups = pd.cut(values, [-np.inf, *np.unique(values.quantile(QUARTERS)), np.inf]).cat.remove_unused_categories()
    ends = values.groupby(groups, observed=True).agg(["min", "max"])
    return groups.cat.rename_categories([label(low, high) for low, high in ends.itertuples(index=False)]).array


def neighbours(regions: Sequence[Region]) -> dict[str, list[Box]]:
    """image id -> the different boxes of things that its phrases mean, parts of things left out."""
    boxes: dict[str, dict[Box, None]] = defaultdict(dict)
    for region in regions:
        boxes[region.image_id].update(dict.fromkeys(() if region.kind == "part" else region.boxes))
    return {image_id: list(different) for image_id, different in boxes.items()}


def union_area(boxes: Sequence[Box]) -> float:
    """Area of the union of boxes (xyxy), in square pixels."""
    xs = sorted({x for x1, _, x2, _ in boxes for x in (x1, x2)})
    ys = sorted({y for _, y1, _, y2 in boxes for y in (y1, y2)})
    return sum(
        (right - left) * (bottom - top)
        for left, right in itertools.pairwise(xs)
        for top, bottom in itertools.pairwise(ys)
        if any(x1 <= left and right <= x2 and y1 <= top and bottom <= y2 for x1, y1, x2, y2 in boxes)
    )


def area_share(region: Region, size: tuple[int, int]) -> float:
    """Share of a picture of `size` (height, width) that the region's boxes cover."""
    return union_area(region.boxes) / (size[0] * size[1])


def overlap(boxes: Sequence[Box], things: Sequence[Box]) -> float:
    """Share of the union of `boxes` that lies inside boxes of other things."""
    others = [thing for thing in things if thing not in boxes]
    shared = [(*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:])) for a in boxes for b in others]
    return union_area([(x1, y1, x2, y2) for x1, y1, x2, y2 in shared if x1 < x2 and y1 < y2]) / union_area(boxes)
