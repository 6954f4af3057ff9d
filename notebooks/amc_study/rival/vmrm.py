"""The detector-based system: phrases matched with a detector's proposals (after Dou & Peng, EMNLP 2021).

Theirs: a vision-language model over region features, pretrained on images with captions, matches each phrase with the
region of the most similar embedding, without box supervision of phrases. It is then finetuned on the pairs that it
finds, by four objectives: masked language modelling of the phrase given its regions, masked region modelling given the
phrase, and a contrastive and a matching term on the pairs.

Ours, where the paper leaves room: the model is this study's ALBEF with a tower over proposals (`region_tower`). A
phrase's embedding is its projected class token, a region's the same projection of its token; matches are found anew in
every step, in the phrase's own image. The contrast compares a phrase with each image's most similar region. In matching
and language modelling the fusion layers see the matched region alone; pairs that do not match are the most similar
regions of images drawn by similarity. In region modelling the features (not the place) of one matched region an image
are hidden, and the fused class token predicts them.

I images, B phrases, K proposals, L text positions, D width, E contrastive width, F region features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.evaluate import evaluating
from amc_lib.losses import draw_negatives, masked_language_loss, matching_loss
from amc_lib.model.memory import ImageMemory
from amc_lib.step import Batch
from amc_lib.tokens import IGNORED, Tokenizer
from amc_study.rival.region_tower import GEOMETRY, VMRM

WAYS = ("similarity", "matching", "both")  # of scoring a proposal, `score_regions`


@dataclass
class PairLosses:
    """The four terms, scalars; `total` is what is minimised."""

    mlm: Tensor
    mrm: Tensor
    itc: Tensor
    itm: Tensor

    @property
    def total(self) -> Tensor:
        return self.mlm + self.mrm + self.itc + self.itm


def similarities(text_feat: Tensor, region_feat: Tensor, regions: Tensor) -> Tensor:
    """[B, I, K] cosines of phrases [B, E] and regions [I, K, E]; -1 where `regions` [I, K, F + 5] has no proposal."""
    cosines = torch.einsum("be,ike->bik", text_feat, region_feat)
    return cosines.masked_fill(~is_proposal(regions), -1)


def best_similarity(cosines: Tensor, softness: float) -> Tensor:
    """[..., K] -> [...]: the largest cosine or, with a softness s, s * log sum exp(cosine / s).

    The soft form is never below the largest and lets every proposal learn, each by its share of the softmax.
    """
    return (cosines / softness).logsumexp(-1) * softness if softness else cosines.amax(-1)


def is_proposal(regions: Tensor) -> Tensor:
    """bool [..., K]: a row without area is padding, for an image with fewer proposals than others."""
    return regions[..., -1] > 0


def region_features(model: VMRM, image_embeds: Tensor) -> Tensor:
    """image_embeds [I, K + 1, D] -> [I, K, E] of unit length, in the space of the phrases."""
    return F.normalize(model.vision_proj(image_embeds[:, 1:]), dim=-1)


def pair_losses(
    model: VMRM,
    batch: Batch,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    *,
    fuse: bool = True,
    hard_negatives: bool = True,
    generator: torch.Generator | None = None,
    **_: object,
) -> PairLosses:
    """The four objectives on the pairs that the model itself matches; `amc` and boxes are not used.

    Without `fuse` the contrast alone aligns phrases and proposals; the other terms are then 0.
    """
    rows, regions, mask = batch.image_rows, batch.image, batch.attention_mask
    model.clamp_temperature()
    image_embeds = model.visual_encoder(regions)  # [I, K + 1, D]
    texts = (batch.input_ids, batch.mlm_input_ids) if fuse else (batch.input_ids,)
    encoded = model.encode_text(torch.cat(texts), mask.repeat(len(texts), 1))  # [2B, L, D]; [B, L, D] without fusion
    text_embeds, *corrupted = encoded.split(len(rows))
    cosines = similarities(model.text_features(text_embeds), region_features(model, image_embeds), regions)
    sim = best_similarity(cosines, objective.region_softness) / model.temp  # [B, I]
    itc = _contrast(sim, rows[:, None] == torch.arange(len(regions), device=rows.device))
    if not fuse:
        return PairLosses(mlm=itc.new_zeros(()), mrm=itc.new_zeros(()), itc=itc, itm=itc.new_zeros(()))

    sims, same = sim[:, rows], rows[:, None] == rows  # [B, B]
    negatives, _ = draw_negatives(sims.T, sims, same, hard=hard_negatives, generator=generator)
    other, matched = rows[negatives], cosines.argmax(-1)  # [B] or none; [B, I], each image's most similar region
    phrases = torch.arange(len(rows), device=rows.device)
    own, others = matched[phrases, rows], matched[phrases[: len(other)], other]
    memory = model.text_encoder.remember(image_embeds)
    tokens = 1 + torch.cat((own, others, own))  # token 0 is the class token
    alone = single_tokens(memory, torch.cat((rows, other, rows)), tokens)
    texts = torch.cat((text_embeds, text_embeds[: len(other)], corrupted[0]))
    fused = model.text_encoder.fuse(texts, torch.cat((mask, mask[: len(other)], mask)), alone)
    fused_pairs, fused_corrupted = fused.split((len(rows) + len(other), len(rows)))
    hidden = batch.mlm_labels != IGNORED
    logits = model.text_encoder.predict(fused_corrupted[hidden])  # [M, V], of the corrupted positions alone
    return PairLosses(
        mlm=masked_language_loss(logits, None, batch.mlm_labels[hidden], alpha=0.0),
        mrm=_regions(model, batch, text_embeds, matched),
        itc=itc,
        itm=matching_loss(model.match(fused_pairs), positives=len(rows)),
    )


def single_tokens(memory: ImageMemory, image: Tensor, token: Tensor) -> ImageMemory:
    """The memory of one token each: token `token[r]` of image `image[r]`, int64 [R] both."""
    # [I, h, N, d] -> [R, h, d] -> [R, h, 1, d]
    return ImageMemory({i: tuple(x[image, :, token][:, :, None] for x in both) for i, both in memory.layers.items()})


def _contrast(sim: Tensor, own: Tensor) -> Tensor:
    """InfoNCE in both directions: of a phrase its image, of an image (equally) its phrases."""
    image_targets = own.T.float() / own.T.sum(1, keepdim=True).clamp(min=1)  # [I, B]
    return (F.cross_entropy(sim, own.float()) + F.cross_entropy(sim.T, image_targets)) / 2


def _regions(model: VMRM, batch: Batch, text_embeds: Tensor, matched: Tensor) -> Tensor:
    """1 - cosine of the hidden region's features and what is predicted; the first phrase of each image asks."""
    images = torch.arange(len(batch.image), device=batch.image.device)
    asking = (batch.image_rows[None, :] == images[:, None]).int().argmax(1)  # [I], the first phrase of each image
    hidden = matched[asking, images]  # [I]
    truth = batch.image[images, hidden, :-GEOMETRY]
    seen = batch.image.clone()
    seen[images, hidden, :-GEOMETRY] = 0
    memory = model.text_encoder.remember(model.visual_encoder(seen))
    fused = model.text_encoder.fuse(text_embeds[asking], batch.attention_mask[asking], memory)
    return 1 - F.cosine_similarity(model.region_head(fused[:, 0]), truth, dim=-1).mean()


