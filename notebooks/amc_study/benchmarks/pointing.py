"""Evaluation's speed: all phrases of an image at once, against one phrase after the other with a full backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from amc_lib.config import Settings
from amc_lib.evaluate import ground_phrases, peak
from amc_lib.model import ALBEF, build
from amc_lib.tokens import CHARACTERS, SPECIAL, Tokenizer
from amc_study.benchmarks.plain import plain_form
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import device, ratio, side_by_side, spread

PHRASES = [
    "the man", "a red umbrella", "woman in a blue coat", "the second dog from the fence", "a child", "grass",
    "two men on bikes", "a yellow taxi", "the street", "an old wooden door", "a hat", "her left hand", "the crowd",
    "a black cat on a table",
]  # fmt: skip
PICTURE = (333, 500)  # height and width to which heatmaps are brought, pixels


def base_model(settings: Settings) -> ALBEF:
    """Random weights of seed 0, ready to answer."""
    torch.manual_seed(0)
    return build(settings.model).to(device()).eval()


def tokenizer(settings: Settings) -> Tokenizer:
    """As many tokens as the model has, the words of `PHRASES` among them."""
    words = sorted({word for phrase in PHRASES for word in phrase.split()})
    known = [*SPECIAL, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *(w for w in words if w not in CHARACTERS)]
    unused = settings.model.text.vocab_size - len(known)
    return Tokenizer([*known, *(f"[unused{i}]" for i in range(unused))], settings.model.text.max_tokens)


def random_image(settings: Settings) -> Tensor:
    """Normalised pixels [1, 3, S, S]."""
    side = settings.model.vision.image_size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device())


def phrases(count: int) -> list[str]:
    return list(islice(cycle(PHRASES), count))


class Pointer:
    """A model that points at phrases in one image: `at_once`, or `one_by_one` as the tests' plain loop does."""

    def __init__(self, settings: Settings) -> None:
        self.model, self.tokens, self.image = base_model(settings), tokenizer(settings), random_image(settings)
        self.layer = settings.amc.layer

    def at_once(self, asked: Sequence[str]) -> np.ndarray:
        """Points (x, y), int [P, 2]."""
        raw, _ = ground_phrases(self.model, self.tokens, self.image, asked, [0] * len(asked), self.layer)
        return peak(raw, PICTURE)

    def one_by_one(self, asked: Sequence[str]) -> np.ndarray:
        """The same points, each phrase on its own from the pixels on."""
        heatmap = plain_form("plain_pointing").one_by_one
        alone = [heatmap(self.model, self.tokens, self.image, phrase, self.layer) for phrase in asked]
        return np.concatenate([peak(raw[None].cpu(), PICTURE) for raw in alone])


def pointing_rows(plan: Plan) -> list[Row]:
    """Phrases a second both ways, their ratio, and how many of the points agree."""
    pointer = Pointer(plan.model)
    agree = (pointer.at_once(PHRASES) == pointer.one_by_one(PHRASES)).all(1).mean()
    forms = {"plain": lambda: pointer.one_by_one(PHRASES), "fast": lambda: pointer.at_once(PHRASES)}
    seconds = side_by_side(forms, plan.repetitions, plan.warm_up)
    rates = {form: spread([len(PHRASES) / s for s in own]) for form, own in seconds.items()}
    return [
        row("evaluation_phrases_per_second", rates["fast"], "phrases/s"),
        row("evaluation_phrases_per_second_plain", rates["plain"], "phrases/s"),
        row("evaluation_speedup", ratio(seconds, "plain", "fast"), "times"),
        row("evaluation_points_equal", 100 * float(agree), "%"),
    ]
