"""Splits and training pairs of photographs as the detector-based system reads them from a file of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
from torch import Tensor

from amc_lib.data import PairDataset, Pairs, Phrase
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_study.photos.album import AlbumSplit
from amc_study.photos.photo_table import PhotoTable
from amc_study.photos.splits import PhotoSplit
from amc_study.rival.proposal_file import ProposalFile
from amc_study.rival.proposals import PhotoProposalSplit, ProposalSplit, RegionInputs


@dataclass(frozen=True)
class FileSplit(ProposalSplit, PhotoSplit):
    """A split of the paper tier. Its inputs are those of all pictures of the file."""

    file: ProposalFile | None = None

    @property
    def inputs(self) -> RegionInputs:
        return self.file.inputs

    def row(self, region: Region) -> int:
        return self.file.row(region.image.path.name)

    def load(self, region: Region) -> tuple[Tensor, tuple[int, int]]:
        return self.inputs[self.row(region)], self.size(region)

    def fit(self, model: ALBEF) -> AbstractContextManager:
        return nullcontext()


def file_split(split: PhotoSplit, file: ProposalFile) -> FileSplit:
    """ValueError where the file lacks some of the split's pictures."""
    file.require(dict.fromkeys(region.image.path.name for region in split.regions), split.title)
    return FileSplit(**{field.name: getattr(split, field.name) for field in fields(split)}, file=file)


def file_album(album: AlbumSplit, file: ProposalFile) -> PhotoProposalSplit:
    """A split of the photos tier, without mirrored photographs. ValueError where the file lacks some."""
    names = {region.image_id: region.image.path.name for region in album.regions}
    file.require(names.values(), album.title)
    rows = [file.row(name) for name in names.values()]
    inputs = RegionInputs(file.inputs.boxes[rows], file.inputs.features[rows], file.inputs.side)
    return PhotoProposalSplit(**vars(album) | {"inputs": inputs, "mirrored": None})


class FilePairs(PairDataset):
    """Rows of a table of photographs whose pictures the file holds, each visit with phrases drawn anew.

    Rows of other pictures are counted in `about`. ValueError where no row is left. Boxes play no part.
    """

    def __init__(self, table: PhotoTable, file: ProposalFile, seed: int, per_image: int) -> None:
        self.table, self.file = table, file
        names = [table.image(row) for row in range(len(table))]
        self.kept = [row for row, name in enumerate(names) if file.holds(name)]
        if not self.kept:
            raise ValueError(f"{file.title}: has no proposals of any picture to train on, such as {names[0]}")
        left_out = {"rows without proposals": len(table) - len(self.kept)}
        super().__init__(seed, per_image, dict(table.about) | left_out)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Pairs:
        return self.pairs(self.kept[index])

    def choices(self, row: int) -> list[Phrase]:
        return self.table.phrases(row)

    def image_name(self, row: int) -> str:
        return self.table.image(row)

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, Sequence[Phrase]]:
        inputs = self.file.inputs[self.file.row(self.table.image(row))]
        return inputs, [replace(phrase, boxes=()) for phrase in phrases]
