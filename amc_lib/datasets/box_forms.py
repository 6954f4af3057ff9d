"""How the boxes of a data set, taken together, betray another form than is read, or other pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from amc_lib.datasets.records import box_xyxy
from amc_lib.regions import Box

CORNERS, SIDES, MIDDLE = "x1, y1, x2, y2", "x, y, width, height", "x and y of the middle, width, height"
FORMS = {  # of a box as four numbers -> its corners
    SIDES: lambda x, y, width, height: (x, y, x + width, y + height),
    CORNERS: lambda *corners: corners,
    MIDDLE: lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
}
Numbers = tuple[float, float, float, float]  # of a box, in any of FORMS
ROOM = 1, 0.005  # pixels, share of the side: by the larger of both a box that was drawn by hand may overrun its picture
OUTSIDE = 0.1  # of the boxes that do not fit, from which on it is not for want of care
LEAST, ASTRAY = 8, 0.02  # boxes of a file, and the share of them that may not fit, of which MIDDLE can be evident
RESIZED = 2, 0.25  # more boxes than that, and than that share, beyond their pictures: these were made smaller


def around(x: float, y: float, width: float, height: float) -> Box:
    """The box xyxy around a centre; errors as `box_xyxy`."""
    return box_xyxy(*FORMS[MIDDLE](x, y, width, height))


def as_size(box: Box) -> Numbers:
    """x, y, width, height of a box xyxy."""
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def fitting(numbers: Numbers, size: tuple[float, float]) -> frozenset[str]:
    """Those of FORMS in which a box has an area inside its picture of `size` (width, height), but for `room`."""
    boxes = ((name, form(*numbers)) for name, form in FORMS.items())
    (width, across), (height, down) = ((side, room(side)) for side in size)
    return frozenset(
        name
        for name, (x1, y1, x2, y2) in boxes
        if -across <= x1 < x2 <= width + across and -down <= y1 < y2 <= height + down
    )


def require_form(fits: Counter[frozenset[str]], said: str) -> None:
    """ValueError where the boxes of a file evidently have another form than is `said`.

    fits: how many of them are `fitting` in which forms. Evident is a form that fits more boxes that do not fit as is
    said than the other way round, and more than a single box or those that were drawn without care. A box that reaches
    beyond the right or lower edge also fits as MIDDLE, which is therefore evident only where nearly all boxes fit so,
    and several there are: those that start at the left or upper edge do not.
    """

    def alone(form: str, other: str) -> int:
        return sum(count for forms, count in fits.items() if form in forms and other not in forms)

    astray = sum(count for forms, count in fits.items() if MIDDLE not in forms)
    may_be = [name for name in FORMS if name != MIDDLE or (fits.total() >= LEAST and astray <= ASTRAY * fits.total())]
    form = max(may_be, key=lambda name: alone(name, said))
    if (count := alone(form, said)) > max(alone(said, form), OUTSIDE * fits.total(), 1):
        fit = f"do not fit their pictures as {said}, which is read, and fit as {form}"
        raise ValueError(f"{count} of {fits.total()} boxes {fit}")


def require_inside(boxes: Collection[tuple[Box, tuple[float, float]]]) -> None:
    """ValueError where boxes xyxy in pixels so often reach beyond their pictures (width, height) that these changed."""
    beyond = sum(any(box[2 + n] > side + room(side) for n, side in enumerate(size)) for box, size in boxes)
    if beyond > max(RESIZED[0], RESIZED[1] * len(boxes)):
        resized = "was the size of the pictures changed after annotating?"
        raise ValueError(f"{beyond} of {len(boxes)} boxes reach beyond their pictures: {resized}")


def room(side: float) -> float:
    """By how many pixels a box may overrun a picture's side."""
    return max(ROOM[0], ROOM[1] * side)
