"""Millions of phrases with boxes on disk: what finetuning on photographs reads, shared by all processes.

As Python objects, Visual Genome's phrases would cost several gigabytes in each process that reads images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from amc_lib.data import Phrase
from amc_lib.datasets.records import Regions
from amc_lib.files import atomic_folder


@dataclass(frozen=True)
class PhotoTable:
    """R rows: pictures with the phrases of one record."""

    lines: np.ndarray  # uint8, UTF-8: for each row {"image": path below the folder, "phrases": [[text, boxes], ...]}
    ends: np.ndarray  # int64 [R], of the rows' lines
    about: dict[str, Any]  # what was read and what was left out

    def __len__(self) -> int:
        return len(self.ends)

    def _row(self, row: int) -> dict[str, Any]:
        return json.loads(bytes(self.lines[self.ends[row - 1] if row else 0 : self.ends[row]]))

    def image(self, row: int) -> str:
        return self._row(row)["image"]

    def phrases(self, row: int) -> list[Phrase]:
        """The phrases of a row; boxes are xyxy in pixels of the original image."""
        return [Phrase(text, tuple(map(tuple, boxes))) for text, boxes in self._row(row)["phrases"]]


def build(regions: Regions, root: Path) -> PhotoTable:
    """A table of regions. Neighbours whose ids agree up to the last "-" are phrases of one row (one record)."""
    lines, ends = bytearray(), []
    for _, members in groupby(regions, key=lambda region: region.id.rpartition("-")[0]):
        members = list(members)
        image = members[0].image.path.relative_to(root).as_posix()
        phrases = [(region.phrase, region.boxes if region.annotated else ()) for region in members]
        lines += json.dumps({"image": image, "phrases": phrases}, ensure_ascii=False).encode() + b"\n"
        ends.append(len(lines))
    return PhotoTable(np.frombuffer(bytes(lines), np.uint8), np.array(ends, np.int64), regions.about)


def open_table(folder: Path, make: Callable[[], PhotoTable]) -> PhotoTable:
    """The table kept in `folder`, made and written first where there is none. ValueError for a damaged one."""
    if not folder.is_dir():
        table = make()
        with atomic_folder(folder) as unfinished:
            np.save(unfinished / "lines.npy", table.lines)
            np.save(unfinished / "ends.npy", table.ends)
            (unfinished / "about.json").write_text(json.dumps(table.about))
    try:
        about = json.loads((folder / "about.json").read_text())
        return PhotoTable(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("lines", "ends")), about)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: is damaged ({error!s:.200}); delete it, and it is made again") from error
