"""GradCAM heatmaps of image-text matching: cross-attention of one fusion layer, weighted by its gradient.

The core gives the raw map with its graph; `normalise` and `upsample` stand apart. B phrases (each with its image),
h heads, L text positions (padding included), N = G*G + 1 image tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib.config import Explanation
from amc_lib.model import Encoder
from amc_lib.model.attention import Watch

NORMALISE_EPS = 1e-7  # of the authors' min-max


def watch_attention(
    text_encoder: Encoder, layer: int, *, twice: bool, explanation: Explanation = "gradcam"
) -> AbstractContextManager[Watch]:
    """Keep the cross-attention of `layer` during the passes inside the `with` block; for "layers" also of those above.

    With `twice` all attention from there upwards has a second derivative. Everything attached is removed on leaving,
    whatever happens inside. ValueError for a layer that does not look at the image.
    """
    first, end = text_encoder.fusion_from, len(text_encoder.layers)
    if not isinstance(layer, Integral) or not first <= layer < end:
        raise ValueError(f"layer {layer!r:.80} has no cross-attention; fusion layers are {first}-{end - 1}")
    return text_encoder.watch(layer, twice=twice, above=explanation == "layers")


def heatmap(
    watch: Watch, itm_logits: Tensor, text_mask: Tensor, *, create_graph: bool, explanation: Explanation = "gradcam"
) -> Tensor:
    """Raw heatmap [B, G, G] >= 0 of the match logit: mean over heads and positions of attention * max(gradient, 0).

    itm_logits [B, 2] must come from the pass that `watch` saw. The logit is differentiated, not a probability or a
    loss: a loss that is near zero would give no map at all. The mean runs over all L positions, padded ones included
    (they count zero), so the magnitude depends on the padding and its shape does not. With `create_graph` the map can
    be differentiated again, as L_amc needs. With explanation "attention" the gradient is left out: plain attention.
    With "layers" the map is the sum of this layer's and of all above it, as LeGrad (Bousselham et al., 2024) sums over
    layers.
    """
    return _weighted_attention(watch, itm_logits, text_mask, create_graph, explanation).mean(dim=(1, 2))


def token_heatmaps(
    watch: Watch, itm_logits: Tensor, text_mask: Tensor, explanation: Explanation = "gradcam"
) -> tuple[Tensor, Tensor]:
    """`heatmap` without a graph [B, G, G], and what each text position adds to it [B, L, G, G], zero where padded.

    The heatmap is the mean over the L positions.
    """
    weighted = _weighted_attention(watch, itm_logits, text_mask, False, explanation)
    return weighted.mean(dim=(1, 2)), weighted.mean(dim=1)


def _weighted_attention(
    watch: Watch, itm_logits: Tensor, text_mask: Tensor, create_graph: bool, explanation: Explanation
) -> Tensor:
    """Attention times its positive gradient, or alone [B, h, L, G, G], zero at padded positions."""
    kept = [one.probabilities for one in (watch, *watch.above)]  # [B, h, L, N] of each layer
    weighted = kept[0] if create_graph else kept[0].detach()
    if explanation != "attention":
        gradients = torch.autograd.grad(itm_logits[:, 1].sum(), kept, create_graph=create_graph)
        attentions = kept if create_graph else [attention.detach() for attention in kept]
        weighted = sum(a * gradient.clamp(min=0) for a, gradient in zip(attentions, gradients, strict=True))
    words = text_mask[:, None, :, None].to(weighted.dtype)  # [B, 1, L, 1]
    places = (weighted * words)[..., 1:]  # token 0, the class token, is no place
    side = round(places.shape[-1] ** 0.5)
    return places.unflatten(-1, (side, side))  # [B, h, L, N - 1] -> [B, h, L, G, G]


def normalise(raw: Tensor, eps: float = NORMALISE_EPS) -> Tensor:
    """Per-sample min-max of [B, H, W] into [0, 1); an all-zero map stays zero.

    The gradient also flows through the minimum and the maximum, each to the single element that is picked.
    """
    shifted = raw - raw.flatten(1).min(1).values[:, None, None]  # [B] -> [B, 1, 1]
    return shifted / (shifted.flatten(1).max(1).values[:, None, None] + eps)


def upsample(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """[B, H, W] -> [B, *size]: `bilinear` in training, `bicubic` in evaluation (which may undershoot zero)."""
    if mode == "bicubic":
        rows, columns = (_bicubic(large, maps, axis) for axis, large in enumerate(size, start=1))
        return rows @ maps @ columns.T  # as F.interpolate within rounding, in a fifth of its time
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0]


def _bicubic(large: int, maps: Tensor, axis: int) -> Tensor:
    """[large, small]: the weight of each place along an axis of maps in each of `large` places."""
    places = torch.eye(maps.shape[axis], dtype=maps.dtype, device=maps.device)
    return F.interpolate(places[None, None], (large, len(places)), mode="bicubic", align_corners=False)[0, 0]
