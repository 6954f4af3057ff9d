"""The losses of one training step, in the order of ALBEF's authors: momentum, ITC, queues, ITM, AMC, MLM.

With several processes each has its part of the batch. Contrast and queues see the features of all; negatives for ITM
are drawn inside a part, as the authors do. Each process's losses are weighted by its share of the items they average
over, so that their mean over processes is the loss of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amc_lib import gradcam
from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.distributed import gather_rows, mean_weights
from amc_lib.losses import amc_loss
from amc_lib.model import ALBEF
from amc_lib.model.objectives import (
    IGNORED,
    contrastive_loss,
    draw_negatives,
    masked_language_loss,
    matching_loss,
)
from amc_lib.model.text import ImageMemory, take_rows


@dataclass
class Batch:
    """B phrases of I images; L text positions, S side of the box mask."""

    image: Tensor  # [I, 3, S, S] normalised pixels, or the trunk's features [I, C, G, G]
    image_rows: Tensor  # int64 [B], the image of each phrase
    input_ids: Tensor  # int64 [B, L], right-padded
    attention_mask: Tensor  # int64 [B, L], 1 for [CLS], words and [SEP]
    mlm_input_ids: Tensor  # int64 [B, L], corrupted
    mlm_labels: Tensor  # int64 [B, L], `IGNORED` where no loss is taken
    box_mask: Tensor  # [B, S, S], 1 inside the phrase's boxes
    has_box: Tensor  # bool [B]; samples without take no part in L_amc
    unreadable: Tensor  # int64 scalar: images that could not be read, and in whose place others stand

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


@dataclass
class Losses:
    """Scalars with their graph; `total` is what is minimised (weights 1, the lambdas stand inside `amc`)."""

    mlm: Tensor
    itc: Tensor
    itm: Tensor
    amc: Tensor

    @property
    def total(self) -> Tensor:
        return self.mlm + self.itc + self.itm + self.amc


def training_losses(
    model: ALBEF,
    batch: Batch,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    *,
    alpha: float,
    fuse: bool = True,
    hard_negatives: bool = True,
    move_momentum: bool = True,
    negatives: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """The four losses; also moves the momentum model and the queues one step.

    `alpha` is the current weight of the soft targets. Without `fuse` the two towers are aligned by ITC alone and the
    fusion layers are left out ("align before fuse"); the other losses are then 0. `move_momentum` is False for the
    later batches of one accumulated update. `negatives` (image rows for texts, text rows for images) replays a draw;
    otherwise `draw_negatives` draws with `generator`.
    """
    towers = _contrast(model, batch, alpha, fuse, move_momentum)
    labelled = (batch.mlm_labels != IGNORED).sum()
    counts = torch.stack((labelled.new_tensor(len(batch.input_ids)), labelled, batch.has_box.sum()))
    of_pairs, of_labels, of_boxes = mean_weights(counts)
    if not fuse:
        nothing = towers.itc.new_zeros(())
        return Losses(itc=of_pairs * towers.itc, **dict.fromkeys(("mlm", "itm", "amc"), nothing))

    def draw() -> tuple[Tensor, Tensor]:
        if negatives is not None:
            return negatives
        return draw_negatives(*towers.sims, _same_image(batch), hard=hard_negatives, generator=generator)

    mlm, itm, amc_term = _after_fusion(model, batch, towers, objective, amc, alpha, draw)
    return Losses(mlm=of_labels * mlm, itc=of_pairs * towers.itc, itm=of_pairs * itm, amc=of_boxes * amc_term)


@dataclass
class _Towers:
    """What model and teacher made of a batch before fusion, and the contrast of its pictures and texts."""

    image_embeds: Tensor  # [I, N, D]
    text_embeds: Tensor  # [B, L, D]
    corrupted_embeds: Tensor | None  # [B, L, D], of the texts with hidden words; None without fusion
    teacher_embeds: Tensor | None  # [B, L, D], those fused by the teacher; None where it teaches nothing
    itc: Tensor
    sims: tuple[Tensor, Tensor]  # sim_i2t, sim_t2i [B, B]


def _contrast(model: ALBEF, batch: Batch, alpha: float, fuse: bool, move_momentum: bool) -> _Towers:
    """Both towers and ITC; moves the momentum model and the queues."""
    B, rows = len(batch.input_ids), batch.image_rows
    model.clamp_temperature()
    image = model.read_image(batch.image)
    texts = (batch.input_ids, batch.mlm_input_ids) if fuse else (batch.input_ids,)
    input_ids, masks = torch.cat(texts), batch.attention_mask.repeat(len(texts), 1)  # [2B, L], [B, L] without fusion
    image_embeds = model.visual_encoder(image)  # [I, N, D]
    text_embeds, *corrupted = model.encode_text(input_ids, masks).split(B)  # [B, L, D] each
    image_feat = take_rows(model.image_features(image_embeds), rows)  # [B, E]
    text_feat = model.text_features(text_embeds)

    if move_momentum:
        model.update_momentum()
    taught = slice(None) if alpha > 0 else slice(B)  # corrupted texts serve soft targets alone
    image_feat_m, text_feat_m, teacher_embeds = _momentum_pass(model, image, rows, input_ids[taught], masks[taught])
    (image_feat_m, first), (text_feat_m, _) = gather_rows(image_feat_m), gather_rows(text_feat_m)  # [A, E]
    itc, *sims = contrastive_loss(
        image_feat, text_feat, image_feat_m, text_feat_m, model.image_queue, model.text_queue,
        model.temp, alpha, _same_image(batch), first,
    )  # fmt: skip
    model.enqueue(image_feat_m, text_feat_m)
    return _Towers(image_embeds, text_embeds, corrupted[0] if fuse else None, teacher_embeds, itc, tuple(sims))


def _same_image(batch: Batch) -> Tensor:
    """bool [B, B]: do two phrases share their image?"""
    return batch.image_rows[:, None] == batch.image_rows


def _after_fusion(
    model: ALBEF,
    batch: Batch,
    towers: _Towers,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    alpha: float,
    draw: Callable[[], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """MLM, ITM and L_amc; `draw` gives image rows for texts, and text rows for images."""
    memory, rows = model.text_encoder.remember(towers.image_embeds), batch.image_rows
    boxed = batch.has_box.nonzero().flatten()
    with_amc = amc.active and len(boxed) > 0
    positive_logits, raw = _matching_pairs(
        model, towers.text_embeds, batch.attention_mask, memory.rows(rows), amc if with_amc else None
    )
    negative_logits, fused_corrupted = _other_pairs(
        model, towers.text_embeds, towers.corrupted_embeds, batch.attention_mask, memory, rows, *draw()
    )
    mlm = _mlm(model, fused_corrupted, towers.teacher_embeds, batch.mlm_labels, alpha, objective.mlm_distillation)
    itm = matching_loss(torch.cat((positive_logits, negative_logits)), positives=len(rows))
    amc_term = _amc(raw[boxed], batch.box_mask[boxed], amc) if with_amc else positive_logits.new_zeros(())
    return mlm, itm, amc_term


@torch.no_grad()
def _momentum_pass(
    model: ALBEF, image: Tensor, rows: Tensor, input_ids: Tensor, masks: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The teacher's image_feat_m, text_feat_m [B, E] and fused embeddings of the corrupted texts [B, L, D], if any."""
    B, encoder = len(rows), model.text_encoder_m
    image_embeds = model.visual_encoder_m(image)  # [I, N, D]
    text_embeds, *corrupted = encoder.encode(input_ids, masks).split(B)
    fused = encoder.fuse(corrupted[0], masks[B:], encoder.remember(image_embeds).rows(rows)) if corrupted else None
    image_feat = torch.nn.functional.normalize(model.vision_proj_m(image_embeds[:, 0]), dim=-1)
    text_feat = torch.nn.functional.normalize(model.text_proj_m(text_embeds[:, 0]), dim=-1)
    return image_feat[rows], text_feat, fused


