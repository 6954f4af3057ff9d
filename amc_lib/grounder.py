"""Grounder: type a phrase, see where the model looks. The library's front door."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amc_lib import gradcam
from amc_lib.checkpoints import Checkpoint, load_checkpoint
from amc_lib.datasets.image_files import UnreadableImageError
from amc_lib.evaluate import evaluating, ground_remembered, peak, remember_images
from amc_lib.grounding import Calibration, Grounding
from amc_lib.model import Backbone, Memory
from amc_lib.model.trunk import NETWORKS, pixels
from amc_lib.official import first_sentence
from amc_lib.phrases import as_typed, checked_phrases, unknown_words, unread_words
from amc_lib.pictures import AnyPicture, FileBytes, Kept, read_picture
from amc_lib.presets import DEFAULT_CHECKPOINT

PHRASES_AT_ONCE = 32  # of one picture: more take no more memory
SINGLE = str | FileBytes | Mapping | np.ndarray | Tensor  # what is iterable and yet no list of pictures
SEEN = {  # by tier: what its pictures show
    "scenes": "drawn scenes of pictograms",
    "photos": "photographs of daily life: people, dogs, streets, sports, play",
    "paper": "photographs of all kinds",
}


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture as a checkpoint has read it, kept between phrases."""

    size: tuple[int, int]  # (width, height); groundings are in its pixels
    picture: Kept  # where it lies or its file's bytes; else the picture, RGB and upright
    memory: Memory = field(repr=False)  # of one image, for every fusion layer
    checkpoint: Checkpoint = field(repr=False)  # the one that read it


