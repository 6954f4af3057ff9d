"""Training pairs whose pictures are read and augmented anew at each visit: those of the paper tier (Visual Genome) and,
for a model that reads the pixels of photographs, those of the photos tier.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from amc_lib.config import Settings
from amc_lib.data import PairDataset, Pairs, Phrase
from amc_lib.datasets import visual_genome
from amc_lib.datasets.image_files import ImageFile, UnreadableImageError
from amc_lib.datasets.records import Regions
from amc_lib.datasets.transforms import Augment
from amc_lib.distributed import process_state
from amc_lib.files import ROOT, data_root, photos_root
from amc_study.photos import photo_table
from amc_study.photos.album import read_regions
from amc_study.photos.photo_table import PhotoTable, open_table
from amc_study.scenes.cache import fingerprint

CACHE = ROOT / "data" / "cache"
CODE = (  # what decides what a table holds
    *(f"amc_lib/datasets/{name}.py" for name in ("visual_genome", "flickr30k", "refer", "refer_parquet", "records")),
    *(f"notebooks/amc_study/photos/{name}.py" for name in ("pairs", "photo_table")),
)
MOST_UNREADABLE = 20  # pictures in a row that may fail before training stops


class PhotoPairs(PairDataset):
    """Rows of a table, each visit with its picture read and augmented anew.

    A picture that cannot be read, or does not hold one of its boxes, is named in a warning, counted in
    `Pairs.unreadable`, and the next row of another picture stands in.
    """

    def __init__(self, table: PhotoTable, root: Path, augment: Augment, seed: int, per_image: int = 1) -> None:
        super().__init__(seed, per_image, table.about)
        self.table, self.root, self.augment = table, root, augment

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Pairs:
        failed: dict[str, str] = {}  # why, by picture: a picture has many rows, one after the other
        for row in chain(range(index, len(self)), range(index)):
            if (picture := self.table.image(row)) in failed:
                continue
            try:
                return replace(self.pairs(row), unreadable=len(failed))
            except UnreadableImageError as error:
                failed[picture] = str(error)
                warnings.warn(f"left out in this epoch: {error}", stacklevel=2)
            if len(failed) == MOST_UNREADABLE:
                break
        first = next(iter(failed.values()))
        raise UnreadableImageError(f"{len(failed)} pictures in a row cannot be read; the first: {first}")

    def choices(self, row: int) -> list[Phrase]:
        return self.table.phrases(row)

    def image_name(self, row: int) -> str:
        return self.table.image(row)

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, list[Phrase]]:
        path = self.root / self.table.image(row)
        picture = ImageFile(path).open()
        try:
            return self.augment(picture, phrases, rng)
        except ValueError as error:
            raise UnreadableImageError(f"{path}: {error}") from error


def training_pairs(settings: Settings) -> PhotoPairs:
    """Visual Genome's regions without the images that evaluation needs; of several processes one reads, all map.

    Where `visual_genome/records/` holds the authors' own annotation files, these are read instead.
    """
    data, training = data_root(), settings.finetuning
    root = data / "visual_genome"
    own = sorted((root / "records").glob("[!.]*.json"))
    sources = [*sorted(root.glob("*.json")), *own]
    sources += [path for path in sorted((data / "refer").glob("refcoco*/**/*")) if path.suffix in (".p", ".parquet")]
    sources += [data / "flickr30k" / f"{split}.txt" for split in ("val", "test")]
    sources += [root / name for name in visual_genome.IMAGE_FOLDERS]  # their times change with what is put there
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources if path.exists()]
    with process_state().main_process_first():
        table = open_table(CACHE / f"visual-genome-{fingerprint(stats, CODE)}", lambda: _read(data, own))
    for sentence in table.about["not_held_out"]:
        process_state().print(f"not held out from training: {sentence}")
    augment = Augment(settings.photos, settings.model.vision.image_size)
    return PhotoPairs(table, root, augment, training.seed, training.phrases_per_image)


def album_pairs(settings: Settings) -> PhotoPairs:
    """The boxed phrases of the photos tier, as pixels at the model's side: a row for each photograph."""
    training, regions = settings.finetuning, read_regions(settings.photos, "train")
    by_image = sorted(regions, key=lambda region: region.image_id)  # stable: an image's phrases stay in order
    named = (replace(region, id=f"{region.image_id}-{n}") for n, region in enumerate(by_image))
    table = photo_table.build(regions.replaced(named), photos_root())
    augment = Augment(settings.photos, settings.model.vision.image_size)
    return PhotoPairs(table, photos_root(), augment, training.seed, training.phrases_per_image)


def _read(data: Path, own: list[Path]) -> PhotoTable:
    """The table of the authors' files `own` or, without any, of Visual Genome.

    `about` names under `not_held_out` each evaluated set whose images are not all known.
    """
    root = data / "visual_genome"
    held_out, unknown = visual_genome.held_out_ids(root, data / "flickr30k", data / "refer")
    if own:
        parts = [visual_genome.read_records(path, root) for path in own]
        everything = list(chain.from_iterable(parts))
        kept = [region for region in everything if region.image.path.stem not in held_out]
        held = held_out & {region.image.path.stem for region in everything}
        regions = Regions(kept, chain.from_iterable(part.skipped for part in parts), len(held))
    else:
        regions = visual_genome.read(root, held_out=held_out)
    table = photo_table.build(regions, root)
    return replace(table, about=table.about | {"not_held_out": unknown})
