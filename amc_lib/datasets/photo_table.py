"""Millions of phrases with boxes in few arrays: what finetuning on photographs reads, kept on disk and shared.

Visual Genome's phrases as Python objects would cost several gigabytes in each process that reads images. Here they
are read once, written as plain arrays, and mapped into memory by all processes alike.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from amc_lib.data import Phrase
from amc_lib.regions import Region

ARRAYS = {
    "row_image": np.int32,
    "row_end": np.int64,
    "text_end": np.int64,
    "box_end": np.int64,
    "text": np.uint8,
    "boxes": np.float32,
}


@dataclass(frozen=True)
class PhotoTable:
    """R rows (records), P phrases, M boxes. The ends of row r's phrases, p's text and p's boxes are cumulative."""

    images: list[str]  # paths, relative to the folder of all images
    about: dict[str, Any]  # what was read and what was left out
    row_image: np.ndarray  # int32 [R], index into `images`
    row_end: np.ndarray  # int64 [R]
    text_end: np.ndarray  # int64 [P]
    box_end: np.ndarray  # int64 [P]
    text: np.ndarray  # uint8, UTF-8 of all phrases
    boxes: np.ndarray  # float32 [M, 4], xyxy in pixels of the original image

    def __len__(self) -> int:
        return len(self.row_image)

    def image(self, row: int) -> str:
        return self.images[self.row_image[row]]

    def phrases(self, row: int) -> list[Phrase]:
        """The phrases of a row; boxes in pixels."""
        phrases = []
        for p in range(*_span(self.row_end, row)):
            text = bytes(self.text[slice(*_span(self.text_end, p))]).decode()
            boxes = self.boxes[slice(*_span(self.box_end, p))].tolist()
            phrases.append(Phrase(text, tuple(map(tuple, boxes))))
        return phrases


def _span(ends: np.ndarray, index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])


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
    values = row_image, row_end, text_end, box_end, bytearray(text), np.reshape(boxes, (-1, 4))
    arrays = {name: np.asarray(value, kind) for (name, kind), value in zip(ARRAYS.items(), values, strict=True)}
    return PhotoTable(list(images), about, **arrays)


def open_table(folder: Path, make: Callable[[], PhotoTable]) -> PhotoTable:
    """The table kept in `folder`, made and written first where there is none. ValueError for a damaged one."""
    if not folder.is_dir():
        table, unfinished = make(), folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        unfinished.mkdir(parents=True)
        for name in ARRAYS:
            np.save(unfinished / f"{name}.npy", getattr(table, name), allow_pickle=False)
        (unfinished / "table.json").write_text(json.dumps({"images": table.images, "about": table.about}))
        os.rename(unfinished, folder)
    try:
        content = json.loads((folder / "table.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        return PhotoTable(**content, **arrays)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: is damaged ({error!s:.200}); delete it, and it is made again") from error
