"""Training pairs: an image with one or more of its phrases, and the masks of the phrases' boxes.

Which phrases an image is paired with depends on (seed, epoch, image) alone, so that workers, resumed runs and several
processes see the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from amc_lib.phrases import Tokenizer
from amc_lib.regions import Box
from amc_lib.step import Batch


@dataclass(frozen=True)
class Phrase:
    """What one image may be paired with. `boxes` are xyxy as shares of width and height; none for a caption."""

    text: str
    boxes: tuple[Box, ...] = ()
    things: int = 1  # how many things the text names


@dataclass(frozen=True)
class Pairs:
    """An image and the phrases that it is paired with in this epoch."""

    key: tuple[int, int, int]  # seed, epoch, image: seeds whatever is random about these pairs
    image: Tensor
    phrases: tuple[Phrase, ...]


def box_mask(boxes: Sequence[Box], side: int) -> Tensor:
    """float [side, side]: 1 inside any of the boxes (xyxy, shares of the image), each at least one pixel."""
    mask = torch.zeros(side, side)
    for x1, y1, x2, y2 in boxes:
        left, top = min(round(x1 * side), side - 1), min(round(y1 * side), side - 1)
        mask[top : max(round(y2 * side), top + 1), left : max(round(x2 * side), left + 1)] = 1
    return mask


class PairDataset(Dataset):
    """Once an epoch, `images[i]` with at most `per_image` phrases drawn from `phrases[i]`.

    Images without phrases take no part; `len` counts the others.
    """

    def __init__(
        self, images: Sequence[Tensor], phrases: Sequence[Sequence[Phrase]], seed: int, per_image: int = 1
    ) -> None:
        if len(images) != len(phrases):
            raise ValueError(f"{len(images)} images but phrases for {len(phrases)}")
        self.images, self.phrases, self.seed, self.per_image = images, phrases, seed, per_image
        self.rows = [row for row, choices in enumerate(phrases) if choices]
        self.epoch = 0
        self.most_things: int | None = None  # phrases that name more are left for later epochs

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pairs:
        row = self.rows[index]
        key = (self.seed, self.epoch, row)
        choices = self.phrases[row]
        if self.most_things is not None:
            choices = [phrase for phrase in choices if phrase.things <= self.most_things] or choices
        drawn = np.random.default_rng(key).permutation(len(choices))[: self.per_image]
        return Pairs(key, self.images[row], tuple(choices[i] for i in drawn))


class EpochSampler(Sampler[int]):
    """A shuffle that depends on (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist())


@dataclass(frozen=True)
class Collator:
    """Pairs -> Batch: tokens, their corruption for MLM, masks of side `map_size`."""

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
        )
