"""One training step: momentum, ITC, queues, ITM, AMC, MLM, in the order of ALBEF's authors.

With several processes each has its part of the batch. Contrast and queues see the features of all; negatives for ITM
are drawn inside a part, as the authors do. Each process's losses are weighted by its share of the items they average
over, so that their mean over processes is the loss of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib import gradcam
from amc_lib.config import AmcSettings, ModelSettings, ObjectiveSettings
from amc_lib.distributed import gather_rows, mean_weights
from amc_lib.losses import (
    amc_terms,
    contrastive_loss,
    draw_negatives,
    masked_language_loss,
    matching_loss,
    other_loss,
)
from amc_lib.model import ALBEF, Backbone, Memory
from amc_lib.model.attention import Watch
from amc_lib.model.memory import take_rows
from amc_lib.tokens import IGNORED


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
    """Scalars; `total` (of weights 1: the lambdas stand inside `amc`) is what is minimised."""

    mlm: Tensor
    itc: Tensor
    itm: Tensor
    amc: Tensor  # lambda1 * mean + lambda2 * max + lambda_other * other
    mean: Tensor  # L_mean, equation 1, without graph
    max: Tensor  # L_max, equation 2, without graph
    other: Tensor  # `losses.other_loss`, without graph; 0 where its weight is

    @property
    def total(self) -> Tensor:
        return self.mlm + self.itc + self.itm + self.amc


def losses_for(settings: ModelSettings) -> Callable[..., Losses]:
    """The step of a model: ALBEF's `training_losses`, or `losses_without_words` of another backbone."""
    return training_losses if settings.backbone == "albef" else losses_without_words


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
    """The losses of a batch; also moves the momentum model and the queues one step.

    `alpha` is the current weight of the soft targets. Without `fuse` the two towers are aligned by ITC alone ("align
    before fuse"); the other losses are then 0. `move_momentum` is False for the later batches of one accumulated
    update. `negatives` (image rows for texts, text rows for images) replays a draw; otherwise `generator` draws.
    """
    B, rows, mask, encoder = len(batch.input_ids), batch.image_rows, batch.attention_mask, model.text_encoder
    same_image = rows[:, None] == rows  # bool [B, B]
    pair_weight, word_weight, box_weight = mean_weights(_counts(batch, amc))

    # Towers. The corrupted phrases of MLM share a pass with the phrases themselves.
    model.clamp_temperature()
    image = model.read_image(batch.image)
    input_ids = torch.cat((batch.input_ids, batch.mlm_input_ids)) if fuse else batch.input_ids  # [2B, L] or [B, L]
    image_embeds = model.visual_encoder(image)  # [I, N, D]
    masks = mask.repeat(len(input_ids) // B, 1)
    words = model.read_text(input_ids, masks)
    text_embeds, *corrupted = encoder.encode(words, masks).split(B)  # [B, L, D]

    # ITC: images against the phrases of all processes and phrases against their images, as the momentum model sees
    # these now and, in the queues, saw others before.
    if move_momentum:
        model.update_momentum()
    teach_words = fuse and alpha > 0
    image_feat_m, text_feat_m, fused_m = _momentum_pass(model, image, words.split(B), batch, teach_words=teach_words)
    (image_feat_m, own_start), (text_feat_m, _) = gather_rows(image_feat_m), gather_rows(text_feat_m)  # [A, E]
    feats = take_rows(model.image_features(image_embeds), rows), model.text_features(text_embeds)  # [B, E] both
    queues = model.image_queue, model.text_queue
    itc, *sims = contrastive_loss(*feats, image_feat_m, text_feat_m, *queues, model.temp, alpha, same_image, own_start)
    model.enqueue(image_feat_m, text_feat_m)
    if not fuse:
        nothing = itc.new_zeros(())
        return Losses(nothing, pair_weight * itc, *5 * [nothing])

    # AMC: the heatmaps of the matching pairs against their boxes.
    memory = encoder.remember(image_embeds)
    itm_logits, *terms = _matching_pairs(model, batch, text_embeds, memory, amc)

    # ITM, in whose pass of the pairs that do not match the corrupted phrases of MLM are read too.
    others = negatives or draw_negatives(*sims, same_image, hard=hard_negatives, generator=generator)
    itm, fused = _matching(model, batch, text_embeds, memory, itm_logits, others, corrupted)

    # MLM: the words hidden in the corrupted phrases, which see their images.
    mlm = _mlm(model, fused, fused_m, batch.mlm_labels, alpha, objective.mlm_distillation)
    return Losses(word_weight * mlm, pair_weight * itc, pair_weight * itm, *_amc(terms, amc, box_weight))


def losses_without_words(
    model: Backbone,
    batch: Batch,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    *,
    hard_negatives: bool = True,
    negatives: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    **_: object,
) -> Losses:
    """ITC inside the batch, ITM and AMC: of a model that has neither a momentum copy nor a head of words (BLIP).

    With several processes contrast and negatives stay inside each one's part of the batch.
    """
    rows, mask = batch.image_rows, batch.attention_mask
    same_image = rows[:, None] == rows  # bool [B, B]
    pair_weight, _, box_weight = mean_weights(_counts(batch, amc))
    model.clamp_temperature()
    image_embeds, text_embeds = model.encode_image(batch.image), model.encode_text(batch.input_ids, mask)
    feats = take_rows(model.image_features(image_embeds), rows), model.text_features(text_embeds, mask)  # [B, E] both
    queues = 2 * [feats[0].new_empty(feats[0].shape[1], 0)]
    itc, *sims = contrastive_loss(*feats, *feats, *queues, model.temp, 0.0, same_image)

    memory = model.text_encoder.remember(image_embeds)
    itm_logits, *terms = _matching_pairs(model, batch, text_embeds, memory, amc)
    others = negatives or draw_negatives(*sims, same_image, hard=hard_negatives, generator=generator)
    itm, _ = _matching(model, batch, text_embeds, memory, itm_logits, others)
    return Losses(itc.new_zeros(()), pair_weight * itc, pair_weight * itm, *_amc(terms, amc, box_weight))


def _matching_pairs(
    model: Backbone, batch: Batch, text_embeds: Tensor, memory: Memory, amc: AmcSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """itm_logits [B, 2] of the phrases with their images, and L_mean, L_max and L_other of their heatmaps."""
    encoder, mask, with_amc = model.text_encoder, batch.attention_mask, amc.active and bool(batch.has_box.any())
    watching = nullcontext()
    if with_amc:
        twice = amc.explanation != "attention"
        watching = gradcam.watch_attention(encoder, amc.layer, twice=twice, explanation=amc.explanation)
    with watching as watch:
        itm_logits = model.match(encoder.fuse(text_embeds, mask, memory.rows(batch.image_rows)))  # [B, 2]
    nothing = itm_logits.new_zeros(())
    return itm_logits, *(_amc_terms(watch, itm_logits, batch, amc) if with_amc else 3 * [nothing])


def _matching(
    model: Backbone,
    batch: Batch,
    text_embeds: Tensor,
    memory: Memory,
    itm_logits: Tensor,
    others: tuple[Tensor, Tensor],
    corrupted: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """ITM of the matching pairs (itm_logits [B, 2]), each phrase with another image and each image with another phrase.

    `others` are the batch rows of these images and phrases, B each, or none in a batch of one image. Corrupted phrases
    [B, L, D] are read in the same pass, with their own images, and returned fused.
    """
    rows, mask, (other_image, other_text) = batch.image_rows, batch.attention_mask, others
    drawn = len(other_image)
    texts = torch.cat((text_embeds[:drawn], take_rows(text_embeds, other_text), *corrupted))  # [2 * drawn (+ B), L, D]
    masks = torch.cat((mask[:drawn], mask[other_text], *(mask for _ in corrupted)))
    seen = memory.rows(torch.cat((rows[other_image], rows[:drawn], *(rows for _ in corrupted))))
    fused = model.text_encoder.fuse(texts, masks, seen)
    itm = matching_loss(torch.cat((itm_logits, model.match(fused[: 2 * drawn]))), positives=len(rows))
    return itm, fused[2 * drawn :]


def _amc(terms: Sequence[Tensor], amc: AmcSettings, weight: Tensor) -> tuple[Tensor, ...]:
    """Of L_mean, L_max and L_other: their weighted sum, and each without graph."""
    weighted = sum(x * term for x, term in zip((amc.lambda1, amc.lambda2, amc.lambda_other), terms, strict=True))
    return weight * weighted, *(weight * term.detach() for term in terms)


def _counts(batch: Batch, amc: AmcSettings) -> Tensor:
    """int64 [3]: phrases, words to be predicted, phrases that L_amc is a mean over."""
    words, phrases = (
        (batch.mlm_labels != IGNORED).sum(),
        batch.has_box.new_tensor(len(batch.input_ids), dtype=torch.long),
    )
    return torch.stack((phrases, words, batch.has_box.sum() if amc.mean_over == "boxed" else phrases))


@torch.no_grad()
def _momentum_pass(
    model: ALBEF, image: Tensor, words: Sequence[Tensor], batch: Batch, *, teach_words: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The momentum model's image_feat_m, text_feat_m [B, E] and, to teach words, fused corrupted phrases [B, L, D]."""
    encoder, mask, rows = model.text_encoder_m, batch.attention_mask, batch.image_rows
    image_embeds = model.visual_encoder_m(image)  # [I, N, D]
    text_embeds = encoder.encode(words[0], mask)  # [B, L, D]
    image_feat = F.normalize(model.vision_proj_m(image_embeds[:, 0]), dim=-1)[rows]
    text_feat = F.normalize(model.text_proj_m(text_embeds[:, 0]), dim=-1)
    if not teach_words:
        return image_feat, text_feat, None
    corrupted = encoder.encode(words[1], mask)
    return image_feat, text_feat, encoder.fuse(corrupted, mask, encoder.remember(image_embeds).rows(rows))


def _amc_terms(watch: Watch, itm_logits: Tensor, batch: Batch, amc: AmcSettings) -> tuple[Tensor, ...]:
    """L_mean, L_max and L_other of the phrases that have boxes, in the masks' precision even under autocast."""
    raw = gradcam.heatmap(watch, itm_logits, batch.attention_mask, create_graph=True, explanation=amc.explanation)
    box_mask = batch.box_mask[batch.has_box]  # [K, S, S]
    heatmaps = gradcam.normalise(raw[batch.has_box].to(box_mask.dtype))  # [K, G, G]
    heatmaps = gradcam.upsample(heatmaps, box_mask.shape[-2:], "bilinear")  # [K, S, S]
    terms = *amc_terms(heatmaps, box_mask, amc.delta1, amc.delta2, amc.mean_form), heatmaps.new_zeros(())
    if amc.lambda_other:
        terms = *terms[:2], other_loss(heatmaps, box_mask, batch.image_rows[batch.has_box], amc.delta_other)
    share = 1 if amc.mean_over == "boxed" else len(heatmaps) / len(batch.has_box)
    return tuple(share * term for term in terms)


def _mlm(
    model: ALBEF, fused: Tensor, fused_m: Tensor | None, labels: Tensor, alpha: float, distillation: str
) -> Tensor:
    """MLM loss of fused corrupted phrases [B, L, D], with those of the momentum model as teacher if there are any.

    Without distillation over the sequence logits are needed at labelled positions only. Those are few, and are
    predicted in the weights' own precision: rounding the vocabulary's weights to bf16 would cost more.
    """
    weights = model.text_encoder.cls.predictions.decoder.weight
    labelled_only = distillation == "vocabulary" or fused_m is None
    if labelled_only:
        labelled = labels != IGNORED
        fused, labels = fused[labelled].to(weights.dtype), labels[labelled]  # [M, D], [M]
        fused_m = None if fused_m is None else fused_m[labelled].to(weights.dtype)
    autocast = torch.is_autocast_enabled(fused.device.type) and not labelled_only
    with torch.autocast(fused.device.type, enabled=autocast):
        with torch.no_grad():
            teacher_logits = None if fused_m is None else model.text_encoder_m.predict(fused_m)
        return masked_language_loss(model.text_encoder.predict(fused), teacher_logits, labels, alpha, distillation)
