"""Scenes made ready for the model once: trunk features, captions and regions of a whole split, kept on disk.

Drawing and the frozen trunk cost the same in every epoch and every run, so their results are computed once, on all
cores, and kept under data/cache. The folder's name depends on the settings and on the code that draws, so that a
changed setting or drawing never meets an old cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.config import SceneSettings, VisionSettings
from amc_lib.data import Phrase
from amc_lib.files import ROOT, plain, write_bytes, write_json
from amc_lib.model import ALBEF
from amc_lib.model.trunk import Lite0Trunk, pixels
from amc_lib.regions import Region
from amc_study.scenes import scene as scenes

CACHE = ROOT / "data" / "cache"
SCENES_A_TASK = 50


@dataclass(frozen=True)
class SceneSplit:
    """One split of scenes, n of them."""

    settings: SceneSettings
    split: str
    features: Tensor  # float16 [n, C, G, G], the trunk's
    captions: list[list[str]]  # of each scene, shortest first
    regions: list[list[Region]]

    def caption_phrases(self) -> list[list[Phrase]]:
        """For each scene its captions and the noun phrases that longer captions list, without boxes."""
        return [[phrase for caption in captions for phrase in _in_caption(caption)] for captions in self.captions]

    def region_phrases(self) -> list[list[Phrase]]:
        """For each scene the phrases that come with boxes, relative to the picture's side."""
        side = self.settings.size
        return [
            [Phrase(r.phrase, tuple(tuple(edge / side for edge in box) for box in r.boxes)) for r in regions]
            for regions in self.regions
        ]

    def all_regions(self) -> list[Region]:
        return [region for regions in self.regions for region in regions]

    @property
    def skipped(self) -> list[str]:
        return []  # what is drawn is never malformed

    @property
    def title(self) -> str:
        return self.split.replace("_a", " A").replace("_b", " B")

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        """The model's input for a region's scene, and the picture's (height, width)."""
        return self.features[region.image.index], self.size(region)

    def size(self, region: Region) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.settings.size, self.settings.size

    def fit(self, model: ALBEF) -> AbstractContextManager:
        """The model as these inputs need it, inside the block: unchanged."""
        return nullcontext()


def _in_caption(caption: str) -> list[Phrase]:
    """A caption and, where it lists several things (joined by commas and "and"), each of them alone."""
    listed = re.split(", | and ", caption)
    alone = [Phrase(text) for text in listed] if len(listed) > 1 else []
    return [Phrase(caption, things=len(listed)), *alone]


def open_scenes(settings: SceneSettings, vision: VisionSettings, split: str, cache: Path = CACHE) -> SceneSplit:
    """The bank of a split, from the cache or, where it is not there yet, drawn now (with a progress bar)."""
    settings.count(split)
    folder = cache / f"scenes-{split}-{_fingerprint(settings, vision, split)}"
    if not (folder / "records.json").is_file():
        _build(settings, vision, split, folder)
    records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    regions = [
        [_region(record, scenes.SceneImage(settings, split, index), split) for record in of_scene]
        for index, of_scene in enumerate(records["regions"])
    ]
    return SceneSplit(
        settings, split, load_file(folder / "features.safetensors")["features"], records["captions"], regions
    )


def _build(settings: SceneSettings, vision: VisionSettings, split: str, folder: Path) -> None:
    count = settings.count(split)
    starts = range(0, count, SCENES_A_TASK)
    tasks = [(settings, vision, split, start, min(start + SCENES_A_TASK, count)) for start in starts]
    workers = min(os.cpu_count() or 1, len(tasks))
    features, captions, regions = [], [], []
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
        tqdm(total=count, desc=f"drawing {split}", unit="scene") as bar,
    ):
        for part_features, part_captions, part_regions in pool.map(_draw_part, tasks):
            features.append(torch.from_numpy(part_features))
            captions += part_captions
            regions += part_regions
            bar.update(len(part_captions))
    write_bytes(folder / "features.safetensors", save({"features": torch.cat(features)}))
    write_json(folder / "records.json", {"captions": captions, "regions": regions})


def _draw_part(task: tuple[SceneSettings, VisionSettings, str, int, int]) -> tuple[np.ndarray, list, list]:
    settings, vision, split, start, stop = task
    torch.set_num_threads(1)
    drawn = [scenes.draw(settings, split, index) for index in range(start, stop)]
    features = _trunk()(torch.stack([pixels(scene.image, vision.image_size) for scene in drawn]))
    regions = [[_record(region) for region in scene.regions] for scene in drawn]
    return features.half().contiguous().numpy(), [list(scene.captions) for scene in drawn], regions


@lru_cache(maxsize=1)
def _trunk() -> Lite0Trunk:
    return Lite0Trunk().to(memory_format=torch.channels_last)


def _record(region: Region) -> dict:
    return {
        field.name: plain(getattr(region, field.name))
        for field in dataclasses.fields(Region)
        if field.name not in ("image", "split")
    }


def _region(record: dict, image: scenes.SceneImage, split: str) -> Region:
    boxes = tuple(tuple(box) for box in record["boxes"])
    return Region(**record | {"image": image, "split": split, "boxes": boxes})


def _fingerprint(settings: SceneSettings, vision: VisionSettings, split: str) -> str:
    """Hash of what a split's bank depends on: its settings, the input side, and the code that draws and reads."""
    shared = {name: value for name, value in plain(settings).items() if name not in scenes.SPLITS}
    digest = hashlib.sha256(json.dumps([shared, settings.count(split), vision.image_size]).encode())
    code = [*sorted(Path(__file__).parent.glob("*.py")), ROOT / "amc_lib/model/trunk.py"]
    for path in code:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
