"""Grounder: type a phrase, see where the model looks. The library's front door."""

from __future__ import annotations

import io
import string
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amc_lib import gradcam
from amc_lib.checkpoints import Checkpoint, load_checkpoint
from amc_lib.datasets.image_files import Picture, read_image
from amc_lib.evaluate import evaluating, ground_remembered, peak, remember_images
from amc_lib.files import atomic_file
from amc_lib.model import Backbone, Memory
from amc_lib.model.trunk import NETWORKS, pixels
from amc_lib.official import first_sentence
from amc_lib.overlay import heat_overlay, ring
from amc_lib.presets import DEFAULT_CHECKPOINT
from amc_lib.tokens import Tokenizer, clean

PNG_LEVEL = 1  # of compression: an overlay is written in less than half the time, and a quarter larger
PHRASES_AT_ONCE = 32  # of one picture: more take no more memory
ARTICLES = {"a", "an", "the"}  # words that alone ask for nothing
AnyPicture = Picture | bytes | Mapping[str, Any]  # the latter {"bytes": ..., "path": ...}, one of which may be None
SINGLE = str | bytes | Mapping | np.ndarray | Tensor  # what is iterable and yet no list of pictures
SEEN = {  # by tier: what its pictures show
    "scenes": "drawn scenes of pictograms",
    "photos": "photographs of daily life: people, dogs, streets, sports, play",
    "paper": "photographs of all kinds",
}


@dataclass(frozen=True)
class Calibration:
    """Thresholds of a checkpoint, chosen on validation phrases (`amc_study.calibrate`); without that, those below."""

    box: float = 0.5  # share of the heatmap's maximum from which on a place belongs to mask and box
    present: float | None = None  # the score from which on a phrase is said to be in the picture
    missed: float | None = None  # share of phrases that are there whose score lies below it
    false_alarms: float | None = None  # share of absent phrases (things of a type not in the picture) that reach it


