"""Match scores without heatmaps: which of many images and texts belong together, by the match head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer


@contextmanager
def evaluating(model: ALBEF) -> Iterator[None]:
    """Inside the block the model is in evaluation mode and nothing is recorded for gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def match_probabilities(model: ALBEF, tokenizer: Tokenizer, inputs: Tensor, phrase: str) -> Tensor:
    """[n]: the probability that `phrase` matches each of n inputs (pixels or what the trunk makes of them)."""
    with evaluating(model):
        image_embeds = model.encode_image(inputs.to(model.temp.device))
        rows = torch.arange(len(inputs))
        return pair_probabilities(model, image_embeds, *encode_phrases(model, tokenizer, [phrase]), rows, rows * 0)


def encode_phrases(model: ALBEF, tokenizer: Tokenizer, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
    """text_embeds [P, L, D] and their mask [P, L]."""
    device = model.temp.device
    input_ids, text_mask = (tensor.to(device) for tensor in tokenizer(phrases, model.settings.text.positions))
    return model.encode_text(input_ids, text_mask), text_mask


def pair_probabilities(
    model: ALBEF,
    image_embeds: Tensor,
    text_embeds: Tensor,
    text_mask: Tensor,
    image_rows: Tensor,
    text_rows: Tensor,
    at_once: int = 256,
) -> Tensor:
    """[n]: the probability that image `image_rows[k]` and text `text_rows[k]` match (int64 [n] both).

    image_embeds [I, N, D], text_embeds [P, L, D] and text_mask [P, L] as the towers give them. To be called inside
    `evaluating`.
    """
    encoder, found = model.text_encoder, []
    for images, texts in zip(image_rows.split(at_once), text_rows.split(at_once), strict=True):
        used, own_row = images.unique(return_inverse=True)
        memory = encoder.remember(image_embeds[used]).rows(own_row)
        fusion_embeds = encoder.fuse(text_embeds[texts], text_mask[texts], memory)
        found.append(model.match(fusion_embeds).float().softmax(1)[:, 1].cpu())
    return torch.cat(found)
