"""Tables of deletion and insertion: the curves, and the areas under them, where heatmaps hit and where they miss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Region
from amc_study.explain.faithfulness import CURVES, ORDERS, SHARES, Faithfulness
from amc_study.statistics import mean_interval

Measured = Mapping[str, Mapping[str, Sequence[Faithfulness]]]  # [fill][system][seed]


def curve_table(measured: Measured, regions: Sequence[Region]) -> pd.DataFrame:
    """Mean match probability at each share, with its interval over images.

    Columns: fill, system, curve, order, share, probability, ci_low, ci_high.
    """
    ids = [region.image_id for region in regions]
    rows = []
    for fill, of_system in measured.items():
        for system, of_seed in of_system.items():
            scores = np.stack([one.scores for one in of_seed])  # [S, curve, order, N, share]
            for (c, curve), (o, order), (k, share) in _each(CURVES, ORDERS, SHARES):
                interval = mean_interval(scores[:, c, o, :, k], ids)
                row = {"fill": fill, "system": system, "curve": curve, "order": order, "share": share}
                row |= {"probability": interval.value, "ci_low": interval.low, "ci_high": interval.high}
                rows.append(row)
    return pd.DataFrame(rows).round({"probability": 4, "ci_low": 4, "ci_high": 4})


def area_table(measured: Measured, regions: Sequence[Region]) -> pd.DataFrame:
    """Mean area under each curve and its gain over random order (paired), with intervals over images.

    Columns: fill, system, curve, order, where, area, area_low, area_high, gain, gain_low, gain_high, answers, seeds.
    where: all phrases, those whose heatmap points at the right thing (hit), the others (miss), of each seed's own.
    answers: phrases times seeds. A positive gain is better than random.
    """
    ids = np.array([region.image_id for region in regions])
    rows = []
    for fill, of_system in measured.items():
        for system, of_seed in of_system.items():
            areas, gains = (np.stack([getattr(one, name) for one in of_seed]) for name in ("areas", "gains"))
            hits = np.stack([one.hits for one in of_seed])  # [S, N]
            for where, chosen in {"all": hits | True, "hit": hits, "miss": ~hits}.items():
                names = np.broadcast_to(ids, hits.shape)[chosen]
                for (c, curve), (o, order) in _each(CURVES, ORDERS) if chosen.any() else ():
                    row = {"fill": fill, "system": system, "curve": curve, "order": order, "where": where}
                    for name, values in {"area": areas, "gain": gains}.items():
                        interval = mean_interval(values[:, c, o][chosen], names)
                        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
                    rows.append(row | {"answers": len(names), "seeds": len(of_seed)})
    return pd.DataFrame(rows).round(4)


def _each(*axes: Sequence) -> Iterator[tuple[tuple[int, object], ...]]:
    """Every combination of the axes' entries, each with its number."""
    return itertools.product(*map(enumerate, axes))
