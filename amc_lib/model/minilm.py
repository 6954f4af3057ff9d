"""MiniLM, a real BERT of 6 layers and width 384 that comes by pip: what a text encoder can stand on.

The weights (`minilm_files`) are sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; distilled as in Wang et al.,
NeurIPS 2020, then trained on sentence pairs), in a package whose dependencies are not needed. As the image trunk, it
is frozen: its lower half reads the text, as ALBEF's text layers do, and smaller layers that train stand above it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from safetensors.torch import load
from torch import Tensor, nn

from amc_lib import minilm_files
from amc_lib.config import TextSettings
from amc_lib.model.attention import padding_scores
from amc_lib.model.text import NORM_EPS, Embeddings, Layer

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
def _tensors() -> dict[str, Tensor]:
    return load(minilm_files.weights())
