"""What annotation tools write, as rows of the table that `own_table` reads: image, phrase, x1, y1, x2, y2 (pixels).

`annotation_files`, `label_studio` and `annotation_folders` say what is read. The label is the phrase, unless the
annotation has a field, attribute or control called "phrase"; where `phrase` names another one, each annotation must
have it. Folders named train, val (or valid) and test become the column `split` of VOC's and YOLO's tables.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.datasets import label_studio
from amc_lib.datasets.annotation_files import Annotations, Drawn, tool_of
from amc_lib.datasets.annotation_folders import files, label_files, voc, yolo
from amc_lib.datasets.annotation_tables import read_csv_file
from amc_lib.datasets.csv_table import COLUMNS
from amc_lib.datasets.image_files import ENDINGS, ImageFile
from amc_lib.datasets.records import box_xyxy, naming, read_json, scale, scaled, visible, words_of
from amc_lib.datasets.units import UNITS, doubt, evident_unit, likely_unit
from amc_lib.regions import Box

PLAIN_FOLDERS = ("images", "jpegimages", "labels", "annotations", "", ".", "..")  # tell no picture from another
OVERRUN = 1, 0.005  # pixels, share of the side: by the larger of both a box may lie outside, and is clipped


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
    the same shape. There is a column `unit` where the source says units and pixels look like another one. ValueError
    for a source of no known kind, without an annotation that can be used, or with boxes evidently not in pixels.
    """
    pictures, skipped, clipped = _Pictures(images), [], 0
    sizes, unsaid = {}, []  # of pictures by name; boxes whose unit is not said, and the sizes that they were drawn in
    rows: dict[tuple[str, str, Box], tuple] = {}  # by image, cleaned phrase and box: phrase, split, where it stands
    for where, read in _annotations(Path(source).expanduser(), phrase):
        try:
            with naming(where):
                drawn = read()
                path = pictures.find(drawn.images)
                name = path.relative_to(images).as_posix()
                sizes[name] = pictures.size(path)
                if not drawn.unit:
                    unsaid.append((drawn.box, drawn.size or sizes[name]))
                box, cut = _fitted(drawn, sizes[name])
                new = {(name, words_of(text), box): (text, drawn.split, where) for text in _texts(drawn.words)}
                if new.keys() <= rows.keys():
                    raise ValueError(f"repeats {rows[next(iter(new))][2].rpartition(', ')[2]}")
                rows |= {key: row for key, row in new.items() if key not in rows}
                clipped += cut
        except ValueError as error:
            skipped.append(str(error))
    if any(box[2] > size[0] or box[3] > size[1] for box, size in unsaid) and (unit := evident_unit(unsaid)):
        raise ValueError(f"{source}: its boxes {doubt(unit)}")
    if not rows:
        others = f" (and the other {len(skipped) - 1} cannot be used either)" if skipped[1:] else ""
        raise ValueError(f"{skipped[0]}{others}" if skipped else f"{source}: holds no annotation")
    cells = [(image, text, *box, split) for (image, _, box), (text, split, _) in rows.items()]
    table = pd.DataFrame(cells, columns=[*COLUMNS, "split"])
    table = table if table["split"].any() else table.drop(columns="split")
    if not unsaid and likely_unit([(box, sizes[image]) for image, _, box in rows]):
        table["unit"] = "pixel"
    return table, skipped, clipped


def _annotations(source: Path, phrase: str | None) -> Annotations:
    """What a file or folder holds. ValueError if it is of no known kind."""
    kind, folder = source.suffix.lower(), source if source.is_dir() else source.parent
    if source.is_dir() and (paths := files(source, ".xml")):
        return voc(source, paths, phrase)
    if (source.is_dir() or kind in (".yaml", ".yml")) and (paths := label_files(folder)):
        if phrase:
            raise ValueError(f"{source}: YOLO's labels have no fields, so none is called {phrase}")
        return yolo(source, folder, paths)
    if source.is_file() and kind in (".csv", ".tsv", ".json"):
        if kind != ".json":
            return read_csv_file(source, phrase)
        content = read_json(source, dict | list)
        return (label_studio.tasks if isinstance(content, list) else tool_of)(source, content, phrase)
    kinds = "COCO, VIA, Label Studio, CSV, a folder of VOC's XML, or YOLO's with labels/"
    raise ValueError(f"{source}: is none of {kinds}" if source.exists() else f"{source}: no such file or folder")