@dataclass(frozen=True)
class Grounding:
    """The answer to one phrase about one picture.

    A point is always given, also where `score` says "no match" and where the phrase is `unknown`: ask that first.
    """

    phrase: str
    point: tuple[int, int]  # (x, y), pixels of the picture: the heatmap's peak
    score: float  # probability that picture and phrase match, [0, 1]
    unknown_words: tuple[str, ...]  # of the phrase, which the checkpoint's vocabulary does not hold
    tokens: tuple[str, ...]  # of the phrase, [CLS] and [SEP] included
    image: Image.Image = field(repr=False)  # RGB, upright
    raw: Tensor = field(repr=False)  # float [G, G] >= 0: the heatmap before normalising and upsampling
    token_maps: Tensor = field(repr=False)  # float [L, G, G] >= 0: the L tokens' shares in `raw`, which is their sum
    calibration: Calibration = field(default=Calibration(), repr=False)

    @property
    def present(self) -> bool | None:
        """Is it in the picture at all? None where that was not calibrated, and for an unknown phrase.

        It errs at two rates, measured on the validation pictures (Flickr30k's for `amc-photos`) and stored beside the
        weights (`about.calibration` in checkpoint.json; here in `calibration`): the share `missed` of phrases whose
        thing is in the picture get False, and the share `false_alarms` of phrases for a type of thing that is not in it
        get True. On other pictures they may differ.
        """
        return None if self.calibration.present is None or self.unknown else self.score >= self.calibration.present

    @property
    def unknown(self) -> bool:
        """Whether the checkpoint knows no word of the phrase but articles: then the answer has no meaning."""
        words = {word for word in clean(self.phrase).split() if any(map(str.isalnum, word))}
        return words <= {*self.unknown_words, *ARTICLES}

    @property
    def heatmap(self) -> np.ndarray:
        """float32 [H, W] in [0, 1], of the picture's size; computed at each access, so that answers stay small."""
        with torch.autocast(self.raw.device.type, enabled=False):
            enlarged = gradcam.upsample(self.raw[None], (self.image.height, self.image.width), "bicubic")
        return gradcam.normalise(enlarged.clamp(min=0))[0].numpy()

    def mask(self, threshold: float | None = None) -> np.ndarray:
        """bool [H, W]: where the heatmap is at least `threshold` of its maximum; all of it where it is zero.

        The threshold is by default that of `calibration`. ValueError for one outside (0, 1].
        """
        threshold = self.calibration.box if threshold is None else threshold
        if not 0 < threshold <= 1:
            raise ValueError(f"the threshold of a box must lie in (0, 1], got {threshold}")
        heatmap = self.heatmap
        return heatmap >= threshold * heatmap.max()

    def box(self, threshold: float | None = None) -> tuple[int, int, int, int]:
        """The box around the peak, xyxy in pixels of the picture (x2, y2 exclusive edges).

        It bounds that connected part of `mask` in which the point lies. ValueError for a threshold outside (0, 1].
        """
        return box_around(self.mask(threshold), self.point)

    def overlay(self) -> Image.Image:
        """The picture under its heatmap, with a ring around the point."""
        return ring(Image.fromarray(heat_overlay(self.image, self.heatmap)), self.point)

    def save(self, path: str | Path) -> None:
        """Write the answer whole: as NumPy's .npz (heatmap, point, box, score), or the overlay in a picture's format.

        ValueError for an ending that is neither.
        """
        path = Path(path).expanduser()
        ending, kind = path.suffix.lower(), Image.registered_extensions().get(path.suffix.lower())
        if ending != ".npz" and kind not in Image.SAVE:
            raise ValueError(f"{path}: the ending must be .npz or that of a picture, such as .png")
        with atomic_file(path) as file:
            if ending == ".npz":
                np.savez_compressed(file, heatmap=self.heatmap, point=self.point, box=self.box(), score=self.score)
            else:
                self.overlay().save(file, kind, compress_level=PNG_LEVEL)  # which other formats do not read


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a checkpoint has read it, kept between phrases."""

    picture: Image.Image  # RGB, upright; groundings are in its pixels
    memory: Memory = field(repr=False)  # of one image, for every fusion layer
    checkpoint: Checkpoint = field(repr=False)  # the one that read it


class Grounder:
    """A checkpoint ready for questions. Pictures of any size are read as RGB and brought to the model's square input.

    The default, `amc-photos`, was trained on photographs of daily life (Flickr8k, for research). The checkpoints of the
    scenes tier (`amc-scenes`) know drawn pictograms and some hundred words; on photographs their answers mean nothing.
    """

    def __init__(self, checkpoint: Checkpoint, layer: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.layer = heatmap_layer(checkpoint) if layer is None else layer
        self.calibration = Calibration(**checkpoint.about.get("calibration", {}))
        self._lock = threading.Lock()  # JupyterLab handles widgets in a thread beside the cells

    @classmethod
    def load(
        cls, source: str | Path = DEFAULT_CHECKPOINT, layer: int | None = None, device: str | torch.device = "auto"
    ) -> Grounder:
        """Load a run's folder, a shipped checkpoint by name, an official .pth, or a BLIP as transformers saves it.

        `layer` overrides its own layer. device "auto": CUDA, else Apple's MPS, else the processor. ValueError with one
        sentence for a source that cannot be loaded and for a device that is not here.
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
        picture, model = read_image(file_of(image)), self.checkpoint.model
        inputs = model_input(picture, model)[None]  # [1, 3, S, S]
        return EncodedImage(picture, remember_images(model, inputs), self.checkpoint)

    def ground(
        self, image: AnyPicture | EncodedImage | Iterable[AnyPicture | EncodedImage], phrase: str | Iterable[str]
    ) -> Any:
        """Where is `phrase`? The Grounding; of several phrases their list, of several pictures a list of that.

        One pass of each picture serves all phrases. The answer is the same inside `no_grad`, `inference_mode` and
        autocast. Raises ValueError with one sentence for a picture that cannot be read or was encoded by another
        checkpoint, and for a phrase without words.
        """
        phrases = checked_phrases(phrase)
        if isinstance(image, Iterable) and not isinstance(image, SINGLE) and not hasattr(image, "read"):
            return [self.ground(one, phrase if isinstance(phrase, str) else phrases) for one in image]
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        if encoded.checkpoint is not self.checkpoint:
            raise ValueError("this image was encoded by another checkpoint")
        if not phrases:
            return []
        groundings = self._ground(encoded, phrases)
        return groundings[0] if isinstance(phrase, str) else groundings

    def _ground(self, encoded: EncodedImage, phrases: Sequence[str]) -> list[Grounding]:
        model, tokenizer, picture = self.checkpoint.model, self.checkpoint.tokenizer, encoded.picture
        explanation, groundings = self.checkpoint.settings.amc.explanation, []
        for start in range(0, len(phrases), PHRASES_AT_ONCE):
            part = phrases[start : start + PHRASES_AT_ONCE]
            with self._lock, evaluating(model):
                memory = encoded.memory.rows(torch.zeros(len(part), dtype=torch.long, device=model.temp.device))
                raw, scores, token_maps = ground_remembered(model, tokenizer, memory, part, self.layer, explanation)
                points = [peak(one[None], (picture.height, picture.width))[0].tolist() for one in raw]
            for p, (text, point) in enumerate(zip(part, points, strict=True)):
                tokens = tuple(tokenizer.tokens(text, model.settings.text.positions))
                shares = token_maps[p, : len(tokens)] / token_maps.shape[1]  # their sum is raw[p]
                unknown = unknown_words(tokenizer, text)
                maps = raw[p].clone(), shares.clone()
                answer = text, tuple(point), float(scores[p]), unknown, tokens, picture, *maps, self.calibration
                groundings.append(Grounding(*answer))
        return groundings


