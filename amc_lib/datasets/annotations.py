"""What annotation tools write, as rows of the table that `own_table` reads: image, phrase, x1, y1, x2, y2 (pixels).

`annotation_files`, `annotation_folders`, `annotation_tables` and `label_studio` say what is read. The label is the
phrase, unless the annotation has a field, attribute or control called "phrase"; where `phrase` names another one, each
annotation must have it. Folders named train, val (or valid) and test become the column `split`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.datasets.annotation_files import Drawn
from amc_lib.datasets.annotation_sources import TABLES, annotations
from amc_lib.datasets.box_forms import SIDES, as_size, fitting, require_form, require_inside, room
from amc_lib.datasets.csv_table import COLUMNS
from amc_lib.datasets.pictures import Pictures
from amc_lib.datasets.records import box_xyxy, naming, scale, scaled, words_of
from amc_lib.datasets.units import LOOKS, UNITS, are_shares, doubt, evident_unit, likely_unit, too_small
from amc_lib.regions import Box

Rows = dict[tuple[str, str, Box], tuple[str, str, str]]  # by image, cleaned phrase and box: phrase, split, where


def picture_folder(source: str | Path) -> Path:
    """Where the pictures of a source are expected: `images/` or VOC's `JPEGImages/` in its folder, or that folder.

    If that is called `annotations` or `labels`, the folder around it takes its place.
    """
    source = Path(source).expanduser().absolute()
    folder = source if source.is_dir() else source.parent
    folder = folder.parent if folder.name.lower() in ("annotations", "labels") else folder
    return next((folder / name for name in ("images", "JPEGImages") if (folder / name).is_dir()), folder)


def convert(source: str | Path, images: Path, phrase: str | None = None) -> tuple[pd.DataFrame, list[str], int]:
    """The table of a source, a sentence for each annotation that is left out, and how many boxes were clipped.

    images: the folder of the pictures. Boxes are scaled to a picture of another size than the tool states, if it has
    the same shape. There is a column `unit` where pixels are known to be meant and look like another one. ValueError
    for a source of no known kind, without an annotation that can be used, and where the boxes, taken together,
    evidently are in another form or unit, or of pictures of another size.
    """
    source = Path(source).expanduser()
    pictures, skipped, clipped, boxes = Pictures(images), [], 0, _Boxes()
    sizes: dict[str, tuple[int, int]] = {}  # of pictures by name
    rows: Rows = {}
    for where, read in annotations(source, phrase):
        try:
            with naming(where):
                drawn = read()
                path = pictures.of(drawn)
                name = path.relative_to(images).as_posix()
                sizes[name] = pictures.size(path)
                box, cut = _clipped(boxes.in_pixels(drawn, sizes[name]), sizes[name])
                _add(rows, {(name, words_of(text), box): (text, drawn.split, where) for text in _texts(drawn.words)})
                clipped += cut
        except ValueError as error:
            skipped.append(str(error))
    skipped += _without_split(rows)
    in_table = source.suffix.lower() in TABLES
    try:
        boxes.require_pixels(in_table)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not rows:
        others = f" (and the other {len(skipped) - 1} cannot be used either)" if skipped[1:] else ""
        raise ValueError(f"{skipped[0]}{others}" if skipped else f"{source}: holds no annotation")
    if unit := likely_unit([(box, sizes[image]) for image, _, box in rows]):
        if in_table and boxes.unsaid:
            raise ValueError(f"{source}: its boxes {doubt(unit, boxes.unsaid)}")
        if boxes.unsaid or boxes.stated:
            print(f"{source}: its boxes look like {LOOKS[unit]}, and are read as pixels, which this format has")
    return _table(rows, bool(unit)), skipped, clipped


def _without_split(rows: Rows) -> list[str]:
    """A sentence for each row without a split where others have one; these rows are taken out."""
    lacking = [key for key, (_, split, _) in rows.items() if not split]
    if len(lacking) == len(rows):
        return []
    return [f"{rows.pop(key)[2]}: is of no split (train, val or test), and others are" for key in lacking]


def _add(rows: Rows, new: Rows) -> None:
    """ValueError where all of the new rows are there."""
    if new.keys() <= rows.keys():
        first, second = (some[next(iter(new))][2] for some in (rows, new))
        file, _, place = first.rpartition(", ")
        raise ValueError(f"repeats {place if second.startswith(f'{file}, ') else first}")
    rows |= {key: row for key, row in new.items() if key not in rows}


def _table(rows: Rows, with_unit: bool) -> pd.DataFrame:
    """With a column `split` where one is known, and `unit` if wanted."""
    cells = [(image, text, *box, split) for (image, _, box), (text, split, _) in rows.items()]
    table = pd.DataFrame(cells, columns=[*COLUMNS, "split"])
    table = table if table["split"].any() else table.drop(columns="split")
    return table.assign(unit="pixel") if with_unit else table


class _Boxes:
    """What is collected of a source's boxes, to judge them together; each with the (width, height) of its picture."""

    def __init__(self) -> None:
        self.fits: Counter[frozenset[str]] = Counter()  # forms in which those fit that were given as SIDES
        self.unsaid: list[tuple[Box, tuple[int, int]]] = []  # in pixels, if nothing is said of unit and picture's size
        self.stated: list[tuple[Box, tuple[float, float]]] = []  # of pictures of that size, unit not said, as drawn

    def in_pixels(self, drawn: Drawn, size: tuple[int, int]) -> Box:
        """The box xyxy in the pixels of a picture of `size`. ValueError where that has another shape than was drawn."""
        factors = scale(drawn.size or size, size)
        if whole := UNITS[drawn.unit or "pixel"]:
            factors = size[0] / whole, size[1] / whole
        box = scaled(drawn.box, factors)
        if drawn.by_size:
            self.fits[fitting(as_size(box), size)] += 1
        if not drawn.unit:
            (self.stated if drawn.size else self.unsaid).append((drawn.box, drawn.size or size))
        return box

    def require_pixels(self, in_table: bool) -> None:
        """ValueError for boxes that evidently are in another form or unit, or of pictures of another size.

        in_table: whether no unit means that it is not known; else a format has pixels.
        """
        require_form(self.fits, SIDES)
        drawn = self.unsaid + self.stated
        beyond = any(box[2] > size[0] or box[3] > size[1] for box, size in drawn)
        if (beyond or are_shares(box for box, _ in drawn)) and (unit := evident_unit(drawn)):
            raise ValueError(f"its boxes {doubt(unit, drawn, in_table)}")
        require_inside(self.unsaid)


