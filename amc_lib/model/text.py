"""Text and fusion layers: BERT's (Devlin et al., NAACL 2019), under the names of ALBEF's checkpoints.

Layers below `fusion_from` read the text alone; from there on each also attends to image tokens. R phrases, I images,
L text positions, N image tokens, D width, h heads of width d.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amc_lib.config import TextSettings
from amc_lib.model.attention import Attention, Watch, padding_scores
from amc_lib.model.memory import ImageMemory, Seats

NORM_EPS = 1e-12  # of BERT


class Output(nn.Module):
    """The end of each half of a layer: a linear map, dropout, the residual, layer norm."""

    def __init__(self, settings: TextSettings, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, settings.width)
        self.LayerNorm = nn.LayerNorm(settings.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class AttentionBlock(nn.Module):
    def __init__(self, settings: TextSettings, source_width: int) -> None:
        super().__init__()
        self.self = Attention(settings, source_width)
        self.output = Output(settings, settings.width)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.output(self.self(hidden, key, value, padding), hidden)

    def to_images(self, hidden: Tensor, key: Tensor, value: Tensor, seats: Seats | None) -> Tensor:
        """Without seats phrase r looks at image r."""
        seen = self.self(hidden, key, value) if seats is None else self.self.to_images(hidden, key, value, seats)
        return self.output(seen, hidden)


class Layer(nn.Module):
    """Self-attention, cross-attention to an image in a fusion layer, and a feed-forward network."""

    def __init__(self, settings: TextSettings, image_width: int | None = None) -> None:
        """image_width: of the image tokens that a fusion layer looks at; None: a text layer."""
        super().__init__()
        self.attention = AttentionBlock(settings, settings.width)
        if image_width:
            self.crossattention = AttentionBlock(settings, image_width)
        dense = nn.Linear(settings.width, settings.ffn_width)
        self.intermediate = nn.Sequential(OrderedDict(dense=dense, gelu=nn.GELU()))
        self.output = Output(settings, settings.ffn_width)

    def forward(self, hidden: Tensor, padding: Tensor, memory: ImageMemory | None = None, number: int = 0) -> Tensor:
        """hidden [R, L, D], padding [R, 1, 1, L]; a fusion layer looks at what `memory` keeps for its number."""
        hidden = self.attention(hidden, *self.attention.self.keys_and_values(hidden), padding)
        if memory is not None:
            hidden = self.crossattention.to_images(hidden, *memory.layers[number], memory.seats)
        return self.output(self.intermediate(hidden), hidden)


class Embeddings(nn.Module):
    """Word, position and (constant) token-type embeddings: int64 [B, L] -> [B, L, D]."""

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(settings.vocab_size, settings.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(settings.positions, settings.width)
        self.token_type_embeddings = nn.Embedding(2, settings.width)
        self.LayerNorm = nn.LayerNorm(settings.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)

    @property
    def decoder_weight(self) -> nn.Parameter:
        """What the word head predicts with, [V, D]."""
        return self.word_embeddings.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(input_ids))
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class WordHead(nn.Module):
    """Vocabulary logits [..., V] of [..., D], for masked language modelling."""

    def __init__(self, settings: TextSettings, width: int) -> None:
        """width: of the word embeddings, with which words are predicted."""
        super().__init__()
        dense, norm = nn.Linear(settings.width, width), nn.LayerNorm(width, eps=NORM_EPS)
        self.transform = nn.Sequential(OrderedDict(dense=dense, gelu=nn.GELU(), LayerNorm=norm))
        self.decoder = nn.Linear(width, settings.vocab_size)
        self.bias = nn.Parameter(torch.zeros(settings.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden))


class TextEncoder(nn.Module):
    """BERT split at `fusion_from`, with its masked-language-modelling head (tied to the word embeddings)."""

    def __init__(self, settings: TextSettings, image_width: int, embeddings: nn.Module | None = None) -> None:
        """`embeddings` take the place of word embeddings that are learnt from nothing."""
        super().__init__()
        embeddings = embeddings or Embeddings(settings)
        self.fusion_from = settings.fusion_from
        layers = [Layer(settings, image_width if i >= settings.fusion_from else None) for i in range(settings.layers)]
        self.bert = nn.ModuleDict({"embeddings": embeddings, "encoder": nn.Module()})
        self.bert.encoder.layer = nn.ModuleList(layers)
        self.cls = nn.ModuleDict({"predictions": WordHead(settings, embeddings.decoder_weight.shape[1])})
        self.apply(partial(initialise, std=initial_std(settings.width)))
        self.cls.predictions.decoder.weight = self.bert.embeddings.decoder_weight
        self.cls.predictions.decoder.bias = self.cls.predictions.bias
        self.checkpointing = False

    @property
    def layers(self) -> nn.ModuleList:
        return self.bert.encoder.layer

    def encode(self, words: Tensor, attention_mask: Tensor) -> Tensor:
        """Text layers: `ALBEF.read_text`'s words of R phrases and mask [R, L] -> text_embeds [R, L, D]."""
        hidden = self.bert.embeddings(words)
        padding = padding_scores(attention_mask, hidden.dtype)
        for layer in self.layers[: self.fusion_from]:
            hidden = self._run(layer, hidden, padding)
        return hidden

    def remember(self, image_embeds: Tensor) -> ImageMemory:
        """The memory of image_embeds [I, N, D]."""
        fusion = range(self.fusion_from, len(self.layers))
        return ImageMemory({i: self.layers[i].crossattention.self.keys_and_values(image_embeds) for i in fusion})

    def fuse(self, text_embeds: Tensor, attention_mask: Tensor, memory: ImageMemory) -> Tensor:
        """Fusion layers: text_embeds [R, L, D] looking at the images of `memory` -> fusion_embeds [R, L, D]."""
        hidden, padding = text_embeds, padding_scores(attention_mask, text_embeds.dtype)
        for i in range(self.fusion_from, len(self.layers)):
            hidden = self._run(self.layers[i], hidden, padding, memory, i)
        return hidden

    @contextmanager
    def watch(self, layer: int, *, twice: bool, above: bool = False) -> Iterator[Watch]:
        """Keep the cross-attention of `layer`, and of those `above`, inside; see `amc_lib.gradcam.watch_attention`.

        With `twice` all attention from there upwards is also written out; the layers below keep fused attention.
        """
        if any(isinstance(module, Attention) and module.watch for module in self.modules()):
            raise RuntimeError("the attention of this text encoder is already being watched")
        upper = self.layers[layer + 1 :]
        crossing = [one.crossattention.self for one in (self.layers[layer], *upper)]
        watched = crossing if twice or above else crossing[:1]
        if twice:
            watched = watched + [one.attention.self for one in upper]
        for attention in watched:
            attention.watch = Watch()
        crossing[0].watch.above = [attention.watch for attention in crossing[1:]] if above else ()
        try:
            yield crossing[0].watch
        finally:
            for attention in watched:
                attention.watch = None

    def predict(self, fusion_embeds: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of fusion_embeds [..., D]."""
        return self.cls.predictions(fusion_embeds)

    def _run(self, layer: Layer, *inputs: Tensor | ImageMemory | int) -> Tensor:
        """A layer whose insides, with `checkpointing`, are computed again in the backward pass instead of being kept.

        Not while any attention is watched: a heatmap is differentiated through what was kept.
        """
        watched = any(isinstance(module, Attention) and module.watch for module in self.modules())
        if self.checkpointing and torch.is_grad_enabled() and not watched:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def initial_std(width: int) -> float:
    """Standard deviation of initial weights: BERT's 0.02 at its width 768, larger for narrower layers."""
    return 0.02 * (768 / width) ** 0.5


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of the given standard deviation and zero biases, for linear layers and embeddings."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
