"""Photographs as the model reads them: resized to a square and normalised; in finetuning also augmented.

Resizing decides digits (PROTOCOL, Evaluation): "bilinear" is without antialiasing, as OpenCV does, for training and
Flickr30k; "bicubic" is Pillow's, for RefCOCO+ and RefCLEF.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes

from amc_lib.config import PhotoSettings
from amc_lib.data import Phrase

Resize = Literal["bilinear", "bicubic"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of pixels in [0, 1]
_SIDE = re.compile(r"\b(left|right)(?=\b|most\b|hand\b|side\b|ward)", re.IGNORECASE)


def to_input(picture: Image.Image, side: int, resize: Resize) -> Tensor:
    """An RGB picture -> normalised float [3, side, side]."""
    if resize == "bicubic":
        return _normalised(functional.pil_to_tensor(picture.resize((side, side), Image.Resampling.BICUBIC)))
    return _normalised(_squared(functional.pil_to_tensor(picture), side))


def swap_sides(text: str) -> str:
    """The phrase as it is true of the mirrored picture: left and right (also leftmost, left-hand ...) change places."""
    return _SIDE.sub(lambda side: "right" if side[1].lower() == "left" else "left", text)


@dataclass(frozen=True)
class Augment:
    """Picture and phrases of one visit, changed together (PROTOCOL, Finetuning).

    Boxes come in pixels of the picture, of which they may overrun the edges, and leave as shares of its sides. The
    result depends on the generator alone. Raises ValueError for a box outside the picture.
    """

    settings: PhotoSettings
    side: int  # of the model's input, pixels

    def __call__(
        self, picture: Image.Image, phrases: Sequence[Phrase], rng: np.random.Generator
    ) -> tuple[Tensor, list[Phrase]]:
        chosen = [self._one_box(phrase, rng) for phrase in phrases]
        edges = torch.tensor([box for phrase in chosen for box in phrase.boxes]).reshape(-1, 4)  # [n, 4]
        edges = _clipped(edges, picture.width, picture.height)
        corners = BoundingBoxes(edges, format="XYXY", canvas_size=(picture.height, picture.width))
        image, corners = _squared(functional.pil_to_tensor(picture), self.side), _squared(corners, self.side)
        if rng.random() < self.settings.flip:
            image, corners = functional.horizontal_flip(image), functional.horizontal_flip(corners)
            chosen = [replace(phrase, text=swap_sides(phrase.text)) for phrase in chosen]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            image = self._colours(image)
        shares = iter((corners / self.side).tolist())
        moved = [replace(phrase, boxes=tuple(tuple(next(shares)) for _ in phrase.boxes)) for phrase in chosen]
        return _normalised(image), moved

    def _one_box(self, phrase: Phrase, rng: np.random.Generator) -> Phrase:
        if len(phrase.boxes) < 2 or not self.settings.one_box:
            return phrase
        return replace(phrase, boxes=(phrase.boxes[rng.integers(len(phrase.boxes))],))

    @cached_property
    def _colours(self) -> v2.Transform:
        jitter = v2.ColorJitter(*[self.settings.jitter] * 3)  # brightness, contrast, saturation
        return v2.Compose(
            [v2.RandomApply([jitter], self.settings.jitter_probability), v2.RandomGrayscale(self.settings.gray)]
        )


def _clipped(boxes: Tensor, width: int, height: int) -> Tensor:
    """Boxes xyxy [n, 4] cut off at the edges of the picture. ValueError where nothing is left of one."""
    inside = boxes.clamp(min=0).minimum(torch.tensor([width, height] * 2))
    lost = (boxes[:, :2] < boxes[:, 2:]).all(1) & (inside[:, :2] >= inside[:, 2:]).any(1)
    if lost.any():
        corners = ", ".join(f"{edge:g}" for edge in boxes[lost][0].tolist())
        raise ValueError(f"a box ({corners}) lies outside its image of {width} x {height}")
    return inside


def _squared(image_or_boxes: Tensor, side: int) -> Tensor:
    return functional.resize(image_or_boxes, [side, side], functional.InterpolationMode.BILINEAR, antialias=False)


def _normalised(image: Tensor) -> Tensor:
    return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), MEAN, STD)
