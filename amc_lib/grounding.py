"""The answer to a phrase: point, score, heatmap, mask and box, in pixels of the picture, and if it has a meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amc_lib import gradcam
from amc_lib.files import atomic_file
from amc_lib.overlay import heat_overlay, ring
from amc_lib.phrases import as_typed, says_nothing
from amc_lib.pictures import Kept, read_again

PNG_LEVEL = 1  # of compression: an overlay is written in less than half the time, and a quarter larger


@dataclass(frozen=True)
class Calibration:
    """Thresholds of a checkpoint, chosen on validation phrases (`amc_study.calibrate`); without that, those below."""

    box: float = 0.5  # share of the heatmap's maximum from which on a place belongs to mask and box
    present: float | None = None  # the score from which on a phrase is said to be in the picture
    missed: float | None = None  # share of phrases that are there whose score lies below it
    false_alarms: float | None = None  # share of absent phrases (things of a type not in the picture) that reach it


@dataclass(frozen=True, eq=False)
class Grounding:
    """The answer to one phrase about one picture.

    A point is always given, also where `score` says "no match" and where the phrase is `unknown`: ask that first.
    Answers are small: of a picture that came by its path they keep that alone, and of another file its bytes, and read
    it again where it is shown.
    """

    phrase: str
    point: tuple[int, int]  # (x, y), pixels of the picture: the heatmap's peak
    score: float  # probability that picture and phrase match, [0, 1]
    unknown_words: tuple[str, ...]  # of the phrase, which the checkpoint's vocabulary does not hold
    tokens: tuple[str, ...]  # of the phrase, [CLS] and [SEP] included
    size: tuple[int, int]  # (width, height) of the picture
    picture: Kept = field(repr=False)  # where it lies or its file's bytes; else the picture, RGB and upright
    raw: Tensor = field(repr=False)  # float [G, G] >= 0: the heatmap before normalising and upsampling
    token_maps: Tensor = field(repr=False)  # float [L, G, G] >= 0: the L tokens' shares in `raw`, which is their sum
    calibration: Calibration = field(default=Calibration(), repr=False)
    unread_words: tuple[str, ...] = ()  # at the end of a phrase longer than the model reads

    @property
    def image(self) -> Image.Image:
        """The picture, RGB and upright. ValueError with one sentence where its file is gone or another one's."""
        return read_again(self.picture, self.size)

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
        return says_nothing(as_typed(self.phrase), self.unknown_words)

    @property
    def heatmap(self) -> np.ndarray:
        """float32 [H, W] in [0, 1], of the picture's size; computed at each access, so that answers stay small."""
        with torch.autocast(self.raw.device.type, enabled=False):
            enlarged = gradcam.upsample(self.raw[None], self.size[::-1], "bicubic")
        return gradcam.normalise(enlarged.clamp(min=0))[0].numpy()

    def mask(self, threshold: float | None = None) -> np.ndarray:
        """bool [H, W]: where the heatmap is at least `threshold` of its maximum; all of it where it is zero.

        The threshold is by default that of `calibration`. ValueError for one outside (0, 1].
        """
        threshold = self.calibration.box if threshold is None else threshold
        if not isinstance(threshold, Real) or not 0 < threshold <= 1:
            raise ValueError(f"the threshold of a box must be a number in (0, 1], got {threshold!r:.80}")
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


def box_around(mask: np.ndarray, point: tuple[int, int]) -> tuple[int, int, int, int]:
    """xyxy (exclusive edges) of the connected part of a mask, bool [H, W], that holds the point (x, y)."""
    from scipy.ndimage import find_objects, label  # here: it takes long to import

    parts, _ = label(mask)  # neighbours share an edge
    x, y = point
    rows, columns = find_objects(parts)[parts[y, x] - 1]
    return columns.start, rows.start, columns.stop, rows.stop
