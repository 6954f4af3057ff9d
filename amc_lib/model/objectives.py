"""ALBEF's three objectives as pure functions: contrast (ITC), matching (ITM), masked language modelling (MLM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from amc_lib.tokens import IGNORED


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
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """ITC with soft targets: features [B, E] of unit length, queues [E, Q] as they were before this step.

    The momentum features [A, E] are those of all processes' batches; rows `first` to `first + B` are this one's.
    Candidates are the momentum features, then the queue. (ALBEF's authors contrast with their own process's part of
    the batch alone; here several processes give the loss of one with the whole batch.) Targets are alpha * (the
    momentum model's softmax over them) + (1 - alpha) * the truth. The truth is each row's own pair or, with `matching`
    (bool [B, B]: rows of the same image), all pairs of its image alike. Returns the loss and the similarities sim_i2t,
    sim_t2i [B, B] (divided by the temperature) from which hard negatives are drawn.
    """
    matching = torch.eye(len(image_feat), device=image_feat.device) if matching is None else matching
    own = slice(first, first + len(image_feat))
    of_both, sims = [], []
    for feat, feat_m, others_m, queue in (
        (image_feat, image_feat_m[own], text_feat_m, text_queue),
        (text_feat, text_feat_m[own], image_feat_m, image_queue),
    ):
        loss, sim = _Contrast.apply(feat, temperature, feat_m, others_m, queue, matching, alpha, first)
        of_both.append(loss)
        sims.append(sim[:, own])
    return (of_both[0] + of_both[1]) / 2, *sims


class _Contrast(torch.autograd.Function):
    """One direction of ITC: features [B, E] -> loss and similarities [B, A + Q].

    Its gradients are taken in the forward pass: the queue is then free to move before the backward pass, and need be
    neither copied nor rounded.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, feat: Tensor, temperature: Tensor, feat_m: Tensor, others_m: Tensor, queue: Tensor,
        matching: Tensor, alpha: float, first: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        own, ctx.dtype = slice(first, first + len(feat)), feat.dtype
        feat, feat_m, others_m = (x.to(temperature.dtype) for x in (feat, feat_m, others_m))
        with torch.autocast(feat.device.type, enabled=False):
            candidates = others_m.T.contiguous()  # [E, A]
            soft = (torch.cat((feat_m @ candidates, feat_m @ queue), dim=1) / temperature).softmax(1)
            truth = torch.zeros_like(soft)
            truth[:, own] = matching / matching.sum(1, True)
            targets = alpha * soft + (1 - alpha) * truth
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in (feat, temperature)]
                sim = torch.cat((inputs[0] @ candidates, inputs[0] @ queue), dim=1) / inputs[1]  # [B, A + Q]
                loss = F.cross_entropy(sim, targets)
            ctx.save_for_backward(*torch.autograd.grad(loss, inputs))
        sim = sim.detach()
        ctx.mark_non_differentiable(sim)
        return loss.detach(), sim

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_feat, of_temperature = (gradient * x for x in ctx.saved_tensors)
        return of_feat.to(ctx.dtype), of_temperature, *[None] * 6


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
    empty. Similarities that are no numbers count as 0: the loss will show them.
    """
    if matching is None:
        matching = torch.eye(len(sim_i2t), dtype=torch.bool, device=sim_i2t.device)
    if matching.all(1).any():
        empty = torch.empty(0, dtype=torch.long, device=sim_i2t.device)
        return empty, empty
    drawn = []
    for similarities in (sim_t2i, sim_i2t):
        likeness = (
            similarities.float().nan_to_num(0, 0, 0) if hard else torch.zeros_like(similarities, dtype=torch.float)
        )
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