def _texts(words: Any) -> list[str]:
    """One or several phrases, also as checkboxes by name. ValueError without any."""
    if isinstance(words, Mapping):
        words = [name for name, chosen in words.items() if chosen]
    words = [words] if isinstance(words, str) else words if isinstance(words, list) else []
    texts = [text.strip() for text in words if isinstance(text, str) and text.strip()]
    if not texts:
        raise ValueError("it has no label")
    return texts


def _fitted(drawn: Drawn, size: tuple[int, int]) -> tuple[Box, bool]:
    """A box in a picture of `size` (width, height), in its pixels, and whether it had to be clipped to it by OVERRUN.

    ValueError for a box that lies further outside, has no area or is smaller than a pixel.
    """
    factors = scale(drawn.size or size, size)
    if whole := UNITS[drawn.unit or "pixel"]:
        factors = size[0] / whole, size[1] / whole
    box = scaled(drawn.box, factors)
    box = box_xyxy(*(round(edge, 6) for edge in box), size=size)
    x1, y1, x2, y2 = inside = tuple(min(max(edge, 0.0), side) for edge, side in zip(box, size * 2, strict=True))
    over = [abs(edge - kept) for edge, kept in zip(box, inside, strict=True)]
    if any(part > max(OVERRUN[0], OVERRUN[1] * side) for part, side in zip(over, size * 2, strict=True)):
        edges = ", ".join(f"{edge:g}" for edge in box)
        raise ValueError(f"the box ({edges}) lies partly outside the image of {size[0]} x {size[1]}")
    if x2 - x1 < 1 and y2 - y1 < 1:
        raise ValueError("the box is smaller than a pixel: is it given as shares of the sides?")
    return inside, any(over)


class _Pictures:
    """The pictures below a folder, by what annotations call them, in capitals or not. ValueError without the folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of pictures")
        self.folder = folder
        self.size = cache(lambda path: ImageFile(path).size()[::-1])  # (width, height) of a path by the file's header
        self._paths: dict[str, list[Path]] = defaultdict(list)  # by name, with and without the ending of a picture
        for path in visible(sorted(path for path in folder.rglob("*") if path.is_file())):
            name = path.name.lower()
            for known in {name, path.stem.lower() if path.suffix.lower() in ENDINGS else name}:
                self._paths[known].append(path)

    def find(self, names: Sequence[str]) -> Path:
        """The picture of the first of the names that fits one. ValueError if none does, or if it fits several.

        A name fits whose folders, without PLAIN_FOLDERS, are the last ones of the picture's path; an address or an
        absolute path, as of the machine where the boxes were drawn, fits also if it ends in the picture's path below
        the folder. The best fit counts.
        """
        for name in names:
            *folders, last = _parts(name)
            fits = defaultdict(list)  # by how well: the very path, its folders that count, or the last of them
            for path in self._paths.get(last, ()):
                below = path.relative_to(self.folder).as_posix()
                inside, around = (_parts(f"{place}")[:-1] for place in (below, path.absolute()))
                if inside == folders:
                    fits[0 if below == name else 1].append(path)
                elif _ends(around, folders):
                    fits[2].append(path)
                elif re.match(r"(\w+:)?[/\\]", name) and _ends(folders, inside):
                    fits[3 + len(folders) - len(inside)].append(path)
            found = fits[min(fits, default=0)]
            if len(found) > 1:
                raise ValueError(f"{name} may be {found[0]} or {found[1]}: name the folder of the right one")
            if found:
                return found[0]
        raise ValueError(f"there is no picture {names[0]} below {self.folder}")


def _parts(name: str) -> list[str]:
    """The folders of a path that count, and its last name, in lower case."""
    *folders, last = re.split(r"[/\\]", name.lower())
    return [*(folder for folder in folders if folder not in PLAIN_FOLDERS), last]


def _ends(folders: list[str], last: list[str]) -> bool:
    return folders[max(0, len(folders) - len(last)) :] == last
