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

from amc_lib.files import ROOT, atomic_folder
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
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error!s:.200}"
        raise ValueError(f"{path}: {reason}") from error
    n, stems = len(images), [Path(str(image)).stem for image in images]
    shapes = {"size": sizes.shape == (n, 2), "boxes": boxes.ndim == 3 and boxes.shape[::2] == (n, 4)}
    shapes["features"] = features.ndim == 3 and features.shape[:2] == boxes.shape[:2]
    for name, fits in shapes.items():
        if not fits:
            found = {"size": sizes, "boxes": boxes, "features": features}[name].shape
            raise ValueError(f"{path}: {name} has the shape {list(found)}, which does not fit {n} pictures")
    twice = pd.Series(stems)[pd.Series(stems).duplicated()]
    if len(twice):
        raise ValueError(f"{path}: holds the picture {twice.iloc[0]} twice")
    shares = (boxes / np.tile(sizes[:, ::-1], 2)[:, None]).astype(np.float32)  # xyxy over (width, height) twice
    wrong = ~np.isfinite(shares).all((1, 2)) | (shares.min((1, 2)) < -0.01) | (shares.max((1, 2)) > 1.01)
    if wrong.any():
        raise ValueError(f"{path}: boxes of {images[wrong.argmax()]} lie outside of its size")
    np.save(folder / "boxes.npy", shares.clip(0, 1))
    content = {"file": str(path), "sha256": sha256, "images": stems}
    (folder / IMAGES).write_text(json.dumps(content), encoding="utf-8")


def _read_npz(path: Path, folder: Path) -> tuple[np.ndarray, ...]:
    """Image, size, boxes, features; the last, which may be larger than memory, goes to disk and is mapped."""
    with np.load(path, allow_pickle=False) as arrays:
        images, sizes, boxes = (arrays[name] for name in ("image", "size", "boxes"))
    unpacked = folder / "features.npy"
    with zipfile.ZipFile(path) as archive, archive.open(unpacked.name) as packed, unpacked.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return images, sizes, boxes, np.load(unpacked, mmap_mode="r")


def _read_parquet(path: Path, folder: Path) -> tuple[np.ndarray, ...]:
    """The same, pictures with fewer boxes filled up."""
    table = pd.read_parquet(path)
    boxes, features = (_filled([list(cell) for cell in table[name]]) for name in ("boxes", "features"))
    np.save(folder / "features.npy", features.astype(np.float16))
    return table["image"].to_numpy(), np.stack(list(table["size"])), boxes, features


def _filled(pictures: Sequence[list[np.ndarray]]) -> np.ndarray:
    """float32 [n, K, W] of n lists of rows [W], those with fewer than K filled up with zeros."""
    width = max((len(row) for rows in pictures for row in rows), default=0)
    filled = np.zeros((len(pictures), max(map(len, pictures), default=0), width), np.float32)
    for number, rows in enumerate(pictures):
        filled[number, : len(rows)] = np.stack(rows) if rows else 0
    return filled