def _texts(words: Any) -> list[str]:
    """One or several phrases, also as checkboxes by name. ValueError without any."""
    if isinstance(words, Mapping):
        words = [name for name, chosen in words.items() if chosen]
    words = [words] if isinstance(words, str) else words if isinstance(words, list) else []
    texts = [text.strip() for text in words if isinstance(text, str) and text.strip()]
    if not texts:
        raise ValueError("it has no label")
    return texts


def _clipped(box: Box, size: tuple[int, int]) -> tuple[Box, bool]:
    """A box in the pixels of a picture of `size` (width, height), and whether it had to be clipped to it by `room`.

    ValueError for a box that lies further outside, has no area or is smaller than a pixel.
    """
    box = box_xyxy(*(round(edge, 6) for edge in box), size=size)
    inside = tuple(min(max(edge, 0.0), side) for edge, side in zip(box, size * 2, strict=True))
    over = [abs(edge - kept) for edge, kept in zip(box, inside, strict=True)]
    if any(part > room(side) for part, side in zip(over, size * 2, strict=True)):
        edges = ", ".join(f"{edge:g}" for edge in box)
        raise ValueError(f"the box ({edges}) lies partly outside the image of {size[0]} x {size[1]}")
    if sentence := too_small(inside):
        raise ValueError(sentence)
    return inside, any(over)
