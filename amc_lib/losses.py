"""The losses: Attention Map Consistency (equations 1-3 of Yang et al., CVPR 2023), and ALBEF's ITC, ITM and MLM.

All are pure functions. In the first part, heatmap float [B, H, W] is normalised to [0, 1] and of the mask's size; mask
[B, H, W] is 1 inside the boxes and 0 outside. Where a mask leaves no inside (or no outside), mean and maximum are 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib.tokens import IGNORED

APART = 0.3  # intersection over union of two phrases' boxes, from which on they may mean one thing


def mean_loss(heatmap: Tensor, mask: Tensor, margin: float = 0.1) -> Tensor:
    """L_mean, equation 1, per sample [B]: max(0, mean outside - mean inside + margin)."""
    mask = mask.to(heatmap.dtype)
    inside = (heatmap * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)  # [B, H, W] -> [B]
    outside = (heatmap * (1 - mask)).sum((1, 2)) / (1 - mask).sum((1, 2)).clamp(min=1)
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


def other_loss(heatmap: Tensor, mask: Tensor, image_rows: Tensor, margin: float = 0.1) -> Tensor:
    """L_other, scalar; not of the paper: a phrase's box must hold more of its own heat than of another phrase's.

    For each ordered pair of phrases p, q of one picture (int64 [B], `image_rows`) whose boxes lie apart (intersection
    over union below APART): max(0, mean of A_q inside M_p - mean of A_p inside M_p + margin); the mean over pairs, 0
    without any. Knowing where named things lie does not lower it; knowing which phrase means which of them does.
    """
    heat, inside = heatmap.flatten(1), mask.flatten(1).to(heatmap.dtype)  # [B, H, W] -> [B, H * W]
    area = inside.sum(1)  # [B]
    shared = inside @ inside.T  # [B, B]
    pairs = (image_rows[:, None] == image_rows) & (shared < APART * (area[:, None] + area - shared))
    means = heat @ inside.T / area.clamp(min=1)  # [B, B], of A_q inside M_p at [q, p]
    return ((means - means.diagonal() + margin).clamp(min=0) * pairs).sum() / pairs.sum().clamp(min=1)


def amc_terms(
    heatmap: Tensor, mask: Tensor, delta1: float = 0.1, delta2: float = 0.5, mean_form: str = "paper"
) -> tuple[Tensor, Tensor]:
    """L_mean and L_max, scalars: means over the batch; `mean_form` "official" is `pooled_mean_loss`."""
    if len(heatmap) == 0:
        return heatmap.sum(), heatmap.sum()  # 0, with a graph; a mean over no samples would be NaN
    l_mean = pooled_mean_loss if mean_form == "official" else mean_loss
    return l_mean(heatmap, mask, delta1).mean(), max_loss(heatmap, mask, delta2).mean()


def amc_loss(
    heatmap: Tensor,
    mask: Tensor,
    lambda1: float = 0.2,
    lambda2: float = 0.8,
    delta1: float = 0.1,
    delta2: float = 0.5,
    mean_form: str = "paper",
) -> Tensor:
    """L_amc, equation 3, scalar: mean over the batch of lambda1 * L_mean + lambda2 * L_max (see `amc_terms`)."""
    l_mean, l_max = amc_terms(heatmap, mask, delta1, delta2, mean_form)
    return lambda1 * l_mean + lambda2 * l_max


# ----------------------------------------------------------------- ALBEF's objectives (Li et al., NeurIPS 2021)


def contrastive_loss(
    image_feat: Tensor,
    text_feat: Tensor,
    image_feat_m: Tensor,
    text_feat_m: Tensor,
    image_queue: Tensor,
    text_queue: Tensor,
    temperature: Tensor,
    alpha: float,
    matching: Tensor | None = None,
    own_start: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """ITC with soft targets: features [B, E] of unit length, queues [E, Q] as they were before this step.

    The momentum features [A, E] are those of all processes' batches, this one's from row `own_start` on. Candidates are
    the momentum features, then the queue. (ALBEF's authors contrast with their own process's part of the batch alone;
    here several processes give the loss of one with the whole batch.) Targets are alpha * (the momentum model's softmax
    over them) + (1 - alpha) * the truth. The truth is each row's own pair or, with `matching` (bool [B, B]: rows of the
    same image), all pairs of its image alike. Returns the loss and the similarities sim_i2t, sim_t2i [B, B] (divided by
    the temperature) from which hard negatives are drawn.
    """
    own = slice(own_start, own_start + len(image_feat))
    matching = torch.eye(len(image_feat), device=image_feat.device) if matching is None else matching
    losses, sims = [], []
    with torch.autocast(image_feat.device.type, enabled=False):  # bf16 would round the similarities
        for feat, feat_m, others_m, queue in (
            (image_feat, image_feat_m[own], text_feat_m, text_queue),
            (text_feat, text_feat_m[own], image_feat_m, image_queue),
        ):
            feat, feat_m, others_m = (x.to(temperature.dtype) for x in (feat, feat_m, others_m))
            candidates = torch.cat((others_m.T, queue), dim=1)  # [E, A + Q]
            sim = feat @ candidates / temperature  # [B, A + Q]
            with torch.no_grad():
                truth = torch.zeros_like(sim)
                truth[:, own] = matching / matching.sum(1, keepdim=True)
                targets = alpha * (feat_m @ candidates / temperature).softmax(1) + (1 - alpha) * truth
            losses.append(F.cross_entropy(sim, targets))
            sims.append(sim[:, own].detach())
    return (losses[0] + losses[1]) / 2, *sims


@torch.no_grad()
def draw_negatives(
    sim_i2t: Tensor,
    sim_t2i: Tensor,
    matching: Tensor | None = None,
    *,
    hard: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """For each text an image that is not its own, and for each image a text: two int64 [B] of batch rows.

    Hard negatives are drawn with the softmax of the similarities [B, B], all others uniformly; never a pair that
    `matching` (bool [B, B], by default the diagonal) marks. A batch of one image has no negatives: both are then
    empty. NaN and infinite similarities count as 0: the loss will show them.
    """
    if matching is None:
        matching = torch.eye(len(sim_i2t), dtype=torch.bool, device=sim_i2t.device)
    if matching.all(1).any():
        empty = torch.empty(0, dtype=torch.long, device=sim_i2t.device)
        return empty, empty
    drawn = []
    for similarities in (sim_t2i, sim_i2t):
        likeness = similarities.float().nan_to_num(0, 0, 0) * float(hard)
        weights = likeness.softmax(1).masked_fill_(matching, 0)
        lost = weights.sum(1) == 0  # all the weight stood on the row's own image
        weights[lost] = (~matching[lost]).float()
        drawn.append(torch.multinomial(weights, 1, generator=generator).squeeze(1))
    return drawn[0], drawn[1]


def matching_loss(itm_logits: Tensor, positives: int) -> Tensor:
    """ITM: mean cross-entropy of itm_logits [R, 2] whose first `positives` rows match and whose others do not."""
    labels = torch.zeros(len(itm_logits), dtype=torch.long, device=itm_logits.device)
    labels[:positives] = 1
    return F.cross_entropy(itm_logits, labels)


def masked_language_loss(
    logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, alpha: float, distillation: str = "vocabulary"
) -> Tensor:
    """MLM: (1 - alpha) * cross-entropy + alpha * distillation, both averaged over positions with a label.

    logits and teacher_logits [B, L, V], labels [B, L] with `IGNORED` elsewhere; for the vocabulary form any leading
    shape will do. With alpha 0 there need be no teacher. `official` takes the student's log-softmax over the sequence,
    as the AMC authors' code does; the ALBEF authors' code takes it over the vocabulary.
    """
    labelled = labels != IGNORED
    count = labelled.sum().clamp(min=1)
    hard = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum") / count
    if teacher_logits is None:
        return hard
    log_student = logits.log_softmax(1 if distillation == "official" else -1)
    soft = -(teacher_logits.softmax(-1) * log_student).sum(-1)[labelled].sum() / count
    return (1 - alpha) * hard + alpha * soft
