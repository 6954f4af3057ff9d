"""Which phrases are asked where asking all would take too long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amc_lib.regions import Region


def one_an_image(regions: Sequence[Region], count: int, seed: int = 0) -> list[Region]:
    """`count` regions of as many images (or one of each, if there are fewer), drawn at random."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Region] = {}
    for p in rng.permutation(len(regions)):
        drawn.setdefault(regions[p].image_id, regions[p])
    return list(drawn.values())[:count]


def first_images(regions: Sequence[Region], count: int) -> list[Region]:
    """All regions of the first `count` images."""
    images = set(list(dict.fromkeys(region.image_id for region in regions))[:count])
    return [region for region in regions if region.image_id in images]
