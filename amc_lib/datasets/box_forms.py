"""How boxes of a data set, taken together, betray that they are not x, y, width, height, or of other pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection

from amc_lib.datasets.records import box_from_size
from amc_lib.regions import Box

Form = Callable[[float, float, float, float], Box]
ROOM = 1, 0.005  # pixels, share of the side: by the larger of both a box that was drawn by hand may overrun its picture
MOST = 0.95  # of the boxes, which must fit in a form
OUTSIDE = 0.1  # of the boxes beyond their pictures, from which on it is not for want of care
SIZES = "x, y, width, height"


def around(x: float, y: float, width: float, height: float) -> Box:
    """The box xyxy around a centre; errors as `box_xyxy`."""
    return box_from_size(x - width / 2, y - height / 2, width, height)


def as_size(box: Box) -> Box:
    """x, y, width, height of a box xyxy."""
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


OTHERS: dict[str, Form] = {"x1, y1, x2, y2": lambda *edges: edges, "x_center, y_center, width, height": around}


def require_sizes(boxes: Collection[tuple[Box, tuple[float, float]]]) -> None:
    """ValueError where boxes that are read as x, y, width, height evidently are corners, or given by their centre.

    boxes: (x, y, width, height), each with the (width, height) of its picture, in pixels of that. A form is evident in
    which MOST of them fit their pictures, and more do so in it alone than as SIZES alone.
    """
    as_sizes = [_fits(box_from_size, *one) for one in boxes]
    evident = []
    for name, form in OTHERS.items():
        fits = [_fits(form, *one) for one in boxes]
        if sum(fits) >= MOST * len(boxes) and sum(fits) > sum(as_sizes):
            evident.append(name)
    if evident:
        fit = f"overrun their pictures as {SIZES}, and fit as {' or as '.join(evident)}"
        count = f"{len(boxes) - sum(as_sizes)} of {len(boxes)} boxes"
        raise ValueError(f"{count} {fit}: name them as what they are, or write them as {SIZES}")


def require_inside(boxes: Collection[tuple[Box, tuple[float, float]]]) -> None:
    """ValueError where boxes xyxy in pixels so often reach beyond their pictures (width, height) that these changed."""
    beyond = sum(any(box[2 + n] > side + room(side) for n, side in enumerate(size)) for box, size in boxes)
    if beyond > max(1, OUTSIDE * len(boxes)):
        resized = "was the size of the pictures changed after annotating?"
        raise ValueError(f"{beyond} of {len(boxes)} boxes reach beyond their pictures: {resized}")


def room(side: float) -> float:
    """By how many pixels a box may overrun a picture's side."""
    return max(ROOM[0], ROOM[1] * side)


def _fits(form: Form, numbers: Box, size: tuple[float, float]) -> bool:
    try:
        x1, y1, x2, y2 = form(*numbers)
    except ValueError:  # it has no area
        return False
    across, down = map(room, size)
    return -across <= x1 < x2 <= size[0] + across and -down <= y1 < y2 <= size[1] + down
