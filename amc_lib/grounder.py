"""Grounder: type a phrase, see where the model looks. The library's front door."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from amc_lib import gradcam
from amc_lib.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from amc_lib.config import VisionSettings
from amc_lib.datasets.image_files import open_image, reading, to_rgb
from amc_lib.datasets.transforms import to_input
from amc_lib.evaluate import ground_remembered, peak, remember_images
from amc_lib.model.text import ImageMemory
from amc_lib.model.trunk import pixels
from amc_lib.overlay import heat_overlay
from amc_lib.tokens import clean
from amc_lib.wording import shown

DEFAULT_CHECKPOINT = "amc-scenes"
MARKER_SHARE = 0.02  # half the marker's width, of the image's shorter side
ONE_QUESTION = threading.Lock()  # at a time: JupyterLab handles widgets in a thread of their own, beside the cells


@dataclass(frozen=True)
class Grounding:
    """One phrase asked of one image."""

    image: Image.Image
    phrase: str
    heatmap: np.ndarray  # float32 [H, W] in [0, 1], original image size
    point: tuple[int, int]  # (x, y), pixels of the original image: the heatmap's peak
    score: float  # probability that image and phrase match, [0, 1]
    raw: Tensor  # float [G, G] >= 0, the heatmap before it is normalised and brought to the image's size
    tokens: tuple[str, ...]  # of the phrase, [CLS] and [SEP] included
    token_maps: Tensor  # float [L, G, G] >= 0, the L tokens' shares in `raw`, which is their sum

    def overlay(self) -> Image.Image:
        """The image under its heatmap, with a cross at the point."""
        picture = Image.fromarray(heat_overlay(self.image, self.heatmap))
        (x, y), arm = self.point, max(4, round(MARKER_SHARE * min(picture.size)))
        draw = ImageDraw.Draw(picture)
        for width, colour in ((arm // 2 + 3, "black"), (arm // 2 + 1, "white")):
            draw.line((x - arm, y, x + arm, y), fill=colour, width=width)
            draw.line((x, y - arm, x, y + arm), fill=colour, width=width)
        return picture


@dataclass(frozen=True)
class EncodedImage:
    """An image as a checkpoint has read it, kept between phrases."""

    picture: Image.Image  # RGB, upright; groundings are in its pixels
    memory: ImageMemory  # of one image, for every fusion layer
    checkpoint: Checkpoint  # the one that can be asked about it


class Grounder:
    """A checkpoint ready for questions. Images of any size are read as RGB and brought to the model's square input."""

    def __init__(self, checkpoint: Checkpoint, layer: int | None = None) -> None:
        if checkpoint.settings.model.vision.trunk == "regions":
            raise CheckpointError("this checkpoint reads a detector's proposals: open it with RegionGrounder.load")
        self.checkpoint = checkpoint
        self.layer = _layer(checkpoint) if layer is None else layer

    @classmethod
    def load(cls, source: str | Path = DEFAULT_CHECKPOINT, layer: int | None = None) -> Grounder:
        """Load a run's folder, a shipped checkpoint by name, or an official .pth. `layer` overrides its own layer."""
        return cls(load_checkpoint(source), layer)

    def encode(self, image: Image.Image | str | Path) -> EncodedImage:
        """An image made ready for any number of phrases. ValueError with one sentence if it cannot be read."""
        picture, model = read_image(image), self.checkpoint.model
        inputs = model_input(picture, model.settings.vision)[None]  # [1, 3, S, S]
        return EncodedImage(picture, remember_images(model, inputs), self.checkpoint)

    def ground(
        self, image: Image.Image | str | Path | EncodedImage, phrase: str | Sequence[str]
    ) -> Grounding | list[Grounding]:
        """Where is `phrase`? A list of phrases gives a list, with one pass of the image for all of them.

        Raises ValueError with one sentence for an image that cannot be read or was encoded by another checkpoint, and
        for a phrase without words.
        """
        phrases = checked_phrases(phrase)
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        if encoded.checkpoint is not self.checkpoint:
            raise ValueError("this image was encoded by another checkpoint")
        if not phrases:
            return []
        groundings = self._ground(encoded, phrases)
        return groundings[0] if isinstance(phrase, str) else groundings

    def _ground(self, encoded: EncodedImage, phrases: Sequence[str]) -> list[Grounding]:
        model, tokenizer, picture = self.checkpoint.model, self.checkpoint.tokenizer, encoded.picture
        memory = encoded.memory.rows(torch.zeros(len(phrases), dtype=torch.long, device=model.temp.device))
        explanation = self.checkpoint.settings.amc.explanation
        with ONE_QUESTION:
            raw, scores, of_tokens = ground_remembered(model, tokenizer, memory, phrases, self.layer, explanation)
        size = (picture.height, picture.width)
        maps = gradcam.normalise(gradcam.upsample(raw, size, "bicubic").clamp(min=0)).numpy()  # [P, H, W]
        points = peak(raw, size).tolist()
        groundings = []
        for p, text in enumerate(phrases):
            tokens = tuple(tokenizer.tokens(text, model.settings.text.positions))
            token_maps = of_tokens[p, : len(tokens)] / of_tokens.shape[1]  # their sum is raw[p]
            groundings.append(
                Grounding(picture, text, maps[p], tuple(points[p]), float(scores[p]), raw[p], tokens, token_maps)
            )
        return groundings


def _layer(checkpoint: Checkpoint) -> int:
    """The layer that a checkpoint names beside its weights, else that of its training."""
    layer, text = checkpoint.about.get("layer", checkpoint.settings.amc.layer), checkpoint.settings.model.text
    if not isinstance(layer, int) or not text.fusion_from <= layer < text.layers:
        fusion = f"{text.fusion_from}-{text.layers - 1}"
        raise CheckpointError(f"this checkpoint names the layer {shown(layer)}; its fusion layers are {fusion}")
    return layer


def checked_phrases(phrase: str | Sequence[str]) -> list[str]:
    """One phrase or several as a list. Raises ValueError for one that is no text or has no words."""
    if not isinstance(phrase, Iterable):
        raise ValueError(f"a phrase must be text, got {shown(phrase)}")
    phrases = [phrase] if isinstance(phrase, str) else list(phrase)
    for text in phrases:
        if not isinstance(text, str):
            raise ValueError(f"a phrase must be text, got {shown(text)}")
        clean(text)
    return phrases


def model_input(picture: Image.Image, vision: VisionSettings) -> Tensor:
    """An RGB picture as the model reads it, float [3, S, S]: as its trunk was trained, or as ALBEF's photographs."""
    if vision.trunk == "lite0":
        return pixels(picture, vision.image_size)
    return to_input(picture, vision.image_size, "bilinear")


def read_image(image: Image.Image | str | Path | BinaryIO) -> Image.Image:
    """A PIL image, a path or an open file as RGB, upright as its EXIF says. ValueError if it is missing or damaged."""
    if not isinstance(image, Image.Image | str | Path) and not hasattr(image, "read"):
        raise ValueError(f"an image must be a PIL image or a path, got {type(image).__name__}")
    with reading(image):
        if isinstance(image, Image.Image):
            return to_rgb(ImageOps.exif_transpose(image))
        with open_image(image) as file:
            return to_rgb(ImageOps.exif_transpose(file))
