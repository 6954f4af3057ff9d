"""Trunk features of photographs, computed once on all cores and kept in the cache as memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amc_lib.config import VisionSettings
from amc_lib.datasets.image_files import ImageFile
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_study.scenes.cache import Part, fingerprint, open_rows

PICTURES_A_TASK = 50
CODE = ("amc_lib/model/trunk.py", "amc_lib/datasets/image_files.py", "notebooks/amc_study/photos/features.py")


def open_features(
    split: str, paths: Sequence[Path], vision: VisionSettings, with_mirrored: bool
) -> tuple[Tensor, Tensor | None]:
    """float16 [n, C, G, G] of n pictures and, if wanted, of their mirror images."""
    stats = [(path.name, path.stat().st_size) for path in paths]
    key = fingerprint([vision.trunk, vision.image_size, with_mirrored, stats], CODE)
    compute = partial(_compute, vision.trunk, vision.image_size, paths, with_mirrored)
    arrays, _ = open_rows(f"photos-{split}-{key}", compute, len(paths), f"features of {split}", PICTURES_A_TASK)
    return arrays["features"], arrays.get("mirrored")


def _compute(trunk: str, side: int, paths: Sequence[Path], with_mirrored: bool, start: int, stop: int) -> Part:
    inputs = torch.stack([pixels(ImageFile(path).open(), side) for path in paths[start:stop]])  # [m, 3, S, S]
    arrays = {"features": _read(trunk, inputs)}
    if with_mirrored:
        arrays["mirrored"] = _read(trunk, inputs.flip(-1))
    return arrays, [None] * (stop - start)


def _read(trunk: str, inputs: Tensor) -> np.ndarray:
    return _trunk(trunk)(inputs).half().contiguous().numpy()  # [m, C, G, G]


@lru_cache(maxsize=1)
def _trunk(name: str) -> FrozenTrunk:
    return FrozenTrunk(name).to(memory_format=torch.channels_last)