def _matching_pairs(
    model: ALBEF, text_embeds: Tensor, text_mask: Tensor, memory: ImageMemory, amc: AmcSettings | None
) -> tuple[Tensor, Tensor | None]:
    """itm_logits [B, 2] of the matching pairs and, with `amc`, their raw heatmaps [B, G, G] with graph."""
    if amc is None:
        return model.match(model.text_encoder.fuse(text_embeds, text_mask, memory)), None
    with gradcam.watch_attention(model.text_encoder, amc.layer, twice=amc.explanation == "gradcam") as watch:
        itm_logits = model.match(model.text_encoder.fuse(text_embeds, text_mask, memory))
    raw = gradcam.heatmap(watch, itm_logits, text_mask, create_graph=True, explanation=amc.explanation)
    return itm_logits, raw


def _other_pairs(
    model: ALBEF,
    text_embeds: Tensor,
    corrupted_embeds: Tensor,
    text_mask: Tensor,
    memory: ImageMemory,
    rows: Tensor,
    image_negatives: Tensor,
    text_negatives: Tensor,
) -> tuple[Tensor, Tensor]:
    """One fusion pass for all that needs no second derivative: 2B non-matching pairs and B corrupted texts.

    Returns itm_logits [2B, 2] and fused corrupted texts [B, L, D]; with no negatives drawn, 0 rows and [B, L, D].
    """
    own = torch.arange(len(text_embeds), device=text_embeds.device)
    of_text, of_image = own[: len(image_negatives)], own[: len(text_negatives)]
    own_texts, other_texts = take_rows(text_embeds, of_text), take_rows(text_embeds, text_negatives)
    texts = torch.cat((own_texts, other_texts, corrupted_embeds))
    masks = torch.cat((text_mask[of_text], text_mask[text_negatives], text_mask))
    fused = model.text_encoder.fuse(texts, masks, memory.rows(rows[torch.cat((image_negatives, of_image, own))]))
    negatives = len(image_negatives) + len(text_negatives)
    return model.match(fused[:negatives]), fused[negatives:]


