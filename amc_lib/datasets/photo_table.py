"""Millions of phrases with boxes in few arrays: what finetuning on photographs reads, kept on disk and shared.

Visual Genome's phrases as Python objects would cost several gigabytes in each process that reads images. Here they
are read once, written as plain arrays, and mapped into memory by all processes alike.
"""

from __future__ import annotations

import json
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from amc_lib.data import Phrase
from amc_lib.files import write_array, write_json
from amc_lib.regions import Region
from amc_lib.wording import reason

KINDS = {
    "row_image": np.int32,
    "row_end": np.int64,
    "text_end": np.int64,
    "box_end": np.int64,
    "text": np.uint8,
    "boxes": np.float32,
}
ARRAYS = tuple(KINDS)
DAMAGED = (  # what numpy and json raise for damaged files
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class PhotoTable:
    """R rows (records), P phrases, M boxes. The ends of row r's phrases, p's text and p's boxes are cumulative."""

    images: list[str]  # paths, relative to the folder of all images
    row_image: np.ndarray  # int32 [R], index into `images`
    row_end: np.ndarray  # int64 [R]
    text_end: np.ndarray  # int64 [P]
    box_end: np.ndarray  # int64 [P]
    text: np.ndarray  # uint8, UTF-8 of all phrases
    boxes: np.ndarray  # float32 [M, 4], xyxy in pixels of the original image
    about: dict[str, Any]  # what was read and what was left out

    def __len__(self) -> int:
        return len(self.row_image)

    def image(self, row: int) -> str:
        return self.images[self.row_image[row]]

    def phrases(self, row: int) -> list[Phrase]:
        """The phrases of a row; boxes in pixels."""
        found = []
        for p in range(*_span(self.row_end, row)):
            text = bytes(self.text[slice(*_span(self.text_end, p))]).decode()
            boxes = self.boxes[slice(*_span(self.box_end, p))].tolist()
            found.append(Phrase(text, tuple(map(tuple, boxes))))
        return found


def build(regions: Sequence[Region], root: Path, about: dict[str, Any]) -> PhotoTable:
    """A table of regions. Neighbours whose ids agree up to the last "-" are phrases of one row (one record)."""
    images: dict[str, int] = {}
    row_image, row_end, text_end, box_end, boxes = [], [], [], [], []
    text = bytearray()
    for _, of_row in groupby(regions, key=lambda region: region.id.rpartition("-")[0]):
        for region in of_row:
            text += region.phrase.encode()
            text_end.append(len(text))
            boxes += region.boxes
            box_end.append(len(boxes))
        row_end.append(len(text_end))
        row_image.append(images.setdefault(region.image.path.relative_to(root).as_posix(), len(images)))
    return PhotoTable(
        list(images),
        np.array(row_image, np.int32),
        np.array(row_end, np.int64),
        np.array(text_end, np.int64),
        np.array(box_end, np.int64),
        np.frombuffer(bytes(text), np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        about,
    )


def open_table(folder: Path, make: Callable[[], PhotoTable]) -> PhotoTable:
    """The table kept in `folder`; made and written first where there is none. ValueError for a damaged one."""
    description = folder / "table.json"
    if not description.is_file():
        table = make()
        for name in ARRAYS:
            write_array(folder / f"{name}.npy", getattr(table, name))
        write_json(description, {"images": table.images, "about": table.about})
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        table = PhotoTable(content["images"], about=content["about"], **arrays)
        _check(table)
    except DAMAGED as error:
        raise ValueError(f"{folder}: is damaged ({reason(error)}); delete it, and it is made again") from error
    return table


def _check(table: PhotoTable) -> None:
    """Raise ValueError where the arrays cannot be those of one table."""
    for name, kind in KINDS.items():
        array = getattr(table, name)
        if array.dtype != kind or array.ndim != (2 if name == "boxes" else 1):
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
    if table.boxes.shape[1] != 4 or not np.isfinite(table.boxes).all():
        raise ValueError("boxes are not four finite numbers each")
    for ends, things in (("row_end", "text_end"), ("text_end", "text"), ("box_end", "boxes")):
        counts, length = np.diff(getattr(table, ends), prepend=0), len(getattr(table, things))
        if (counts < 0).any() or counts.sum() != length:
            raise ValueError(f"{ends} does not lead to the end of {things}")
    if len(table.row_image) != len(table.row_end) or len(table.text_end) != len(table.box_end):
        raise ValueError("its arrays are of different lengths")
    images = table.images
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise ValueError("its images are no list of names")
    if any(name.startswith("/") or ".." in name.split("/") for name in images):
        raise ValueError("an image lies outside its folder")
    if len(table.row_image) and not 0 <= table.row_image.min() <= table.row_image.max() < len(images):
        raise ValueError("a row is of an image that is not there")
    bytes(table.text).decode()


def _span(ends: np.ndarray, index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])
