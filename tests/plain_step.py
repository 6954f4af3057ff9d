"""The training step in its straightforward form: what the fast one is held against, in numbers, seconds and memory.

A plain loop of the published computation in float32 (or the model's own precision): every pass on its own, explicit
softmax in all attention, keys and values projected anew each time, one parameter after the other in AdamW and in the
momentum update. It runs on the weights of the same `ALBEF` and gives the same `Losses`. From the repository's root:

    from tests.plain_step import PlainStepper
    losses = PlainStepper(preset("paper")).step(random_batch(2))

B phrases, L text positions, N image tokens, D width, E contrastive width, Q queue size, h heads of d.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amc_lib.config import Settings
from amc_lib.losses import amc_terms, draw_negatives
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.model.attention import PADDING_SCORE
from amc_lib.step import Batch, Losses
from amc_lib.tokens import IGNORED


class PlainStepper:
    """A model with AdamW of its own, ready to take steps; the interface of `tests.bench.stepper.Stepper`."""

    def __init__(
        self, settings: Settings, model: ALBEF | None = None, learning_rate: float = 1e-5, weight_decay: float = 0.02
    ) -> None:
        """Without `model` one is built with the weights that `Stepper` has."""
        self.settings = settings
        if model is None:
            torch.manual_seed(0)
            model = ALBEF(settings.model)
        self.model = model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, foreach=False, fused=False)  # one by one

    def losses(self, batch: Batch, **draw: Any) -> Losses:
        """The losses with their graph; moves momentum model and queues. `draw`: `negatives` or `generator`."""
        return plain_losses(self.model, batch, self.settings, **draw)

    def step(self, batch: Batch, **draw: Any) -> Losses:
        self.optimizer.zero_grad()
        losses = self.losses(batch, **draw)
        losses.total.backward()
        self.optimizer.step()
        return losses


def plain_losses(
    model: ALBEF,
    batch: Batch,
    settings: Settings,
    alpha: float = 0.4,
    negatives: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """ITC, ITM, MLM and AMC of a single process, one pass each. `negatives` replays a draw: image rows, text rows."""
    rows, mask, amc = batch.image_rows, batch.attention_mask, settings.amc
    same_image = rows[:, None] == rows  # [B, B]
    with torch.no_grad():
        model.temp.clamp_(*model.settings.temperature_range)
    image_embeds = image_tower(model.visual_encoder, batch.image)[rows]  # [B, N, D]
    text_embeds = text_layers(model.text_encoder, batch.input_ids, mask)  # [B, L, D]

    with torch.no_grad():
        move_momentum(model)
        image_embeds_m = image_tower(model.visual_encoder_m, batch.image)[rows]
        text_embeds_m = text_layers(model.text_encoder_m, batch.input_ids, mask)
        image_feat_m = F.normalize(model.vision_proj_m(image_embeds_m[:, 0]), dim=-1)  # [B, E]
        text_feat_m = F.normalize(model.text_proj_m(text_embeds_m[:, 0]), dim=-1)
    itc, sim_i2t, sim_t2i = contrast(model, image_embeds, text_embeds, image_feat_m, text_feat_m, same_image, alpha)
    with torch.no_grad():
        enqueue(model.image_queue, model.queue_ptr_img, image_feat_m)
        enqueue(model.text_queue, model.queue_ptr_txt, text_feat_m)

    fused, cross_attention = fusion_layers(model.text_encoder, text_embeds, mask, image_embeds)
    positive_logits = model.itm_head(fused[:, 0])  # [B, 2]
    B = len(rows)
    images, texts = negatives or draw_negatives(sim_i2t[:, :B], sim_t2i[:, :B], same_image, generator=generator)
    own, rest = slice(len(images)), slice(len(texts))  # all B rows, or none in a batch of one image
    other_image, _ = fusion_layers(model.text_encoder, text_embeds[own], mask[own], image_embeds[images])
    other_text, _ = fusion_layers(model.text_encoder, text_embeds[texts], mask[texts], image_embeds[rest])
    logits = torch.cat((positive_logits, model.itm_head(other_image[:, 0]), model.itm_head(other_text[:, 0])))
    labels = (torch.arange(len(logits), device=logits.device) < B).long()

    mlm = masked_words(model, batch, image_embeds, image_embeds_m, alpha, settings.objective.mlm_distillation)
    l_mean = l_max = mlm.new_zeros(())
    if batch.has_box.any() and amc.active:
        l_mean, l_max = attention_map_consistency(positive_logits, cross_attention[amc.layer], batch, settings)
    l_amc = amc.lambda1 * l_mean + amc.lambda2 * l_max
    return Losses(
        mlm, itc, F.cross_entropy(logits, labels), l_amc, l_mean.detach(), l_max.detach(), l_amc.new_zeros(())
    )


# ------------------------------------------------------------------------------------------------------------- towers


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, padding: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """query [B, L, D], key and value [B, N, D] -> output [B, L, D] and probabilities [B, h, L, N]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))  # [B, h, ., d]
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    probabilities = (scores if padding is None else scores + padding).softmax(-1)
    return (F.dropout(probabilities, dropout) @ value).transpose(1, 2).flatten(2), probabilities


