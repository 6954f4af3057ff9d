"""Units and forms of boxes: those that may be said, and how boxes betray another unit or form than they are read in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from amc_lib.datasets.image_files import ImageBytes, ImageFile
from amc_lib.regions import Box, Region

UNITS = {"pixel": None, "percent": 100, "share": 1, "permille": 1000}  # how many are a side of the picture
LOOKS = {
    "percent": "percent of the sides (0 to 100)",
    "share": "shares of the sides (0 to 1)",
    "permille": "thousandths of the sides (0 to 1000)",
}
ROUNDED = 0.01  # by how much of the side a box may lie outside, where it was rounded or drawn by hand
ENDS = 0.9, 1.05  # units of the side, between which the last edge of a table lies, with a few boxes drawn without care
FEW = 0.05  # of the boxes
LONGER = 1.5  # times as many pixels as a side has units: boxes that end below that number seem to be in units
UNLIKELY = 0.005
MOST = 0.95  # of a data set's boxes, by which it is judged: some overrun their pictures by far
OUTSIDE = 0.1  # of the boxes outside of their pictures, from which on they can hardly be in pixels
CORNERS, SIDES = "x1, y1, x2, y2", "x, y, width, height"
FORMS = {  # of a box as four numbers -> its corners
    SIDES: lambda x, y, w, h: (x, y, x + w, y + h),
    CORNERS: lambda *corners: corners,
    "x and y of the middle, width, height": lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
}
Numbers = tuple[float, float, float, float]  # of a box, in any of FORMS
Sized = Collection[tuple[Box, tuple[int, int]]]  # boxes, each with the (width, height) of its picture


def unit_of(cell: str) -> str:
    """The unit that a cell says, also in the plural. ValueError for another one."""
    unit = cell.lower().removesuffix("s")
    if unit not in UNITS:
        raise ValueError(f"the unit {cell!r} is none of {', '.join(UNITS)}")
    return unit


def likely_unit(boxes: Sized) -> str:
    """The unit that boxes, taken together, more likely are in than in pixels; else ""."""
    end = max((max(box) for box, _ in boxes), default=math.inf)
    longer = sum(max(size) > LONGER * UNITS["percent"] for _, size in boxes)
    in_corners = end <= UNITS["percent"] * (1 + ROUNDED) and longer > len(boxes) / 2
    return evident_unit(boxes) or ("percent" if in_corners else "")


def evident_unit(boxes: Sized) -> str:
    """The unit that boxes, taken together, evidently are in, not in pixels; else "".

    They must end where the picture does, in that unit, and be impossible as pixels (many outside of their picture) or
    unlikely: pixels that may end anywhere in much larger pictures would by chance all end so early.
    """
    if are_shares(box for box, _ in boxes):
        return "share"
    end = max((max(box) for box, _ in boxes), default=math.inf)
    outside = sum(max(box[2] / size[0], box[3] / size[1]) > 1 + ROUNDED for box, size in boxes)
    for unit in ("percent", "permille"):
        whole = UNITS[unit]
        beyond = sum(max(box) > whole * (1 + ROUNDED) for box, _ in boxes)
        ends_there = ENDS[0] < end / whole <= ENDS[1] and beyond <= max(1, FEW * len(boxes))
        chance = math.prod(whole / side for _, size in {*boxes} for side in size if side > LONGER * whole)
        if ends_there and (chance < UNLIKELY or outside > OUTSIDE * len(boxes)):
            return unit
    return ""


def are_shares(boxes: Iterable[Box]) -> bool:
    """Whether boxes evidently are shares of the sides."""
    return max(map(max, boxes), default=math.inf) <= 1 + ROUNDED


def require_pixels(regions: Sequence[Region]) -> None:
    """ValueError where the boxes of a data set's regions evidently are shares or percent of the sides."""
    boxes = sorted(((box, region.image) for region in regions for box in region.boxes), key=lambda pair: max(pair[0]))
    most = boxes[: math.ceil(MOST * len(boxes))]
    if not most or max(most[-1][0]) > ENDS[1] * UNITS["percent"]:
        return
    sizes: dict[ImageFile | ImageBytes, tuple[int, int]] = {}  # (width, height) of those that open
    for image in {image for _, image in most}:
        with suppress(ValueError):
            sizes[image] = image.size()[::-1]
    if unit := evident_unit([(box, sizes[image]) for box, image in most if image in sizes]):
        raise ValueError(f"its boxes look like {LOOKS[unit]}, and only pixels are read")


def fitting(numbers: Numbers, size: tuple[float, float]) -> frozenset[str]:
    """Those of FORMS in which a box has an area inside its picture of `size` (width, height), but for rounding."""
    boxes = ((name, form(*numbers)) for name, form in FORMS.items())
    right, bottom = (side + 1 for side in size)
    return frozenset(name for name, (x1, y1, x2, y2) in boxes if -1 <= x1 < x2 <= right and -1 <= y1 < y2 <= bottom)


def require_form(fits: Counter[frozenset[str]], said: str) -> None:
    """ValueError where the boxes of a file evidently have another form than is `said`.

    fits: how many of them are `fitting` in which forms. Evident is a form that fits more boxes that do not fit as is
    said than the other way round, and more than a single box or those that were drawn without care.
    """

    def alone(form: str, other: str) -> int:
        return sum(count for forms, count in fits.items() if form in forms and other not in forms)

    form = max(FORMS, key=lambda name: alone(name, said))
    if (count := alone(form, said)) > max(alone(said, form), OUTSIDE * fits.total(), 1):
        fit = f"do not fit their pictures as {said}, which is read, and fit as {form}"
        raise ValueError(f"{count} of {fits.total()} boxes {fit}")


def doubt(unit: str) -> str:
    """What is said of boxes that are read in pixels and look like another unit."""
    return (
        f"look like {LOOKS[unit]}: add a column unit that says {unit} in every row, or pixel if that is what they are"
    )
