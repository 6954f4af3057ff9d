"""What boxes are measured in, seen from all boxes of a file together: pixels, or evidently something else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from amc_lib.datasets.image_files import ImageBytes, ImageFile
from amc_lib.regions import Box, Region

LOOKS = {"share": "shares of the sides (0 to 1)", "percent": "percent of the sides (0 to 100)"}
ROUNDED = 0.01  # by how much of the side a box may lie outside, where it was rounded or drawn by hand
PERCENT_SIDE = 150  # pixels: boxes that all end below 100, most of them in longer pictures, look like percent
FEW = 10  # different boxes: fewer may well be pixels that all end below 100
MOST = 0.95  # of a data set's boxes; some overrun their pictures by far


def other_unit(largest: float, sides: Iterable[float]) -> str | None:
    """Which of LOOKS boxes are that should be pixels, None where they may be.

    largest: of their edges; sides: the longer ones of their pictures, in pixels, asked for only where they decide.
    """
    if largest <= 1 + ROUNDED:
        return "share"
    if largest > 100 * (1 + ROUNDED):
        return None
    longer = [side > PERCENT_SIDE for side in sides]
    return "percent" if sum(longer) > len(longer) / 2 else None


def require_pixels(regions: Sequence[Region]) -> None:
    """ValueError where the boxes of a file's regions evidently are no pixels."""
    images = {region.image_id: region.image for region in regions}.values()
    require_pixel_boxes([box for region in regions for box in region.boxes], images)


def require_pixel_boxes(boxes: Sequence[Box], images: Iterable[ImageFile | ImageBytes] = ()) -> None:
    """ValueError where MOST boxes in these pictures evidently are no pixels; without pictures shares alone can be."""
    ends = sorted(map(max, boxes))
    unit = other_unit(ends[math.ceil(MOST * len(ends)) - 1] if ends else math.inf, _longer_sides(images))
    if unit == "share" or (unit and len({*boxes}) >= FEW):
        raise ValueError(f"its boxes look like {LOOKS[unit]}, and only pixels are read")


def _longer_sides(images: Iterable[ImageFile | ImageBytes]) -> Iterator[int]:
    """Of those that open."""
    for image in images:
        with suppress(ValueError):
            yield max(image.size())
