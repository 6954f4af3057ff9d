"""The detector-based system: phrases matched with a detector's proposals (after Dou & Peng, EMNLP 2021).

Theirs: a vision-language model over region features, pretrained on images with captions, is asked which region each
phrase means, by the similarity of their embeddings and without box supervision of phrases; it is then finetuned on the
pairs that it finds, by four objectives: masked language modelling of the phrase given its regions, masked region
modelling given the phrase, and a contrastive and a matching term on the pairs.

Ours, where the paper leaves room or our model differs: the model is this study's ALBEF with a tower over proposals
(`model.region_tower`), so that both systems share text layers, fusion layers, words and pretraining objectives. A
phrase's embedding is its projected class token, a region's the same projection of its token. The matched region is the
most similar one of the phrase's own image, found anew in every step. The contrastive term compares a phrase with each
image's most similar region. In matching and in language modelling the fusion layers see the matched region alone; the
non-matching pairs are the most similar regions of images drawn by similarity. In region modelling the features (not the
place) of one matched region an image are hidden, and the fused class token has to predict them.

I images, B phrases, K proposals, L text positions, D width, E contrastive width, F region features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.model import ALBEF
from amc_lib.model.objectives import draw_negatives, masked_language_loss, matching_loss
from amc_lib.model.region_tower import GEOMETRY
from amc_lib.phrases import Tokenizer
from amc_lib.step import Batch


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


def is_proposal(regions: Tensor) -> Tensor:
    """bool [..., K]: a row without area is padding, for an image with fewer proposals than others."""
    return regions[..., -1] > 0


def region_features(model: ALBEF, image_embeds: Tensor) -> Tensor:
    """image_embeds [I, K + 1, D] -> [I, K, E] of unit length, in the space of the phrases."""
    return F.normalize(model.vision_proj(image_embeds[:, 1:]), dim=-1)


def pair_losses(
    model: ALBEF,
    batch: Batch,
    objective: ObjectiveSettings,
    amc: AmcSettings,
    *,
    generator: torch.Generator | None = None,
    **_: object,
) -> PairLosses:
    """The four objectives on the pairs that the model itself matches; `amc` and boxes are not used."""
    rows, regions = batch.image_rows, batch.image
    model.clamp_temperature()
    image_embeds = model.visual_encoder(regions)  # [I, K + 1, D]
    text_embeds, corrupted = model.encode_text(
        torch.cat((batch.input_ids, batch.mlm_input_ids)), batch.attention_mask.repeat(2, 1)
    ).split(len(rows))
    cosines = similarities(model.text_features(text_embeds), region_features(model, image_embeds), regions)
    best, matched = cosines.max(-1)  # [B, I], each image's most similar region
    sim = best / model.temp
    own = rows[:, None] == torch.arange(len(regions), device=rows.device)  # [B, I]
    same = rows[:, None] == rows  # [B, B]
    phrases = torch.arange(len(rows), device=rows.device)
    image_rows, _ = draw_negatives(sim[:, rows].T, sim[:, rows], same, generator=generator)  # text b, image of phrase

    other, mask = rows[image_rows], batch.attention_mask
    of_own, of_other = matched[phrases, rows], matched[phrases[: len(other)], other]
    texts = torch.cat((text_embeds, text_embeds[: len(other)], corrupted))
    memory = model.text_encoder.remember(image_embeds)
    alone = memory.tokens(torch.cat((rows, other, rows)), 1 + torch.cat((of_own, of_other, of_own)))  # 0: class token
    fused = model.text_encoder.fuse(texts, torch.cat((mask, mask[: len(other)], mask)), alone)
    asked = len(rows) + len(other)
    return PairLosses(
        mlm=_language(model, fused[asked:], batch.mlm_labels),
        mrm=_regions(model, batch, text_embeds, matched),
        itc=_contrast(sim, own),
        itm=matching_loss(model.match(fused[:asked]), positives=len(rows)),
    )


def _contrast(sim: Tensor, own: Tensor) -> Tensor:
    """InfoNCE in both directions: of a phrase its image, of an image (equally) its phrases."""
    of_image = own.T.float() / own.T.sum(1, keepdim=True).clamp(min=1)  # [I, B]
    return (F.cross_entropy(sim, own.float()) + F.cross_entropy(sim.T, of_image)) / 2


def _language(model: ALBEF, fused: Tensor, labels: Tensor) -> Tensor:
    logits = model.text_encoder.predict(fused)
    return masked_language_loss(logits, logits.detach(), labels, alpha=0.0)


def _regions(model: ALBEF, batch: Batch, text_embeds: Tensor, matched: Tensor) -> Tensor:
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


@torch.no_grad()
def score_regions(
    model: ALBEF, tokenizer: Tokenizer, regions: Tensor, phrases: Sequence[str], image_rows: Sequence[int]
) -> dict[str, Tensor]:
    """How well each phrase matches each proposal of its image, three ways, [P, K] each; -inf where there is none.

    regions: [I, K, F + 5]. "similarity": cosine of the embeddings over the temperature. "matching": the log-odds that
    the fusion layers give to the phrase with the proposal alone. "both": their sum.
    """
    was_training = model.training
    model.eval()
    try:
        input_ids, mask = tokenizer(phrases, model.settings.text.positions)
        rows, K = torch.as_tensor(image_rows), regions.shape[1]
        image_embeds, text_embeds = model.visual_encoder(regions), model.encode_text(input_ids, mask)
        cosines = similarities(model.text_features(text_embeds), region_features(model, image_embeds), regions)
        similarity = cosines[torch.arange(len(rows)), rows] / model.temp  # [P, K]
        memory = model.text_encoder.remember(image_embeds)
        alone = memory.tokens(rows.repeat_interleave(K), 1 + torch.arange(K).repeat(len(rows)))
        fused = model.text_encoder.fuse(text_embeds.repeat_interleave(K, 0), mask.repeat_interleave(K, 0), alone)
        logits = model.match(fused).unflatten(0, (len(rows), K))  # [P * K, 2] -> [P, K, 2]
    finally:
        model.train(was_training)
    matching = logits[..., 1] - logits[..., 0]
    missing = ~is_proposal(regions)[rows]
    scores = {"similarity": similarity, "matching": matching, "both": similarity + matching}
    return {name: score.masked_fill(missing, -torch.inf) for name, score in scores.items()}