def image_tower(tower: nn.Module, image: Tensor) -> Tensor:
    """Normalised pixels [B, 3, S, S] -> image_embeds [B, N, D]: ViT with norms before its sublayers."""
    patches = tower.patch_embed.proj(image).flatten(2).transpose(1, 2)  # [B, D, G, G] -> [B, G*G, D]
    hidden = torch.cat((tower.cls_token.expand(len(image), -1, -1), patches), dim=1) + tower.pos_embed
    for block in tower.blocks:
        query, key, value = block.attn.qkv(block.norm1(hidden)).chunk(3, dim=-1)
        attended, _ = attend(query, key, value, block.attn.num_heads, None, 0.0)
        hidden = hidden + block.attn.proj(attended)
        hidden = hidden + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(hidden))))
    return tower.norm(hidden)


def attention_sublayer(
    sublayer: nn.Module, hidden: Tensor, tokens: Tensor, padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    """BERT's attention of hidden [B, L, D] to tokens [B, N, D], with residual and norm; and its probabilities."""
    own, out = sublayer.self, sublayer.output
    dropout = own.dropout.p if own.training else 0.0
    attended, probabilities = attend(own.query(hidden), own.key(tokens), own.value(tokens), own.heads, padding, dropout)
    return out.LayerNorm(out.dropout(out.dense(attended)) + hidden), probabilities


def feed_forward(layer: nn.Module, hidden: Tensor) -> Tensor:
    inner = F.gelu(layer.intermediate.dense(hidden))
    return layer.output.LayerNorm(layer.output.dropout(layer.output.dense(inner)) + hidden)


def additive(mask: Tensor, like: Tensor) -> Tensor:
    return (1 - mask[:, None, None].to(like.dtype)) * PADDING_SCORE  # [B, L] -> [B, 1, 1, L]


def text_layers(encoder: nn.Module, input_ids: Tensor, mask: Tensor) -> Tensor:
    """int64 [B, L] -> text_embeds [B, L, D]: embeddings and the layers below fusion."""
    hidden = encoder.bert.embeddings(input_ids)
    for layer in encoder.layers[: encoder.fusion_from]:
        hidden, _ = attention_sublayer(layer.attention, hidden, hidden, additive(mask, hidden))
        hidden = feed_forward(layer, hidden)
    return hidden


def fusion_layers(encoder: nn.Module, hidden: Tensor, mask: Tensor, image_embeds: Tensor) -> tuple[Tensor, dict]:
    """Fused [B, L, D], and the cross-attention [B, h, L, N] of each layer by its number."""
    cross_attention = {}
    for number in range(encoder.fusion_from, len(encoder.layers)):
        layer = encoder.layers[number]
        hidden, _ = attention_sublayer(layer.attention, hidden, hidden, additive(mask, hidden))
        hidden, cross_attention[number] = attention_sublayer(layer.crossattention, hidden, image_embeds, None)
        hidden = feed_forward(layer, hidden)
    return hidden, cross_attention


# ------------------------------------------------------------------------------------------------- momentum and losses


def move_momentum(model: ALBEF) -> None:
    for name in MOMENTUM_PAIRS:
        online, averaged = getattr(model, name).parameters(), getattr(model, f"{name}_m").parameters()
        for own, average in zip(online, averaged, strict=True):
            average.copy_(average * model.settings.momentum + own * (1 - model.settings.momentum))


def enqueue(queue: Tensor, pointer: Tensor, features: Tensor) -> None:
    for feature in features:
        queue[:, int(pointer)] = feature
        pointer.copy_((pointer + 1) % queue.shape[1])


def contrast(
    model: ALBEF, image_embeds: Tensor, text_embeds: Tensor, image_feat_m: Tensor, text_feat_m: Tensor,
    same_image: Tensor, alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ITC and the similarities image to text, text to image, [B, B + Q] both."""
    image_feat = F.normalize(model.vision_proj(image_embeds[:, 0]), dim=-1)  # [B, E]
    text_feat = F.normalize(model.text_proj(text_embeds[:, 0]), dim=-1)
    losses, similarities, B = [], [], len(image_feat)
    for feat, feat_m, others_m, queue in (
        (image_feat, image_feat_m, text_feat_m, model.text_queue),
        (text_feat, text_feat_m, image_feat_m, model.image_queue),
    ):
        candidates = torch.cat((others_m.T, queue.clone()), dim=1)  # [E, B + Q]
        similarity = feat @ candidates / model.temp
        with torch.no_grad():
            truth = torch.zeros_like(similarity)
            truth[:, :B] = same_image / same_image.sum(1, keepdim=True)
            targets = alpha * (feat_m @ candidates / model.temp).softmax(1) + (1 - alpha) * truth
        losses.append(-(similarity.log_softmax(1) * targets).sum(1).mean())
        similarities.append(similarity)
    return sum(losses) / 2, *similarities


def masked_words(
    model: ALBEF, batch: Batch, image_embeds: Tensor, image_embeds_m: Tensor, alpha: float, distillation: str
) -> Tensor:
    """MLM of the corrupted texts, with the momentum model's words as soft targets."""
    ids, mask, labels = batch.mlm_input_ids, batch.attention_mask, batch.mlm_labels
    with torch.no_grad():
        teacher = model.text_encoder_m
        fused_m, _ = fusion_layers(teacher, text_layers(teacher, ids, mask), mask, image_embeds_m)
        soft_labels = teacher.predict(fused_m).softmax(-1)  # [B, L, V]
    fused, _ = fusion_layers(model.text_encoder, text_layers(model.text_encoder, ids, mask), mask, image_embeds)
    words = model.text_encoder.predict(fused)  # [B, L, V]
    hard = F.cross_entropy(words.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    soft = -(words.log_softmax(1 if distillation == "official" else -1) * soft_labels).sum(-1)
    return (1 - alpha) * hard + alpha * soft[labels != IGNORED].mean()


def attention_map_consistency(itm_logits: Tensor, attention: Tensor, batch: Batch, settings: Settings):
    """L_mean and L_max of the GradCAM heatmaps of the matching pairs; `attention` [B, h, L, N] is its layer's."""
    amc, mask = settings.amc, batch.attention_mask[:, None, :, None]
    (gradient,) = torch.autograd.grad(itm_logits[:, 1].sum(), attention, create_graph=True)
    maps = (attention * gradient.clamp(min=0) * mask)[..., 1:].mean((1, 2))  # [B, N - 1]
    side = round(maps.shape[-1] ** 0.5)
    maps = maps.unflatten(-1, (side, side))[batch.has_box]  # [K, G, G]
    maps = maps - maps.amin((1, 2), keepdim=True)
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-7)
    maps = F.interpolate(maps[:, None], size=batch.box_mask.shape[-2:], mode="bilinear")[:, 0]
    box_mask = batch.box_mask[batch.has_box]
    return amc_terms(maps, box_mask, amc.delta1, amc.delta2, amc.mean_form)