def file_of(image: AnyPicture) -> Picture:
    """Bytes of a picture's file, also as the library `datasets` holds them, as an open file; others as they are."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    return io.BytesIO(image) if isinstance(image, bytes) else image


def box_around(mask: np.ndarray, point: tuple[int, int]) -> tuple[int, int, int, int]:
    """xyxy (exclusive edges) of the connected part of a mask, bool [H, W], that holds the point (x, y)."""
    from scipy.ndimage import find_objects, label  # here: it takes long to import

    parts, _ = label(mask)  # neighbours share an edge
    x, y = point
    rows, columns = find_objects(parts)[parts[y, x] - 1]
    return columns.start, rows.start, columns.stop, rows.stop


def best_device() -> torch.device:
    """CUDA, else MPS, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def heatmap_layer(checkpoint: Checkpoint) -> int:
    """The layer that a checkpoint names beside its weights, else that of its training."""
    return checkpoint.about.get("layer", checkpoint.settings.amc.layer)


def unknown_words(tokenizer: Tokenizer, phrase: str) -> tuple[str, ...]:
    """Words in other letters than Latin ones, those that are [UNK], and those that are spelled letter by letter.

    Spelled is what begins with a single letter, or has two or more behind its beginning: "surfer ##s" is known.

    A vocabulary may hold other scripts, as BERT's does; captions in English never taught what they mean. Signs are
    words as well, marks of punctuation are not.
    """
    words = [word for word in clean(phrase).split() if not all(unicodedata.category(c)[0] == "P" for c in word)]
    return tuple(word for word in words if not _is_known(tokenizer, word))


def _is_known(tokenizer: Tokenizer, word: str) -> bool:
    word = word.strip("".join(c for c in word if unicodedata.category(c)[0] == "P" or c in string.punctuation))
    if not word or any(c.isalpha() and "LATIN" not in unicodedata.name(c, "") for c in word):
        return False
    _, *pieces, _ = tokenizer.tokens(word)  # between [CLS] and [SEP]
    letters = pieces[1:] and all(len(piece) == len("##x") for piece in pieces[1:])
    spelled = letters and (len(pieces[0]) == 1 or len(pieces) > 2)
    return pieces[:1] not in ([], ["[UNK]"]) and not spelled


def checked_phrases(phrase: str | Iterable[str]) -> list[str]:
    """One phrase or several as a list. Raises ValueError for one that is not text or has no words."""
    phrases = [phrase] if isinstance(phrase, str) or not isinstance(phrase, Iterable) else list(phrase)
    for text in phrases:
        if not isinstance(text, str):
            raise ValueError(f"a phrase must be text, got {text!r:.80}")
        clean(text)
    return phrases


def model_input(picture: Image.Image, model: Backbone) -> Tensor:
    """An RGB picture as the model reads it, float [3, S, S]: as its trunk was trained, or as its photographs were."""
    vision = model.settings.vision
    if vision.trunk in NETWORKS:
        return pixels(picture, vision.image_size)
    from amc_lib.datasets.transforms import to_input  # here: with the training data it imports torchvision, accelerate

    return to_input(picture, vision.image_size, model.resize)
