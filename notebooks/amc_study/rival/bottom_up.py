"""Precomputed regions in the form of bottom-up attention (Anderson et al., CVPR 2018).

Such a file is a table without header, a line a picture, with tab-separated fields: image_id, image_w, image_h,
num_boxes K, boxes (base64 of float32 [K, 4], xyxy in pixels of the picture) and features (base64 of float32 [K, F]; F
is 2048 in the files that people share). Scores and labels are not in it.
"""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import torch

from amc_study.rival.detector import UNKNOWN, Proposals

FIELDS = 6
MOST_DIGITS = 9  # of a picture's sides and of its number of boxes


class RegionFile:
    """A file of regions, scanned once for where each picture's line begins; its numbers are read when asked for.

    Raises ValueError, with one sentence that names the file and the line, for a line that is malformed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}  # image_id -> number of its line, first byte
        start = 0
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read: {error.strerror}") from error
        with file:
            for number, line in enumerate(file, start=1):
                fields = line.count(b"\t") + 1
                if fields != FIELDS:
                    raise self._malformed(number, f"has {fields} fields, not {FIELDS}")
                self._places[self._name(line[: line.index(b"\t")], number)] = (number, start)
                start += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._places

    def __getitem__(self, image_id: str) -> Proposals:
        """Of one picture; scores are NaN, labels UNKNOWN. KeyError for a picture that the file does not hold."""
        if image_id not in self._places:
            raise KeyError(f"{self.path}: holds no picture {image_id!r}")
        number, start = self._places[image_id]
        with self.path.open("rb") as file:
            file.seek(start)
            name, *fields = file.readline().rstrip(b"\r\n").split(b"\t")
        if self._name(name, number) != image_id or len(fields) != FIELDS - 1:
            raise self._malformed(number, "has changed since the file was opened")
        try:
            return _proposals(*fields)
        except ValueError as error:
            raise self._malformed(number, str(error)) from error

    def _name(self, field: bytes, number: int) -> str:
        try:
            name = field.decode("utf-8").strip()
        except UnicodeDecodeError:
            name = ""
        if not name:
            raise self._malformed(number, "its image_id is no UTF-8 text")
        return name

    def _malformed(self, number: int, what: str) -> ValueError:
        return ValueError(f"{self.path}, line {number}: {what}")


def _proposals(width: bytes, height: bytes, count: bytes, boxes: bytes, features: bytes) -> Proposals:
    columns, rows, number = (
        _positive(*named) for named in ((width, "image_w"), (height, "image_h"), (count, "num_boxes"))
    )
    corners, content = _table(boxes, number, "boxes"), _table(features, number, "features")
    if corners.shape[1] != 4:
        raise ValueError(f"boxes have {corners.shape[1]} numbers each, not 4")
    if not (corners[:, :2] < corners[:, 2:]).all():
        raise ValueError("a box has no area")
    if (corners[:, 2:] <= 0).any() or (corners[:, :2] >= torch.tensor([columns, rows])).any():
        raise ValueError(f"a box lies outside the picture of {columns} x {rows}")
    labels = torch.full((number,), UNKNOWN, dtype=torch.int64)
    return Proposals(corners, torch.full((number,), torch.nan), labels, content, (rows, columns))


def _positive(text: bytes, name: str) -> int:
    if not text.strip().isdigit() or len(text) > MOST_DIGITS or int(text) == 0:
        raise ValueError(f"{name} {text[:20].decode('utf-8', errors='replace')!r} is no positive whole number")
    return int(text)


def _table(text: bytes, rows: int, name: str) -> torch.Tensor:
    """base64 of float32 -> [rows, n]."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{name} are not base64: {error}") from error
    if not data or len(data) % (4 * rows):
        raise ValueError(f"{name} have {len(data)} bytes, which is no float32 table of {rows} rows")
    table = torch.from_numpy(np.frombuffer(data, dtype="<f4").copy()).reshape(rows, -1)
    if not torch.isfinite(table).all():
        raise ValueError(f"{name} hold a number that is not finite")
    return table