def _mlm(
    model: ALBEF, fused: Tensor, teacher_fused: Tensor | None, labels: Tensor, alpha: float, distillation: str
) -> Tensor:
    """MLM loss; without distillation over the sequence logits are needed at labelled positions only.

    Those are few, and are predicted in the weights' own precision: rounding the vocabulary's weights would cost more.
    """
    weights = model.text_encoder.cls.predictions.decoder.weight
    few = distillation == "vocabulary" or teacher_fused is None
    if few:
        labelled = labels != IGNORED
        fused = fused[labelled].to(weights.dtype)  # [M, D]
        teacher_fused = None if teacher_fused is None else teacher_fused[labelled].to(weights.dtype)
        labels = labels[labelled]
    rounded = torch.is_autocast_enabled(fused.device.type) and not few
    with torch.autocast(fused.device.type, enabled=rounded):
        with torch.no_grad():
            teacher_logits = None if teacher_fused is None else model.text_encoder_m.predict(teacher_fused)
        return masked_language_loss(model.text_encoder.predict(fused), teacher_logits, labels, alpha, distillation)


def _amc(raw: Tensor, box_mask: Tensor, amc: AmcSettings) -> Tensor:
    """L_amc of raw heatmaps [K, G, G] against box masks [K, S, S], in the masks' precision even under autocast."""
    maps = gradcam.upsample(gradcam.normalise(raw.to(box_mask.dtype)), box_mask.shape[-2:], "bilinear")  # [K, S, S]
    return amc_loss(maps, box_mask, amc.lambda1, amc.lambda2, amc.delta1, amc.delta2, amc.mean_form)
