"""Pointing in its straightforward form: what the fast one is held against, in points and seconds.

One phrase after the other, everything anew for each: the image, explicit softmax in all attention, and a backward pass
through all of the model.
"""

from __future__ import annotations

from torch import Tensor

from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer
from tests.plain_step import fusion_layers, image_tower, text_layers


def one_by_one(model: ALBEF, tokens: Tokenizer, image: Tensor, phrase: str, layer: int) -> tuple[Tensor, Tensor]:
    """Raw heatmap [G, G] and match probability of one phrase for pixels [1, 3, S, S], by a model in evaluation mode."""
    input_ids, mask = (tensor.to(image.device) for tensor in tokens([phrase]))  # [1, L]
    model.zero_grad(set_to_none=True)
    text_embeds = text_layers(model.text_encoder, input_ids, mask)
    fused, cross_attention = fusion_layers(
        model.text_encoder, text_embeds, mask, image_tower(model.visual_encoder, image)
    )
    attention = cross_attention[layer]  # [1, h, L, N]
    attention.retain_grad()
    logits = model.itm_head(fused[:, 0])  # [1, 2]
    logits[:, 1].sum().backward()
    weighted = (attention * attention.grad.clamp(min=0) * mask[:, None, :, None])[0, :, :, 1:]
    side = round(weighted.shape[-1] ** 0.5)
    return weighted.mean((0, 1)).reshape(side, side).detach(), logits.detach().softmax(-1)[0, 1]