def score_regions(
    model: VMRM,
    tokenizer: Tokenizer,
    regions: Tensor,
    phrases: Sequence[str],
    image_rows: Sequence[int],
    ways: Sequence[str] = WAYS,
) -> dict[str, Tensor]:
    """How well each phrase matches each proposal of its image, by each of `ways`, [P, K]; -inf where there is none.

    regions: [I, K, F + 5]. "similarity": cosine of the embeddings over the temperature. "matching": the log-odds that
    the fusion layers give to the phrase with the proposal alone. "both": their sum.
    """
    scores = {}
    with evaluating(model):
        input_ids, mask = tokenizer(phrases, model.settings.text.positions)
        rows = torch.as_tensor(image_rows)
        image_embeds, text_embeds = model.visual_encoder(regions), model.encode_text(input_ids, mask)
        if set(ways) != {"matching"}:
            cosines = similarities(model.text_features(text_embeds), region_features(model, image_embeds), regions)
            scores["similarity"] = cosines[torch.arange(len(rows)), rows] / model.temp  # [P, K]
        if set(ways) != {"similarity"}:
            scores["matching"] = _log_odds(model, image_embeds, rows, text_embeds, mask)
    if "both" in ways:
        scores["both"] = scores["similarity"] + scores["matching"]
    missing = ~is_proposal(regions)[rows]
    return {way: scores[way].masked_fill(missing, -torch.inf) for way in ways}


def _log_odds(model: VMRM, image_embeds: Tensor, rows: Tensor, text_embeds: Tensor, mask: Tensor) -> Tensor:
    """[P, K]: of a match against none, for each phrase with each proposal of its image alone."""
    P, K = len(rows), image_embeds.shape[1] - 1
    memory = model.text_encoder.remember(image_embeds)
    alone = single_tokens(memory, rows.repeat_interleave(K), 1 + torch.arange(K).repeat(P))
    fused = model.text_encoder.fuse(text_embeds.repeat_interleave(K, 0), mask.repeat_interleave(K, 0), alone)
    logits = model.match(fused).unflatten(0, (P, K))  # [P * K, 2] -> [P, K, 2]
    return logits[..., 1] - logits[..., 0]
