"""A grounder of random weights, small enough to answer at once, and a picture to ask it about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reference_cases import TINY_AMC, tiny_model, tiny_settings

from amc_lib.checkpoints import save_checkpoint
from amc_lib.config import SceneSettings, Settings, TrainingSettings
from amc_lib.presets import preset
from amc_lib.tokens import SPECIAL, Tokenizer

WIDTH, HEIGHT = 60, 40  # of `ramp`
PHRASES = ["w1 w2", "w3", "w4 w5 w6"]


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A tower over the Lite0 trunk with random weights, and scenes small enough to be drawn at once."""
    training = TrainingSettings(batch_size=8)
    settings = Settings(
        "scenes", tiny_settings("lite0"), preset("scenes").objective, TINY_AMC, training, training,
        scenes=SceneSettings(size=96, referring_b=3),
    )  # fmt: skip
    tokenizer = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)
    return save_checkpoint(folder, tiny_model(torch.float32, seed, trunk="lite0"), tokenizer, settings, {})


def ramp() -> Image.Image:
    """Wider than high; bright from left to right with a dark block, so that no two corners look alike."""
    values = np.linspace(0, 255, WIDTH)[None, :, None] * np.array([1.0, 0.5, 0.2]) + np.zeros((HEIGHT, 1, 1))
    values[25:35, 5:20] = 20
    return Image.fromarray(values.astype(np.uint8))
