"""What the detector proposes in every scene of a split, found once on all cores and kept on disk.

The folder under data/cache is named by the detector's weights and settings, the scenes' settings and the code, so that
a change of any of them never meets an old cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from amc_lib.config import SceneSettings
from amc_lib.files import write_array
from amc_study.rival.detector import UNKNOWN, Proposals, SceneDetector
from amc_study.rival.detector_runs import load_detector
from amc_study.rival.object_bank import DRAWING, draw_levels, fingerprint, on_all_cores, write_rows
from amc_study.scenes.splits import CACHE

CODE = (
    *DRAWING,
    *(f"notebooks/amc_study/rival/{name}.py" for name in ("object_bank", "detector", "detector_parts", "proposals")),
)
SMALL = ("boxes", "scores", "labels")
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SceneProposals:
    """Proposals of n scenes, K each, best first.

    boxes: float32 [n, K, 4], xyxy in pixels of the scene. scores: float32 [n, K], probability of the likeliest class.
    labels: int64 [n, K], index of that class in the detector's classes. features: float16 [n, K, F], mapped from disk.
    Where a scene has fewer than K, the rest are boxes without area, with score 0, label UNKNOWN and features 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.boxes)


def open_proposals(settings: SceneSettings, split: str, detector: SceneDetector, cache: Path = CACHE) -> SceneProposals:
    """Proposals of a split, from the cache or, where they are not there yet, found now (with a progress bar)."""
    others = [detector.sha256, detector.settings]
    folder = cache / f"proposals-{split}-{fingerprint(settings, split, others, CODE)}"
    if not (folder / "labels.npy").is_file():
        _build(settings, split, detector, folder)
    features = np.load(folder / "features.npy", mmap_mode="c")  # "c": torch wants memory that could be written to
    small = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in SMALL}
    return SceneProposals(**small, features=torch.from_numpy(features))


def _build(settings: SceneSettings, split: str, detector: SceneDetector, folder: Path) -> None:
    """The labels come last: their presence says that the rest is there."""
    count = settings.count(split)
    small: dict[str, list[np.ndarray]] = {name: [] for name in SMALL}

    def features() -> Iterator[np.ndarray]:
        task = (settings, split, detector.folder, detector.sha256)
        for *of_part, rows in on_all_cores(_propose_part, count, task, f"proposals of {split}"):
            for name, array in zip(SMALL, of_part, strict=True):
                small[name].append(array)
            yield rows

    shape = (count, detector.settings.boxes, detector.settings.width)
    write_rows(folder / "features.npy", features(), shape, "<f2")
    for name in SMALL:
        write_array(folder / f"{name}.npy", np.concatenate(small[name]))


def _propose_part(task: tuple[SceneSettings, str, Path, str, int, int]) -> Part:
    settings, split, folder, sha256, start, stop = task
    torch.set_num_threads(1)
    detector = _detector(folder, sha256)
    side, size = detector.settings.image_size, (settings.size, settings.size)
    _, levels = draw_levels(settings, side, split, start, stop)
    found = [proposals.resized(size) for proposals in detector.propose_levels(levels)]
    most = detector.settings.boxes
    return (
        _padded(found, "boxes", most, 0.0).numpy(),
        _padded(found, "scores", most, 0.0).numpy(),
        _padded(found, "labels", most, UNKNOWN).numpy(),
        _padded(found, "features", most, 0.0).half().numpy(),
    )


def _padded(found: list[Proposals], name: str, most: int, value: float) -> Tensor:
    """One field of all scenes -> [scenes, most, ...]."""
    rows = [getattr(proposals, name) for proposals in found]
    filler = rows[0].new_empty(most, *rows[0].shape[1:])  # makes the longest row `most` long
    return pad_sequence([*rows, filler], batch_first=True, padding_value=value)[:-1]


@lru_cache(maxsize=1)
def _detector(folder: Path, sha256: str) -> SceneDetector:
    """The detector of this process; ValueError if the folder's weights have been replaced meanwhile."""
    detector = load_detector(folder)
    if detector.sha256 != sha256:
        raise ValueError(f"{folder}: its weights changed while proposals were being found")
    return detector
