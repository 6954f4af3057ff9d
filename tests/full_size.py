"""The base-size model (ViT-B/16 at 256 px, BERT-base) with random weights, and a plain loop of its evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from amc_lib.gradcam import watch_attention
from amc_lib.model import ALBEF, build
from amc_lib.phrases import CHARACTERS, SPECIAL, Tokenizer
from amc_lib.presets import preset

PHRASES = [
    "the man", "a red umbrella", "woman in a blue coat", "the second dog from the fence", "a child", "grass",
    "two men on bikes", "a yellow taxi", "the street", "an old wooden door", "a hat", "her left hand", "the crowd",
    "a black cat on a table",
]  # fmt: skip


def base_model() -> ALBEF:
    torch.manual_seed(0)
    return build(preset("paper").model).eval()


def tokenizer() -> Tokenizer:
    """BERT's sizes with words of our own: 30,522 tokens, of which the phrases need a few."""
    words = sorted({word for phrase in PHRASES for word in phrase.split()})
    known = [*SPECIAL, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *(w for w in words if w not in CHARACTERS)]
    size = preset("paper").model.text.vocab_size
    return Tokenizer([*known, *(f"[unused{i}]" for i in range(size - len(known)))], max_tokens=25)


def one_by_one(model: ALBEF, tokens: Tokenizer, image: Tensor, phrase: str, layer: int) -> Tensor:
    """The heatmap [G, G] of one phrase as a plain loop gets it: everything anew, and a backward pass through all."""
    input_ids, mask = tokens([phrase])
    model.zero_grad(set_to_none=True)
    memory = model.text_encoder.remember(model.encode_image(image))
    with watch_attention(model.text_encoder, layer, twice=True) as watch:
        itm_logits = model.match(model.text_encoder.fuse(model.encode_text(input_ids, mask), mask, memory))
    watch.probabilities.retain_grad()
    itm_logits[:, 1].sum().backward()
    weighted = (watch.probabilities * watch.probabilities.grad.clamp(min=0) * mask[:, None, :, None])[0, :, :, 1:]
    side = round(weighted.shape[-1] ** 0.5)
    return weighted.mean((0, 1)).reshape(side, side).detach()
