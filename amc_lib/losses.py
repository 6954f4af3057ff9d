"""Attention Map Consistency: equations 1-3 of Yang et al., CVPR 2023, as pure functions of heatmap and mask.

Everywhere: heatmap float [B, H, W], normalised to [0, 1] and of the mask's size; mask [B, H, W], 1 inside the boxes and
0 outside. A mask that leaves no inside (or no outside) has mean and maximum 0 there.
"""

from __future__ import annotations

from torch import Tensor


def mean_loss(heatmap: Tensor, mask: Tensor, margin: float = 0.1) -> Tensor:
    """L_mean, equation 1, per sample [B]: max(0, mean outside - mean inside + margin)."""
    inside, outside = _means(heatmap, mask)
    return (outside - inside + margin).clamp(min=0)


def pooled_mean_loss(heatmap: Tensor, mask: Tensor, margin: float = 0.1) -> Tensor:
    """L_mean as the authors' code computes it, scalar: both means over the whole batch, then one hinge.

    Differs from the paper's per-sample form whenever the batch holds more than one sample.
    """
    return mean_loss(heatmap.flatten(0, 1)[None], mask.flatten(0, 1)[None], margin)[0]  # one sample of B*H rows


def max_loss(heatmap: Tensor, mask: Tensor, margin: float = 0.5) -> Tensor:
    """L_max, equation 2, per sample [B]: max(0, max of (1 - M) * A - max of M * A + margin)."""
    mask = mask.to(heatmap.dtype)
    peak_outside = ((1 - mask) * heatmap).flatten(1).max(1).values  # [B, H, W] -> [B]
    peak_inside = (mask * heatmap).flatten(1).max(1).values
    return (peak_outside - peak_inside + margin).clamp(min=0)


def amc_loss(
    heatmap: Tensor,
    mask: Tensor,
    lambda1: float = 0.2,
    lambda2: float = 0.8,
    delta1: float = 0.1,
    delta2: float = 0.5,
    mean_form: str = "paper",
) -> Tensor:
    """L_amc, equation 3, scalar: mean over the batch of lambda1 * L_mean + lambda2 * L_max.

    `mean_form` "official" pools L_mean over the batch (see `pooled_mean_loss`). A batch of no samples gives 0.
    """
    if len(heatmap) == 0:
        return heatmap.sum()
    l_mean = pooled_mean_loss if mean_form == "official" else mean_loss
    return lambda1 * l_mean(heatmap, mask, delta1).mean() + lambda2 * max_loss(heatmap, mask, delta2).mean()


def _means(heatmap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the heatmap inside and outside the mask, each [B]."""
    mask = mask.to(heatmap.dtype)
    inside = (heatmap * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    outside = (heatmap * (1 - mask)).sum((1, 2)) / (1 - mask).sum((1, 2)).clamp(min=1)
    return inside, outside


__all__ = ["amc_loss", "max_loss", "mean_loss", "pooled_mean_loss"]
