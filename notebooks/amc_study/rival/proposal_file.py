"""Proposals of any detector as one file, which the detector-based system reads instead of a detector of its own.

An .npz of NumPy with these arrays, or a .parquet with these columns and a row for each of n pictures:

image     text: the picture's file name, with or without folder and ending
size      int [2]: (height, width) that the boxes are in, pixels
boxes     float [K, 4]: xyxy; a picture with fewer than K has boxes without area at the end (in .parquet: fewer rows)
scores    float [K]: kept in the file for others, not read
features  float [K, F]: what the detector makes of each box

`python -m amc_study.rival.propose` makes one with torchvision's Faster R-CNN.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from amc_lib.datasets.units import LOOKS, ROUNDED, evident_unit
from amc_lib.files import ROOT, atomic_folder, content_or
from amc_study.rival.proposals import RegionInputs

CACHE = ROOT / "data" / "cache"
ENDINGS = (".npz", ".parquet")
IMAGES = "images.json"  # in the folder of an unpacked file: names of its pictures, hash and name of the file


class ProposalFile:
    """The proposals of n pictures, memory-mapped. `sha256` is the hash of the file, `folder` what names it again."""

    def __init__(self, folder: Path) -> None:
        names = json.loads((folder / IMAGES).read_text(encoding="utf-8"))
        self.folder, self.sha256, self.title = folder, names["sha256"], names["file"]
        self.rows = {name: row for row, name in enumerate(names["images"])}
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("boxes", "features"))
        boxes, features = map(torch.from_numpy, arrays)
        self.feature_width = features.shape[-1]
        self.inputs = RegionInputs(boxes, features, side=1)  # boxes [n, K, 4] as shares of the picture's sides

    def holds(self, image: str) -> bool:
        """Whether there are proposals of a picture, by its file name."""
        return Path(image).stem in self.rows

    def row(self, image: str) -> int:
        """Of a picture by its file name. ValueError where the file has none of it."""
        if not self.holds(image):
            raise ValueError(f"{self.title}: has no proposals of {image}")
        return self.rows[Path(image).stem]

    def require(self, images: Iterable[str], what: str) -> None:
        """ValueError with one sentence if the file lacks some of the pictures of `what`."""
        images = list(images)
        missing = [image for image in images if not self.holds(image)]
        if missing:
            found = f"no proposals of {len(missing):,} of the {len(images):,} pictures of {what}"
            raise ValueError(f"{self.title}: has {found}, the first is {missing[0]}")


def is_proposal_file(source: str | Path) -> bool:
    """Whether that names a file of proposals, or one that was opened before by its hash or folder."""
    return Path(source).suffix.lower() in ENDINGS or _unpacked(source) is not None


def open_proposal_file(source: str | Path) -> ProposalFile:
    """A file by its path, or one that was opened before by its hash or folder.

    What training reads of it is unpacked into the cache once. ValueError with one sentence for a file that is missing,
    damaged or not as this module says.
    """
    if folder := _unpacked(source):
        return _opened(folder)
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    folder = _folder(sha256)
    if not folder.is_dir():
        with atomic_folder(folder) as unfinished:
            _unpack(path, sha256, unfinished)
    return _opened(folder)


@lru_cache(maxsize=2)
def _opened(folder: Path) -> ProposalFile:
    return ProposalFile(folder)


def _folder(sha256: str) -> Path:
    return CACHE / f"proposal-file-{sha256[:16]}"


def _unpacked(source: str | Path) -> Path | None:
    """The folder of a file that was opened before: `source` itself, or that of a hash."""
    hashed = re.fullmatch(r"[0-9a-f]{64}", str(source))
    folders = (Path(source), *([_folder(hashed[0])] if hashed else []))
    return next((folder for folder in folders if (folder / IMAGES).is_file()), None)


def _unpack(path: Path, sha256: str, folder: Path) -> None:
    """Write features.npy, boxes.npy (shares of the sides) and IMAGES."""
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_npz
    try:
        images, sizes, boxes, features = read(path, folder)
        fault = _misshapen(images, sizes, boxes, features) or _misplaced(images, sizes, boxes, features)
    except Exception as error:  # what a damaged archive raises is not bounded
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error!s:.200}"
        raise ValueError(f"{path}: {content_or(path, reason)}") from error
    if fault:
        raise ValueError(f"{path}: {fault}")
    shares = boxes / np.tile(sizes[:, ::-1], 2)[:, None]  # xyxy over (width, height) twice
    np.save(folder / "boxes.npy", shares.clip(0, 1).astype(np.float32))
    content = {"file": str(path), "sha256": sha256, "images": [Path(image).stem for image in images]}
    (folder / IMAGES).write_text(json.dumps(content), encoding="utf-8")


def _misshapen(images: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, features: np.ndarray) -> str | None:
    """What is wrong with the names of a file's pictures or the shape of an array."""
    n, stems = len(images), pd.Series([Path(image).stem for image in images], dtype=str)
    if not n:
        return "holds no picture"
    shapes = {"size": sizes.shape == (n, 2), "boxes": boxes.ndim == 3 and boxes.shape[::2] == (n, 4) and boxes.size}
    shapes["features"] = features.ndim == 3 and features.shape[:2] == boxes.shape[:2]
    for name, fits in shapes.items():
        if not fits:
            found = {"size": sizes, "boxes": boxes, "features": features}[name].shape
            return f"{name} has the shape {list(found)}, which does not fit {n} pictures"
    return f"holds the picture {stems[stems.duplicated()].iloc[0]} twice" if stems.duplicated().any() else None


