"""Text and fusion layers: BERT's (Devlin et al., NAACL 2019), under the names of ALBEF's checkpoints.

Layers below `fusion_from` read the text alone; from there on each also attends to image tokens. R phrases, I images,
L text positions, N image tokens, D width, h heads of width d.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amc_lib.config import TextSettings
from amc_lib.model.memory import ImageMemory, Seats, take_rows

PADDING_SCORE = -10000.0  # added to the scores of padded text positions before the softmax, as in ALBEF
NORM_EPS = 1e-12  # of BERT


class Watch:
    """The probabilities of an attention while it is watched (`amc_lib.gradcam.watch_attention`)."""

    probabilities: Tensor | None = None  # [R, h, L, N], after the softmax and before dropout
    above: Sequence[Watch] = ()  # of the cross-attention of the layers above, where asked for


class Attention(nn.Module):
    """Attention of text positions to tokens, in h heads.

    Fused, unless a `Watch` is attached: then written out, which keeps the probabilities and can be differentiated
    twice (fused attention has no second derivative).
    """

    def __init__(self, settings: TextSettings, source_width: int) -> None:
        """source_width: of the tokens that are looked at."""
        super().__init__()
        self.heads = settings.heads
        self.query = nn.Linear(settings.width, settings.width)
        self.key = nn.Linear(source_width, settings.width)
        self.value = nn.Linear(source_width, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.watch: Watch | None = None

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens [B, N, D], both [B, h, N, d]."""
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
        """hidden [R, L, D] attends to N tokens: key, value [R, h, N, d], padding [R, 1, 1, N] added to its scores."""
        query = self._split(self.query(hidden))  # [R, h, L, d]
        if self.watch is None:
            attended = F.scaled_dot_product_attention(query, key, value, padding, self._dropout)
        else:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # [R, h, L, N]
            self.watch.probabilities = (scores if padding is None else scores + padding).softmax(-1)
            attended = self.dropout(self.watch.probabilities) @ value
        return attended.transpose(1, 2).flatten(2)  # [R, h, L, d] -> [R, L, D]

    def to_images(self, hidden: Tensor, key: Tensor, value: Tensor, seats: Seats) -> Tensor:
        """The same to the tokens of images, key, value [I, h, N, d], of which phrase r looks at one: its seat says.

        The phrases of an image read its keys side by side, so that these are not copied for each.
        """
        copied, seated = len(hidden) * key.shape[2], len(key) * seats.of_each * hidden.shape[1]  # rows of width D
        if self.watch is not None or copied <= seated:
            return self(hidden, take_rows(key, seats.image_rows), take_rows(value, seats.image_rows))
        query = self.query(hidden)  # [R, L, D]
        query = query.new_zeros(len(key) * seats.of_each, *query.shape[1:]).index_copy(0, seats.numbers, query)
        query = self._split(query.unflatten(0, (len(key), -1)).flatten(1, 2))  # [I * m, L, D] -> [I, h, m * L, d]
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self._dropout)
        attended = attended.transpose(1, 2).flatten(2).unflatten(1, (seats.of_each, -1))  # -> [I, m, L, D]
        return take_rows(attended.flatten(0, 1), seats.numbers)  # [R, L, D]

    @property
    def _dropout(self) -> float:
        return self.dropout.p if self.training else 0.0

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, N, D] -> [B, h, N, d]


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


def padding_scores(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 for words, `PADDING_SCORE` for padding; mask [R, L]."""
    return (1 - attention_mask[:, None, None, :].to(dtype)) * PADDING_SCORE  # [R, L] -> [R, 1, 1, L]


def initial_std(width: int) -> float:
    """Standard deviation of initial weights: BERT's 0.02 at its width 768, larger for narrower layers."""
    return 0.02 * (768 / width) ** 0.5


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of the given standard deviation and zero biases, for linear layers and embeddings."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
