"""Models behind one interface: what heatmap, loss, evaluation and `Grounder` ask of a backbone.

`ALBEF(settings)` and `blip.BLIP(settings)` have the settings' sizes and random weights. A third backbone brings what
`Backbone`, its `Encoder` and the `Memory` of its images name; a test of it can follow tests/test_blip.py. What it must
be able to do: read a phrase *looking at* an image through cross-attention, layer by layer, give the probabilities of
that attention inside the graph, and give a match logit above it. With those, L_amc trains it
(`step.losses_without_words`). A model of two towers alone (CLIP) has no cross-attention: phrase and image meet in one
cosine, so there is no attention of words to places that a gradient could weigh; it can rank images, not point. I
images, R phrases, L text positions, N = G * G + 1 image tokens (the first is no place), D width, E contrastive width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from amc_lib.config import ModelSettings
from amc_lib.model.albef import ALBEF
from amc_lib.model.attention import Watch

__all__ = ["ALBEF", "Backbone", "Encoder", "Memory", "build_model"]


class Memory(Protocol):
    """What is kept of I images for all phrases that look at them."""

    def rows(self, image_rows: Tensor) -> Memory:
        """The same for R phrases: int64 [R], the image of each; before, phrase r looks at image r."""
        ...


class Encoder(Protocol):
    """Text layers, and from `fusion_from` on layers that look at the image."""

    fusion_from: int
    layers: Sequence[nn.Module]

    def remember(self, image_embeds: Tensor) -> Memory:
        """Of image_embeds [I, N, D]."""
        ...

    def fuse(self, text_embeds: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        """text_embeds [R, L, D], mask [R, L] -> fusion_embeds [R, L, D]."""
        ...

    def watch(self, layer: int, *, twice: bool, above: bool = False) -> AbstractContextManager[Watch]:
        """Inside the block `Watch.probabilities` [R, h, L, N] are those of the layer's cross-attention, last pass.

        With `above`, `Watch.above` holds those of the layers above it in order. With `twice` what is computed from them
        can be differentiated twice.
        """
        ...


class Backbone(Protocol):
    """A model (nn.Module) with these attributes and methods."""

    settings: ModelSettings  # image side, sizes, text positions
    resize: str  # how a photograph becomes its input (`amc_lib.datasets.transforms.Resize`)
    temp: nn.Parameter  # temperature of the contrast
    text_encoder: Encoder
    itm_head: nn.Linear  # D -> 2, what `match` applies to position 0

    def encode_image(self, image: Tensor) -> Tensor:
        """Normalised pixels [I, 3, S, S] -> image_embeds [I, N, D]."""
        ...

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [R, L] both -> text_embeds [R, L, D], what `fuse` reads."""
        ...

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """-> [I, E] of unit length."""
        ...

    def text_features(self, text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """-> [R, E] of unit length."""
        ...

    def match(self, fusion_embeds: Tensor) -> Tensor:
        """-> itm_logits [R, 2]; column 1 is "match"."""
        ...


def build_model(settings: ModelSettings) -> ALBEF | Backbone:
    """The model of the settings' backbone."""
    if settings.backbone == "albef":
        return ALBEF(settings)
    from amc_lib.model.blip import BLIP  # here: transformers takes long to import

    return BLIP(settings)
