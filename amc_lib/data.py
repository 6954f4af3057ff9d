"""Training pairs: an image with one or more of its phrases, and the masks of the phrases' boxes.

Which phrases an image is paired with depends on (seed, epoch, image) alone, so that workers, resumed runs and several
processes see the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from amc_lib.regions import Box, Region
from amc_lib.step import Batch
from amc_lib.tokens import Tokenizer


@dataclass(frozen=True)
class Phrase:
    """A text that an image may be paired with. `boxes` are xyxy as shares of width and height; none for a caption."""

    text: str
    boxes: tuple[Box, ...] = ()
    things: int = 1  # how many things the text names

    @classmethod
    def of(cls, region: Region, size: tuple[int, int]) -> Phrase:
        """The phrase of a region with its boxes, in a picture of `size` (height, width)."""
        height, width = size
        return cls(region.phrase, tuple((a / width, b / height, c / width, d / height) for a, b, c, d in region.boxes))


@dataclass(frozen=True)
class Pairs:
    """An image with its phrases of this epoch."""

    key: tuple[int, int, int]  # seed, epoch, row: seeds all draws for these pairs
    image: Tensor
    phrases: tuple[Phrase, ...]
    unreadable: int = 0  # rows before this one whose image could not be read, and in whose place it stands


def box_mask(boxes: Sequence[Box], side: int) -> Tensor:
    """float [side, side]: 1 inside any of the boxes (xyxy, shares of the image), each at least one pixel."""
    mask = torch.zeros(side, side)
    for x1, y1, x2, y2 in boxes:
        left, top = min(round(x1 * side), side - 1), min(round(y1 * side), side - 1)
        mask[top : max(round(y2 * side), top + 1), left : max(round(x2 * side), left + 1)] = 1
    return mask


class PairDataset(Dataset):
    """Rows of an image and its phrases; once an epoch, each with at most `per_image` phrases drawn from `choices`."""

    def __init__(self, seed: int, per_image: int = 1, about: Mapping[str, Any] | None = None) -> None:
        self.seed, self.per_image = seed, per_image
        self.about = dict(about or {})  # what was read for it and what was left out
        self.start_epoch(0)

    def start_epoch(self, epoch: int, most_things: int | None = None) -> None:
        """Draw as in `epoch` from now on; phrases that name more than `most_things` are left for later epochs."""
        self.epoch, self.most_things = epoch, most_things

    def choices(self, row: int) -> Sequence[Phrase]:
        """The phrases of a row."""
        raise NotImplementedError

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, Sequence[Phrase]]:
        """The image of a row and its drawn phrases as the model reads them, augmented together."""
        raise NotImplementedError

    def image_name(self, row: int) -> str:
        """The name by which a person finds the image of a row."""
        return f"image {row}"

    def pairs(self, row: int) -> Pairs:
        key = (self.seed, self.epoch, row)
        rng = np.random.default_rng(key)
        choices = self.choices(row)
        if self.most_things is not None:
            choices = [phrase for phrase in choices if phrase.things <= self.most_things] or choices
        drawn = rng.permutation(len(choices))[: self.per_image]
        image, phrases = self.view(row, tuple(choices[i] for i in drawn), rng)
        return Pairs(key, image, tuple(phrases))


class FixedPairs(PairDataset):
    """Images in memory, without augmentation; those without phrases take no part."""

    def __init__(
        self,
        images: Sequence[Tensor],
        phrases: Sequence[Sequence[Phrase]],
        seed: int,
        per_image: int = 1,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(seed, per_image, about)
        if len(images) != len(phrases):
            raise ValueError(f"{len(images)} images but phrases for {len(phrases)}")
        self.images, self.phrases = images, phrases
        self.rows = [row for row, choices in enumerate(phrases) if choices]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pairs:
        return self.pairs(self.rows[index])

    def choices(self, row: int) -> Sequence[Phrase]:
        return self.phrases[row]

    def view(self, row: int, phrases: tuple[Phrase, ...], rng: np.random.Generator) -> tuple[Tensor, Sequence[Phrase]]:
        return self.images[row], phrases


class EpochBatches(Sampler[list[int]]):
    """Batches of a shuffle that depends on (seed, epoch) alone, cut into parts for `world` processes.

    Part `rank` of every batch of `world * batch_size` indices; what does not fill `whole` such batches is left for
    other epochs.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, whole: int = 1) -> None:
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.batches = length // (batch_size * world * whole) * whole
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first: int = 0) -> None:
        """Iterate over the batches of `epoch` from now on, beginning with batch `first`."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        return self.between(self.first, self.batches)

    def between(self, first: int, stop: int) -> Iterator[list[int]]:
        """This process's part of the epoch's batches `first` to `stop`, counted from 0, without the last."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        for batch in range(first, stop):
            start = (batch * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist()


@dataclass(frozen=True)
class Collator:
    """The step from pairs to a Batch: tokens, their corruption for MLM, box masks of side `map_size`."""

    tokenizer: Tokenizer
    mlm_probability: float
    map_size: int

    def __call__(self, images: Sequence[Pairs]) -> Batch:
        phrases = [phrase for pairs in images for phrase in pairs.phrases]
        input_ids, attention_mask = self.tokenizer([phrase.text for phrase in phrases])
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(images[0].key).generate_state(1)[0]))
        mlm_input_ids, mlm_labels = self.tokenizer.corrupt(input_ids, self.mlm_probability, generator)
        return Batch(
            image=torch.stack([pairs.image for pairs in images]).float(),
            image_rows=torch.arange(len(images)).repeat_interleave(torch.tensor([len(p.phrases) for p in images])),
            input_ids=input_ids,
            attention_mask=attention_mask,
            mlm_input_ids=mlm_input_ids,
            mlm_labels=mlm_labels,
            box_mask=torch.stack([box_mask(phrase.boxes, self.map_size) for phrase in phrases]),
            has_box=torch.tensor([bool(phrase.boxes) for phrase in phrases]),
            unreadable=torch.tensor(sum(pairs.unreadable for pairs in images)),
        )
