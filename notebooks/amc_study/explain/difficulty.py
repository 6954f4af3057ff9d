"""Where pointing is hard: accuracy by the size of what a phrase means, by how full the scene is, by what overlaps it.

What stands in a scene is read from the boxes of all phrases of its picture, so drawn scenes and photographs are
measured alike; what no phrase names is not counted. Parts and groups are left out: they are hard in ways of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Box, Region
from amc_study.comparison import union_area
from amc_study.table import accuracy
from amc_study.tiers import Split

QUARTERS = (0.25, 0.5, 0.75)
SOME_OVERLAP = 0.2  # share of the boxes that others overlap; what is below is called little


def difficulty_table(answers: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Accuracy of each system in groups of the phrases that mean one thing; `answers`: the tidy table of one split.

    Columns: by (size, things, overlap), group, system, accuracy, ci_low, ci_high (percent), phrases, seeds. Groups of
    size and things are quarters of the phrases (as near as whole numbers allow), from small to large.
    """
    groups, tables = phrase_groups(split), []
    for variable in groups:
        group = answers["phrase_id"].map(groups[variable].astype(object))
        for label in groups[variable].cat.remove_unused_categories().cat.categories:
            table = accuracy(answers[group == label], by=["system"])
            tables.append(table.assign(by=variable, group=label))
    table = pd.concat(tables, ignore_index=True)
    return table[["by", "group", "system", "accuracy", "ci_low", "ci_high", "phrases", "seeds"]].round(2)


def phrase_groups(split: Split) -> pd.DataFrame:
    """The group of each phrase that means one thing, by phrase id: columns size, things, overlap (ordered)."""
    regions = split.all_regions()
    things = neighbours(regions)
    single = [region for region in regions if region.kind == "object"]
    values = pd.DataFrame(
        {
            "size": [area_share(region, split.size(region)) for region in single],
            "things": [len(things[region.image_id]) for region in single],
            "overlap": [overlap(region.boxes, things[region.image_id]) for region in single],
        },
        index=[region.id for region in single],
    )
    little = f"up to {100 * SOME_OVERLAP:.0f} %"
    return pd.DataFrame(
        {
            "size": _quarters(values["size"], lambda low, high: f"{100 * low:.1f}–{100 * high:.1f} %"),
            "things": _quarters(values["things"], lambda low, high: f"{low}" if low == high else f"{low}–{high}"),
            "overlap": pd.cut(values["overlap"], [-np.inf, 0, SOME_OVERLAP, np.inf], labels=["none", little, "more"]),
        }
    )


def _quarters(values: pd.Series, label: Callable[[float, float], str]) -> pd.Series:
    """Values cut at their quartiles (a cut belongs to the lower group), labelled by the ends of each group."""
    edges = [-np.inf, *np.unique(values.quantile(QUARTERS)), np.inf]
    groups = pd.cut(values, edges).cat.remove_unused_categories()
    ends = values.groupby(groups, observed=True).agg(["min", "max"])
    return groups.cat.rename_categories([label(low, high) for low, high in ends.itertuples(index=False)])


def neighbours(regions: Sequence[Region]) -> dict[str, list[Box]]:
    """image id -> the different boxes of things that its phrases mean, parts of things left out."""
    boxes: dict[str, dict[Box, None]] = defaultdict(dict)
    for region in regions:
        boxes[region.image_id].update(dict.fromkeys(() if region.kind == "part" else region.boxes))
    return {image_id: list(different) for image_id, different in boxes.items()}


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
