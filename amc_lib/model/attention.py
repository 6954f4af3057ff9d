"""Attention of text positions to tokens of the text or of images, which can be watched and differentiated twice.

R phrases, I images, L text positions, N tokens, D width, h heads of width d.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_lib.config import TextSettings
from amc_lib.model.memory import Seats, take_rows

PADDING_SCORE = -10000.0  # added to the scores of padded text positions before the softmax, as in ALBEF


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


def padding_scores(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 for words, `PADDING_SCORE` for padding; mask [R, L]."""
    return (1 - attention_mask[:, None, None, :].to(dtype)) * PADDING_SCORE  # [R, L] -> [R, 1, 1, L]
