"""Text and fusion layers: transformers' BertLayer under ALBEF's names, with an attention function of our own.

Layers below `fusion_from` read text alone; those above also attend to image tokens. The attention function is the
single place where attention happens: it is fused unless a `Watch` asks for the probabilities or for a form that can
be differentiated twice (fused attention has no second derivative on CPU).
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertOnlyMLMHead

from amc_lib.config import TextSettings

ATTENTION = "amc_lib"
PADDING_SCORE = -10000.0  # added to the scores of padded text positions before the softmax, as in ALBEF


class Watch:
    """Attached to an attention module as `module.watch`: use plain attention there and keep its probabilities."""

    probabilities: Tensor | None = None  # [B, heads, L, N], after the softmax and before dropout


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """query [B, h, L, d], key and value [B, h, N, d], additive mask [B, 1, 1, N] or None -> ([B, L, h, d], None)."""
    watch: Watch | None = getattr(module, "watch", None)
    if watch is None:
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    else:
        scores = query @ key.transpose(-1, -2) * scaling  # [B, h, L, N]
        probabilities = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
        watch.probabilities = probabilities
        output = F.dropout(probabilities, dropout) @ value
    return output.transpose(1, 2), None  # [B, L, h, d]


AttentionInterface.register(ATTENTION, attention)


class ImageMemory:
    """Keys and values of images in every fusion layer, projected once for all passes that look at these images.

    It stands in for transformers' encoder-decoder cache: cross-attention finds its keys and values here, and what
    self-attention hands in goes back unchanged.
    """

    def __init__(self, layers: dict[int, tuple[Tensor, Tensor]]) -> None:
        self._layers = layers
        self.is_updated = dict.fromkeys(layers, True)
        slots = {i: SimpleNamespace(keys=keys, values=values) for i, (keys, values) in layers.items()}
        self.cross_attention_cache = SimpleNamespace(layers=slots)

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return key, value

    def rows(self, index: Tensor) -> ImageMemory:
        """The memory of images `index` (int64 [R]), one row for each phrase that looks at an image.

        A single image's rows are views of it: at base size a copy for each of 14 phrases costs a tenth of pointing.
        """
        picked = {}
        for i, (keys, values) in self._layers.items():
            one = len(keys) == 1
            picked[i] = tuple(t.expand(len(index), -1, -1, -1) if one else t[index] for t in (keys, values))
        return ImageMemory(picked)

    def tokens(self, image: Tensor, token: Tensor) -> ImageMemory:
        """The memory of one token each: token `token[r]` of image `image[r]`, int64 [R] both."""
        return ImageMemory(
            {
                i: (
                    keys[image, :, token][:, :, None],
                    values[image, :, token][:, :, None],
                )  # [I, h, N, d] -> [R, h, 1, d]
                for i, (keys, values) in self._layers.items()
            }
        )


class TextEncoder(nn.Module):
    """BERT split at `fusion_from`, with its masked-language-modelling head (tied to the word embeddings)."""

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.fusion_from = settings.fusion_from
        plain, fusion = _bert_config(settings, fusion=False), _bert_config(settings, fusion=True)
        layers = [BertLayer(plain if i < self.fusion_from else fusion, layer_idx=i) for i in range(settings.layers)]
        self.bert = nn.Module()
        self.bert.embeddings = BertEmbeddings(plain)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(layers)
        self.cls = BertOnlyMLMHead(plain)
        self.apply(partial(initialise, std=initial_std(settings.width)))
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        self.cls.predictions.decoder.bias = self.cls.predictions.bias
        self.checkpointing = False

    @property
    def layers(self) -> nn.ModuleList:
        return self.bert.encoder.layer

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Text layers: int64 [B, L] and mask [B, L] -> text_embeds [B, L, D]."""
        hidden = self.bert.embeddings(input_ids)
        padding = _additive(attention_mask, hidden.dtype)
        for layer in self.layers[: self.fusion_from]:
            hidden = self._run_layer(layer, hidden, padding)
        return hidden

    def remember(self, image_embeds: Tensor) -> ImageMemory:
        """Keys and values of image_embeds [B, N, D] in each fusion layer, [B, heads, N, D/heads] each."""
        memory = {}
        for i in range(self.fusion_from, len(self.layers)):
            cross = self.layers[i].crossattention.self
            shape = (*image_embeds.shape[:2], cross.num_attention_heads, cross.attention_head_size)
            keys = cross.key(image_embeds).view(shape).transpose(1, 2)  # [B, N, D] -> [B, h, N, d]
            values = cross.value(image_embeds).view(shape).transpose(1, 2)
            memory[i] = (keys, values)
        return ImageMemory(memory)

    def fuse(self, text_embeds: Tensor, attention_mask: Tensor, memory: ImageMemory) -> Tensor:
        """Fusion layers: text_embeds [B, L, D] looking at the images of `memory` (B rows) -> [B, L, D]."""
        hidden, padding = text_embeds, _additive(attention_mask, text_embeds.dtype)
        for layer in self.layers[self.fusion_from :]:
            hidden = self._run_layer(layer, hidden, padding, encoder_hidden_states=hidden, past_key_values=memory)
        return hidden

    def _run_layer(self, layer: nn.Module, hidden: Tensor, padding: Tensor, **fusion: object) -> Tensor:
        """A layer; where asked for, its insides are computed again in the backward pass instead of being kept.

        Not while any layer is being watched: a heatmap is differentiated through what was kept.
        """
        if self.checkpointing and torch.is_grad_enabled() and not any(hasattr(m, "watch") for m in self.modules()):
            return checkpoint(layer, hidden, padding, use_reentrant=False, **fusion)
        return layer(hidden, padding, **fusion)

    def predict(self, fusion_embeds: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of fusion_embeds [..., D]."""
        return self.cls(fusion_embeds)


def _additive(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    return (1 - attention_mask[:, None, None, :].to(dtype)) * PADDING_SCORE  # [B, L] -> [B, 1, 1, L]


def _bert_config(settings: TextSettings, *, fusion: bool) -> BertConfig:
    return BertConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.width,
        num_attention_heads=settings.heads,
        intermediate_size=settings.ffn_width,
        max_position_embeddings=settings.positions,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        is_decoder=fusion,
        add_cross_attention=fusion,
        attn_implementation=ATTENTION,
    )


def initial_std(width: int) -> float:
    """Standard deviation of initial weights: BERT's 0.02 at its width 768, larger for narrower layers."""
    return 0.02 * (768 / width) ** 0.5


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of the given standard deviation and zero biases, for linear layers and embeddings."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