def _misplaced(images: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, features: np.ndarray) -> str | None:
    """What is wrong with the numbers of boxes, sizes or features."""
    inside, swapped = (_inside(boxes, corner) for corner in (sizes[:, ::-1], sizes))
    turned = (boxes[..., :2] > boxes[..., 2:]).any((1, 2))
    finite = np.array([np.isfinite(of_picture).all() for of_picture in features])  # one by one: they may be many
    pictures = zip(boxes.tolist(), sizes.tolist(), strict=True)
    sized = [(tuple(box), (width, height)) for rows, (height, width) in pictures for box in rows if any(box)]
    if unit := evident_unit(sized):
        return f"boxes look like {LOOKS[unit]}, and must be pixels of size"
    if turned.any():
        return f"boxes of {images[turned.argmax()]} must be x1, y1, x2, y2, but one has x2 below x1 or y2 below y1"
    if swapped.all() and not inside.all():
        return "size must be height, width, but the boxes fit width, height"
    if not inside.all():
        return f"boxes of {images[inside.argmin()]} lie outside of its size"
    return None if finite.all() else f"features of {images[finite.argmin()]} hold NaN or infinity"


def _inside(boxes: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """bool [n]: whether the boxes xyxy [n, K, 4] of a picture lie between 0 and its corner (x, y) [n, 2]."""
    limits = np.tile(corners, 2)[:, None]
    return ((boxes >= -ROUNDED * limits) & (boxes <= (1 + ROUNDED) * limits) & (limits > 0)).all((1, 2))


def _read_npz(path: Path, folder: Path) -> tuple[np.ndarray, ...]:
    """Image, size, boxes, features; the last, which may be larger than memory, goes to disk and is mapped."""
    with np.load(path, allow_pickle=False) as arrays:
        images, sizes, boxes = arrays["image"].astype(str), arrays["size"], arrays["boxes"]
    unpacked = folder / "features.npy"
    with zipfile.ZipFile(path) as archive, archive.open(unpacked.name) as packed, unpacked.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return images, sizes, boxes, np.load(unpacked, mmap_mode="r")


def _read_parquet(path: Path, folder: Path) -> tuple[np.ndarray, ...]:
    """The same, pictures with fewer boxes filled up."""
    table = pd.read_parquet(path)
    for name in ("boxes", "features"):
        if not all(np.ndim(row) == 1 for cell in table[name] for row in np.atleast_1d(cell)):
            raise ValueError(f"{name} must be a list of lists in a row of each picture, one of each box")
    if (uneven := table["boxes"].map(len) != table["features"].map(len)).any():
        raise ValueError(f"{table['image'][uneven].iloc[0]} has another number of boxes than of features")
    boxes, features = (_filled([list(cell) for cell in table[name]]) for name in ("boxes", "features"))
    np.save(folder / "features.npy", features := features.astype(np.float16))
    return table["image"].to_numpy(str), np.array(table["size"].tolist()), boxes, features


def _filled(pictures: Sequence[list[np.ndarray]]) -> np.ndarray:
    """float32 [n, K, W] of n lists of rows [W], those with fewer than K filled up with zeros."""
    width = max((len(row) for rows in pictures for row in rows), default=0)
    filled = np.zeros((len(pictures), max(map(len, pictures), default=0), width), np.float32)
    for number, rows in enumerate(pictures):
        filled[number, : len(rows)] = np.stack(rows) if rows else 0
    return filled