class Grounder:
    """A checkpoint ready for questions. Pictures of any size are read as RGB and brought to the model's square input.

    The default, `amc-photos`, was trained on photographs of daily life (Flickr8k, for research). The checkpoints of the
    scenes tier (`amc-scenes`) know drawn pictograms and some hundred words; on photographs their answers mean nothing.
    """

    def __init__(self, checkpoint: Checkpoint, layer: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.layer = checked_layer(checkpoint.model, heatmap_layer(checkpoint) if layer is None else layer)
        self.calibration = Calibration(**checkpoint.about.get("calibration", {}))
        self._lock = threading.Lock()  # JupyterLab handles widgets in a thread beside the cells

    @classmethod
    def load(
        cls, source: str | Path = DEFAULT_CHECKPOINT, layer: int | None = None, device: str | torch.device = "auto"
    ) -> Grounder:
        """Load a run's folder, a shipped checkpoint by name, an official .pth, or a BLIP as transformers saves it.

        `layer` overrides its own layer. device "auto": CUDA, else Apple's MPS, else the processor. ValueError with one
        sentence for a source that cannot be loaded, a layer that has no heatmap and a device that is not here.
        """
        with torch.inference_mode(False):
            checkpoint = load_checkpoint(source)
            try:
                checkpoint.model.to(best_device() if device == "auto" else device)
            except (AssertionError, RuntimeError) as error:  # the former where torch was built without it
                raise ValueError(f"the device {str(device)!r} cannot be used: {first_sentence(error)}") from error
        return cls(checkpoint, layer)

    @property
    def seen(self) -> str:
        """What the checkpoint was trained on, in words: of other things its answers mean little."""
        return SEEN[self.checkpoint.settings.tier]

    def encode(self, image: AnyPicture) -> EncodedImage:
        """A picture made ready for any number of phrases. ValueError with one sentence if it cannot be read."""
        (kept, picture), model = read_picture(image), self.checkpoint.model
        inputs = model_input(picture, model)[None]  # [1, 3, S, S]
        return EncodedImage(picture.size, kept, remember_images(model, inputs), self.checkpoint)

    def ground(
        self, image: AnyPicture | EncodedImage | Iterable[AnyPicture | EncodedImage], phrase: str | Iterable[str]
    ) -> Any:
        """Where is `phrase`? The Grounding; of several phrases their list, of several pictures a list of that.

        Of an iterator of pictures it is an iterator, which asks for the next picture when its answer is asked for, and
        goes on behind one that was refused. One pass of each picture serves all phrases. The answer is the same inside
        `no_grad`, `inference_mode` and autocast. Raises ValueError with one sentence for a picture that cannot be read
        or was encoded by another checkpoint (of several pictures it says which, from 0), and for a phrase without
        words.
        """
        phrases = checked_phrases(phrase)
        if isinstance(image, Iterable) and not isinstance(image, SINGLE) and not hasattr(image, "read"):
            asked = phrase if isinstance(phrase, str) else phrases
            answers = map(partial(self._ground_numbered, phrase=asked), count(), image)
            return answers if isinstance(image, Iterator) else list(answers)
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        if encoded.checkpoint is not self.checkpoint:
            raise ValueError("this image was encoded by another checkpoint")
        if not phrases:
            return []
        groundings = self._ground(encoded, phrases)
        return groundings[0] if isinstance(phrase, str) else groundings

    def _ground_numbered(self, number: int, image: Any, phrase: str | Sequence[str]) -> Any:
        """`ground` of one picture among several, whose number stands before what is wrong with it."""
        try:
            return self.ground(image, phrase)
        except ValueError as error:
            kind = UnreadableImageError if isinstance(error, UnreadableImageError) else ValueError
            raise kind(f"picture {number}: {error}") from error

    def _ground(self, encoded: EncodedImage, phrases: Sequence[str]) -> list[Grounding]:
        model, tokenizer, (width, height) = self.checkpoint.model, self.checkpoint.tokenizer, encoded.size
        explanation, groundings = self.checkpoint.settings.amc.explanation, []
        positions, typed = model.settings.text.positions, [*map(as_typed, phrases)]
        for start in range(0, len(phrases), PHRASES_AT_ONCE):
            part = typed[start : start + PHRASES_AT_ONCE]
            with self._lock, evaluating(model):
                memory = encoded.memory.rows(torch.zeros(len(part), dtype=torch.long, device=model.temp.device))
                raw, scores, token_maps = ground_remembered(model, tokenizer, memory, part, self.layer, explanation)
                points = [peak(one[None], (height, width))[0].tolist() for one in raw]
            for p, (text, point) in enumerate(zip(part, points, strict=True)):
                tokens = tuple(tokenizer.tokens(text, positions))
                padding = token_maps.shape[1] / len(tokens)  # by the longest phrase: the mean runs over it as well
                maps = raw[p] * padding, token_maps[p, : len(tokens)] / len(tokens)
                said = phrases[start + p], tuple(point), float(scores[p]), unknown_words(tokenizer, text), tokens
                unread = unread_words(tokenizer, text, positions)
                groundings.append(Grounding(*said, encoded.size, encoded.picture, *maps, self.calibration, unread))
        return groundings


def best_device() -> torch.device:
    """CUDA, else MPS, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def heatmap_layer(checkpoint: Checkpoint) -> int:
    """The layer that a checkpoint names beside its weights, else that of its training."""
    return checkpoint.about.get("layer", checkpoint.settings.amc.layer)


def checked_layer(model: Backbone, layer: int) -> int:
    """The layer, of which a heatmap can be made. ValueError for any other."""
    if isinstance(layer, bool):
        raise ValueError(f"the layer must be a number, got {layer}")
    gradcam.watch_attention(model.text_encoder, layer, twice=False)
    return layer


def model_input(picture: Image.Image, model: Backbone) -> Tensor:
    """An RGB picture as the model reads it, float [3, S, S]: as its trunk was trained, or as its photographs were."""
    vision = model.settings.vision
    if vision.trunk in NETWORKS:
        return pixels(picture, vision.image_size)
    from amc_lib.datasets.transforms import to_input  # here: with the training data it imports torchvision, accelerate

    return to_input(picture, vision.image_size, model.resize)
