"""Scenes as a detector reads them: features of the frozen trunk and the boxes of all named things, kept on disk.

A split is drawn once, on all cores, and kept under data/cache. The folder's name depends on the settings and on the
code that draws and reads, so that a change of either never meets an old cache.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from amc_lib.config import SceneSettings
from amc_lib.files import ROOT, atomic_file, plain, write_json
from amc_lib.model.trunk import pixels
from amc_lib.regions import Box
from amc_study.rival.pyramid import Levels, Lite0Pyramid, pack, shapes, unpack
from amc_study.scenes import scene as scenes
from amc_study.scenes.splits import CACHE

SCENES_A_TASK = 25
DRAWING = ("notebooks/amc_study/scenes/*.py", "amc_lib/model/trunk.py", "notebooks/amc_study/rival/pyramid.py")


@dataclass(frozen=True)
class NamedObject:
    """A named thing in a scene: tight box of its visible pixels (xyxy, pixels of the scene) and what it is.

    `colour` and `pattern` are "" where they do not apply. `annotated` is False where the concept never has a box in
    finetuning.
    """

    box: Box
    concept: str
    colour: str
    pattern: str
    annotated: bool


@dataclass(frozen=True)
class ObjectSplit:
    """One split of scenes, n of them."""

    settings: SceneSettings
    split: str
    side: int  # of the detector's input, pixels
    rows: np.ndarray  # float16 [n, N], mapped from disk: the packed levels of each scene
    objects: list[list[NamedObject]]

    def __len__(self) -> int:
        return len(self.objects)

    def levels(self, indices: np.ndarray | list[int]) -> Levels:
        """The trunk's features of some scenes, float32."""
        return unpack(torch.from_numpy(self.rows[indices]), self.side)


def open_objects(settings: SceneSettings, side: int, split: str, cache: Path = CACHE) -> ObjectSplit:
    """The bank of a split, from the cache or, where it is not there yet, drawn now (with a progress bar)."""
    settings.count(split)
    folder = cache / f"objects-{split}-{fingerprint(settings, split, [side], (*DRAWING, 'datasets/object_bank.py'))}"
    if not (folder / "objects.json").is_file():
        _build(settings, side, split, folder)
    records = json.loads((folder / "objects.json").read_text(encoding="utf-8"))
    objects = [[NamedObject(**record | {"box": tuple(record["box"])}) for record in scene] for scene in records]
    return ObjectSplit(settings, split, side, np.load(folder / "levels.npy", mmap_mode="r"), objects)


def draw_levels(
    settings: SceneSettings, side: int, split: str, start: int, stop: int
) -> tuple[list[scenes.Scene], Levels]:
    """Scenes `start` to `stop` (exclusive) of a split and the trunk's features of their pictures."""
    drawn = [scenes.draw(settings, split, index) for index in range(start, stop)]
    return drawn, _pyramid()(torch.stack([pixels(scene.image, side) for scene in drawn]))


def on_all_cores(function: Callable[[Any], Any], count: int, task: tuple, description: str) -> Iterator[Any]:
    """`function((*task, start, stop))` for successive ranges of `count` scenes, in order, with a progress bar."""
    starts = range(0, count, SCENES_A_TASK)
    tasks = [(*task, start, min(start + SCENES_A_TASK, count)) for start in starts]
    workers = min(os.cpu_count() or 1, len(tasks))
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
        tqdm(total=count, desc=description, unit="scene") as bar,
    ):
        for (*_, start, stop), result in zip(tasks, pool.map(function, tasks), strict=True):
            yield result
            bar.update(stop - start)


def write_rows(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: str) -> None:
    """Write an array as .npy atomically, part by part along its first axis, so that it never stands in memory whole."""
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype))


def fingerprint(settings: SceneSettings, split: str, others: list, code: Iterable[str]) -> str:
    """Twelve hex digits of what a cache depends on: scenes of one split, other settings, files of the package."""
    shared = {name: value for name, value in plain(settings).items() if name not in scenes.SPLITS}
    digest = hashlib.sha256(json.dumps([shared, settings.count(split), plain(others)]).encode())
    for pattern in code:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(settings: SceneSettings, side: int, split: str, folder: Path) -> None:
    count = settings.count(split)
    objects: list[list[dict]] = []

    def parts() -> Iterator[np.ndarray]:
        for rows, part in on_all_cores(_draw_part, count, (settings, side, split), f"drawing {split}"):
            objects.extend(part)
            yield rows

    numbers = sum(int(np.prod(shape)) for shape in shapes(side))
    write_rows(folder / "levels.npy", parts(), (count, numbers), "<f2")
    write_json(folder / "objects.json", objects)


def _draw_part(task: tuple[SceneSettings, int, str, int, int]) -> tuple[np.ndarray, list[list[dict]]]:
    torch.set_num_threads(1)
    drawn, levels = draw_levels(*task)
    return pack(levels).numpy(), [[plain(_named(thing)) for thing in scene.objects] for scene in drawn]


def _named(thing: scenes.SceneObject) -> NamedObject:
    concept = thing.concept
    return NamedObject(thing.box, concept.name, thing.colour, thing.pattern, concept.annotated)


@lru_cache(maxsize=1)
def _pyramid() -> Lite0Pyramid:
    return Lite0Pyramid()
