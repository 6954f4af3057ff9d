"""A tiny BLIP with random weights, also as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertTokenizer

from amc_lib.config import ModelSettings, TextSettings, VisionSettings
from amc_lib.model.blip import BLIP
from amc_lib.tokens import word_vocabulary

WORDS = word_vocabulary(["dog", "red"])  # all but [DEC] and [ENC], which stand last
SETTINGS = ModelSettings(
    backbone="blip",
    vision=VisionSettings(image_size=16, patch_size=4, width=24, depth=1, heads=2),
    text=TextSettings(
        len(WORDS) + 2, 24, layers=3, fusion_from=0, heads=2, ffn_width=32, positions=24, dropout=0, max_tokens=24
    ),
    embed_dim=8,
    queue_size=0,
)


def tiny_blip() -> BLIP:
    """Weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = BLIP(SETTINGS)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.ndim > 1):
            parameter.normal_(std=0.3)
    return model.train()


def save_blip(folder: Path) -> str:
    """The model with its tokenizer in a folder; returns its path."""
    tiny_blip().blip.save_pretrained(folder)
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    return str(folder)
