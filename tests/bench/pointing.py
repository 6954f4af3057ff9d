"""Pointing with the model of base size: all phrases of an image at once, against one after the other."""

from __future__ import annotations

import numpy as np
import torch

from amc_lib.config import Settings
from amc_lib.evaluate import ground_phrases, peak
from amc_lib.model import ALBEF
from amc_lib.tokens import CHARACTERS, SPECIAL, Tokenizer
from tests.bench.measure import DEVICE, Row, alternating, ratios, row
from tests.plain_pointing import one_by_one

THINGS = ("man", "dog", "umbrella", "taxi", "door", "hat", "crowd")
PHRASES = [f"{words} {thing}" for words in ("a red", "the big") for thing in THINGS]
PICTURE = (333, 500)  # height and width to which heatmaps are brought, pixels


class Pointer:
    """A model of random weights that points at PHRASES in one random image."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self.model, self.layer = ALBEF(settings.model).to(DEVICE).eval(), settings.amc.layer
        words = sorted({word for phrase in PHRASES for word in phrase.split()} - set(CHARACTERS))
        vocabulary = [*SPECIAL, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *words]
        self.tokens = Tokenizer(vocabulary, settings.model.text.max_tokens)
        self.image = torch.randn(1, 3, *[settings.model.vision.image_size] * 2).to(DEVICE)

    def together(self) -> torch.Tensor:
        """Raw heatmaps [P, G, G], the image read once and one backward pass for all phrases."""
        rows = [0] * len(PHRASES)
        return ground_phrases(self.model, self.tokens, self.image, PHRASES, rows, self.layer)[0]

    def alone(self) -> torch.Tensor:
        """The same, each phrase by itself from the pixels on."""
        asked = (self.model, self.tokens, self.image)
        return torch.stack([one_by_one(*asked, phrase, self.layer)[0] for phrase in PHRASES])


def points(heatmaps: torch.Tensor) -> np.ndarray:
    """(x, y) [P, 2] in PICTURE."""
    return peak(heatmaps.cpu(), PICTURE)


def pointing_rows(settings: Settings, rounds: int) -> list[Row]:
    """Phrases a second both ways, their ratio, and how many of the points are the same."""
    pointer = Pointer(settings)
    equal = (points(pointer.together()) == points(pointer.alone())).all(1).mean()
    calls = {"plain": lambda: points(pointer.alone()), "fast": lambda: points(pointer.together())}
    seconds = alternating(calls, rounds)
    return [
        row("evaluation_phrases_per_second", [len(PHRASES) / s for s in seconds["fast"]], "phrases/s"),
        row("evaluation_phrases_per_second_plain", [len(PHRASES) / s for s in seconds["plain"]], "phrases/s"),
        row("evaluation_speedup", ratios(seconds, "plain", "fast"), "times"),
        row("evaluation_points_equal", 100 * float(equal), "%"),
    ]
