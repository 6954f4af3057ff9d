"""GradCAM heatmaps: against an independent version, and that they can be differentiated, padded and let go.

The independent version knows nothing of autograd, hooks or transformers: it runs the fusion layers from the weights
and finds the gradient of the match logit by changing one attention weight after the other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from reference_cases import TINY_AMC, TINY_LAYER, TINY_OBJECTIVE, tiny_batch, tiny_model
from torch import Tensor

from amc_lib import gradcam
from amc_lib.config import AmcSettings
from amc_lib.losses import max_loss, mean_loss
from amc_lib.model import ALBEF
from amc_lib.step import Batch, Losses, training_losses

LAYERS = pytest.mark.parametrize("layer", [2, 3, 4])
OPEN = AmcSettings(delta1=1, delta2=1, layer=TINY_LAYER)  # margins at which every hinge is open


# ---------------------------------------------------------------------------------------------- independent version


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def add_and_norm(weights: dict[str, Tensor], name: str, x: Tensor, residual: Tensor) -> Tensor:
    """BERT's output block: a linear layer, the residual, then the norm."""
    y = linear(weights, f"{name}.dense", x) + residual
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
    return y * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]


def attend(weights: dict[str, Tensor], name: str, x: Tensor, source: Tensor, mask: Tensor | None, change) -> tuple:
    """Attention of one sample, head by head: x [L, D] looks at source [N, D]; `change` is added to it [h, L, N]."""
    heads, maps, outputs = len(change), [], []
    query, key, value = (
        linear(weights, f"{name}.self.{part}", tokens).chunk(heads, dim=-1)
        for part, tokens in (("query", x), ("key", source), ("value", source))
    )
    for h in range(heads):
        scores = query[h] @ key[h].T / math.sqrt(query[h].shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask[None] == 0, -math.inf)
        maps.append(torch.exp(scores - scores.max()) / torch.exp(scores - scores.max()).sum(-1, keepdim=True))
        outputs.append((maps[h] + change[h]) @ value[h])
    return add_and_norm(weights, f"{name}.output", torch.cat(outputs, -1), x), torch.stack(maps)


def naive_match(model: ALBEF, text: Tensor, mask: Tensor, image: Tensor, layer: int, change: Tensor) -> tuple:
    """Match logit of one pair (text [L, D], image [N, D]) and the attention [h, L, N] of `layer` before `change`."""
    weights = model.state_dict()
    none = torch.zeros(len(change), 1, 1, dtype=text.dtype)
    kept = None
    for i in range(model.settings.text.fusion_from, model.settings.text.layers):
        name = f"text_encoder.bert.encoder.layer.{i}"
        text, _ = attend(weights, f"{name}.attention", text, text, mask, none)
        text, maps = attend(weights, f"{name}.crossattention", text, image, None, change if i == layer else none)
        kept = maps if i == layer else kept
        inner = linear(weights, f"{name}.intermediate.dense", text)
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        text = add_and_norm(weights, f"{name}.output", inner, text)
    return linear(weights, "itm_head", text[0])[1].item(), kept


def naive_gradient(model: ALBEF, text: Tensor, mask: Tensor, image: Tensor, layer: int, step: float = 1e-5) -> Tensor:
    """How much the match logit of one pair rises with each attention weight [h, L, N], by central differences."""
    shape = (model.settings.text.heads, len(text), len(image))
    gradient = torch.zeros(shape, dtype=text.dtype)
    for place in itertools.product(*(range(n) for n in shape)):
        change = torch.zeros(shape, dtype=text.dtype)
        change[place] = step
        up, _ = naive_match(model, text, mask, image, layer, change)
        down, _ = naive_match(model, text, mask, image, layer, -change)
        gradient[place] = (up - down) / (2 * step)
    return gradient


def naive_heatmap(attention: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
    """[h, L, 1 + G*G] -> [G, G]: mean over heads and all positions of attention times positive gradient."""
    heads, positions, tokens = attention.shape
    side = math.isqrt(tokens - 1)
    heat = [[0.0] * side for _ in range(side)]
    for h, position, n in itertools.product(range(heads), range(positions), range(1, tokens)):
        if mask[position]:
            value = attention[h, position, n].item() * max(gradient[h, position, n].item(), 0.0)
            heat[(n - 1) // side][(n - 1) % side] += value / (heads * positions)
    return torch.tensor(heat, dtype=attention.dtype)


# ------------------------------------------------------------------------------------------------------------ helpers


def encoded(model: ALBEF, batch: Batch) -> tuple[Tensor, Tensor]:
    return model.encode_image(batch.image), model.encode_text(batch.input_ids, batch.attention_mask)


def watched_pass(model: ALBEF, batch: Batch, layer: int = TINY_LAYER, *, twice: bool = True):
    """The watch and the itm_logits of the matching pairs."""
    image_embeds, text_embeds = encoded(model, batch)
    memory = model.text_encoder.remember(image_embeds)
    with gradcam.watch_attention(model.text_encoder, layer, twice=twice) as watch:
        logits = model.match(model.text_encoder.fuse(text_embeds, batch.attention_mask, memory))
    return watch, logits


def raw_heatmap(model: ALBEF, batch: Batch, layer: int = TINY_LAYER, *, create_graph: bool = True) -> Tensor:
    watch, logits = watched_pass(model, batch, layer, twice=create_graph)
    return gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=create_graph)


def losses_of(model: ALBEF, batch: Batch, amc: AmcSettings = TINY_AMC) -> Losses:
    return training_losses(model, batch, TINY_OBJECTIVE, amc, alpha=0.4, generator=torch.Generator().manual_seed(0))


def padded(batch: Batch, extra: int) -> Batch:
    """The same phrases with `extra` more padded positions on the right."""
    longer = {name: F.pad(getattr(batch, name), (0, extra)) for name in ("input_ids", "attention_mask")}
    return dataclasses.replace(batch, **longer)


def watching(model: ALBEF) -> list[str]:
    return [name for name, module in model.named_modules() if getattr(module, "watch", None)]


# --------------------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("row", [0, 2])
def test_heatmap_is_the_naive_one(row):
    model, batch = tiny_model(), tiny_batch(3)
    raw = raw_heatmap(model, batch)[row].detach()
    with torch.no_grad():
        image, text = (embeds[row] for embeds in encoded(model, batch))
        mask, none = batch.attention_mask[row], torch.zeros(2, 1, 1, dtype=torch.float64)
        _, attention = naive_match(model, text, mask, image, TINY_LAYER, none)
        gradient = naive_gradient(model, text, mask, image, TINY_LAYER)
    expected = naive_heatmap(attention, gradient, mask)
    assert expected.max() > 1e-3
    torch.testing.assert_close(raw, expected, rtol=1e-6, atol=1e-9)


@LAYERS
@pytest.mark.parametrize("twice", [True, False])
def test_heatmap_follows_from_attention_and_gradient(layer, twice):
    model, batch = tiny_model(), tiny_batch(3)
    watch, logits = watched_pass(model, batch, layer, twice=twice)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), watch.probabilities, retain_graph=True)
    raw = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=twice)
    sums = watch.probabilities.sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    for row, expected in enumerate(map(naive_heatmap, watch.probabilities, gradient, batch.attention_mask)):
        torch.testing.assert_close(raw[row], expected)


@pytest.mark.parametrize("word", [0, 1, 3])
def test_masked_words_add_no_heat(word):
    """Any word can be left out of the mean, whatever mask the pass itself was made with."""
    model, batch = tiny_model(), tiny_batch(3)
    watch, logits = watched_pass(model, batch, layer=2)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), watch.probabilities, retain_graph=True)
    mask = batch.attention_mask.clone()
    mask[:, word] = 0
    raw = gradcam.heatmap(watch, logits, mask, create_graph=True)
    with_all = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=True)
    for row in range(3):
        torch.testing.assert_close(raw[row], naive_heatmap(watch.probabilities[row], gradient[row], mask[row]))
        assert raw[row].sum() < with_all[row].sum()


@LAYERS
def test_match_logit_is_the_naive_one(layer):
    model, batch = tiny_model(), tiny_batch(3)
    watch, logits = watched_pass(model, batch, layer)
    with torch.no_grad():
        for row, (image, text) in enumerate(zip(*encoded(model, batch), strict=True)):
            none = torch.zeros(2, 1, 1, dtype=torch.float64)
            logit, attention = naive_match(model, text, batch.attention_mask[row], image, layer, none)
            assert logits[row, 1].item() == pytest.approx(logit, rel=1e-9)
            torch.testing.assert_close(watch.probabilities[row], attention)


@LAYERS
@pytest.mark.parametrize("create_graph", [True, False])
def test_plain_attention_is_the_heatmap_without_its_gradient(layer, create_graph):
    model, batch = tiny_model(), tiny_batch(3)
    watch, logits = watched_pass(model, batch, layer, twice=False)
    raw = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=create_graph, explanation="attention")
    assert raw.requires_grad == create_graph
    ones = torch.ones_like(watch.probabilities)
    for row, expected in enumerate(map(naive_heatmap, watch.probabilities, ones, batch.attention_mask)):
        torch.testing.assert_close(raw[row].detach(), expected)
    with_tokens, of_tokens = gradcam.token_heatmaps(watch, logits, batch.attention_mask, "attention")
    torch.testing.assert_close(with_tokens, raw.detach())
    torch.testing.assert_close(of_tokens.mean(1), with_tokens)


def test_loss_on_plain_attention_has_the_gradient_of_finite_differences():
    model, batch = tiny_model(), tiny_batch(3)
    amc = dataclasses.replace(OPEN, explanation="attention")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weight = model.text_encoder.layers[TINY_LAYER].crossattention.self.key.weight
    (gradient,) = torch.autograd.grad(losses_of(model, batch, amc).amc, [weight])
    largest, step = divmod(gradient.abs().argmax().item(), gradient.shape[1]), 1e-6
    ends = []
    for sign in (1, -1):
        model.load_state_dict(state)
        with torch.no_grad():
            weight[largest] += sign * step
        ends.append(losses_of(model, batch, amc).amc.item())
    assert abs(gradient[largest]) > 1e-6
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient[largest].item(), rel=1e-4)


@LAYERS
def test_map_without_graph_has_the_same_values(layer):
    model, batch = tiny_model(), tiny_batch(3)
    with_graph = raw_heatmap(model, batch, layer, create_graph=True)
    without = raw_heatmap(model, batch, layer, create_graph=False)
    assert with_graph.requires_grad and not without.requires_grad
    torch.testing.assert_close(without, with_graph.detach())


@LAYERS
@pytest.mark.parametrize("twice", [True, False])
def test_plain_attention_equals_fused(layer, twice):
    model, batch = tiny_model(), tiny_batch(3)
    image_embeds, text_embeds = encoded(model, batch)
    fused = model.text_encoder.fuse(text_embeds, batch.attention_mask, model.text_encoder.remember(image_embeds))
    _, logits = watched_pass(model, batch, layer, twice=twice)
    torch.testing.assert_close(logits, model.match(fused), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (7, 11)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_upsample_keeps_a_constant_and_its_size(size, mode):
    maps = torch.tensor([0.25, 3.0])[:, None, None].expand(2, 4, 4)
    torch.testing.assert_close(gradcam.upsample(maps, size, mode), maps[:, :1, :1].expand(2, *size))


def test_upsample_uses_half_pixel_centres():
    row = gradcam.upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4), "bilinear")
    assert row.flatten().tolist() == [0, 0.25, 0.75, 1]


def test_normalise_is_min_max_of_each_sample():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[0.0, -4.0], [4.0, 0.0]]])
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.5, 0.0], [1.0, 0.5]]])
    torch.testing.assert_close(gradcam.normalise(maps), expected, rtol=1e-6, atol=0)
    assert (gradcam.normalise(maps, eps=1.0) < gradcam.normalise(maps)).any()


# ---------------------------------------------------------------------------------------------- the second derivative


def amc_and_directional(model: ALBEF, batch: Batch, names: list[str], seed: int) -> tuple[list, list[Tensor], float]:
    """The named parameters, a random direction in them, and the derivative of L_amc along it by autograd."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for n, p in model.named_parameters() if any(name in n for name in names) and p.requires_grad]
    parameters = [p for p in parameters if p.ndim > 0]
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    loss = losses_of(model, batch, OPEN).amc
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return parameters, direction, sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))


def slope(model: ALBEF, batch: Batch, parameters: list, direction: list[Tensor], step: float) -> float:
    """Central difference of L_amc along the direction."""

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=distance)
        return losses_of(model, batch, OPEN).amc.item()

    up = loss_at(step)
    down = loss_at(-2 * step)
    loss_at(step)  # back to where it was
    return (up - down) / (2 * step)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "names",
    [
        ["visual_encoder.", "text_encoder.", "itm_head."],
        ["visual_encoder."],
        ["embeddings."],
        ["layer.0.", "layer.1."],
        ["layer.2."],
        [f"layer.{TINY_LAYER}.crossattention.self.query", f"layer.{TINY_LAYER}.crossattention.self.key"],
        [f"layer.{TINY_LAYER}.crossattention.self.value"],
        ["layer.4.attention", "layer.4.crossattention"],
        ["itm_head.weight"],
    ],
    ids=lambda names: " ".join(names),
)
def test_gradient_of_amc_is_its_slope(names, seed):
    """Through the gradient of a gradient, for parameters on every side of the watched layer."""
    model, batch = tiny_model(), tiny_batch(3)
    parameters, direction, derivative = amc_and_directional(model, batch, names, seed)
    assert abs(derivative) > 1e-2
    assert slope(model, batch, parameters, direction, step=1e-6) == pytest.approx(derivative, rel=1e-5)


# ---------------------------------------------------------------------------------------------------- awkward batches


def test_batch_of_one():
    model, batch = tiny_model(), tiny_batch(1)
    losses = losses_of(model, batch)
    official = losses_of(tiny_model(), batch, dataclasses.replace(TINY_AMC, mean_form="official"))
    assert losses.total.isfinite() and losses.amc > 0
    torch.testing.assert_close(official.amc, losses.amc)
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)


def test_one_boxed_sample_counts_alone():
    """Samples without a box take no part: L_amc is that of the boxed one, whatever masks the others carry."""
    model, batch = tiny_model(), tiny_batch(3)
    batch.has_box = torch.tensor([False, True, False])
    heat = gradcam.normalise(raw_heatmap(model, batch)[1:2])
    heat, mask = gradcam.upsample(heat, (16, 16), "bilinear"), batch.box_mask[1:2]
    expected = 0.2 * mean_loss(heat, mask, 0.1)[0] + 0.8 * max_loss(heat, mask, 0.5)[0]
    torch.testing.assert_close(losses_of(model, batch).amc, expected)


def test_no_boxed_sample_leaves_the_three_losses_of_albef():
    batch = tiny_batch(3)
    batch.has_box = torch.zeros(3, dtype=torch.bool)
    losses = losses_of(tiny_model(), batch)
    off = losses_of(tiny_model(), tiny_batch(3), AmcSettings(lambda1=0, lambda2=0, layer=TINY_LAYER))
    for each in (losses, off):
        assert each.amc.item() == 0
        assert each.total.item() == (each.mlm + each.itc + each.itm).item()
    torch.testing.assert_close(losses.total, off.total)
    losses.total.backward()


def test_amc_leaves_the_other_losses_as_they_are():
    with_amc = losses_of(tiny_model(), tiny_batch(3))
    without = losses_of(tiny_model(), tiny_batch(3), AmcSettings(lambda1=0, lambda2=0, layer=TINY_LAYER))
    for name in ("mlm", "itc", "itm"):
        torch.testing.assert_close(getattr(with_amc, name), getattr(without, name))


@pytest.mark.parametrize("form", ["paper", "official"])
def test_heatmap_of_zeros_costs_its_margins(form):
    """A match logit that depends on nothing has no heat anywhere; loss and gradients stay finite."""
    model, batch = tiny_model(), tiny_batch(3)
    with torch.no_grad():
        model.itm_head.weight.zero_()
    assert raw_heatmap(model, batch).count_nonzero() == 0
    amc = AmcSettings(lambda1=0.3, lambda2=0.6, delta1=0.2, delta2=0.7, layer=TINY_LAYER, mean_form=form)
    losses = losses_of(model, batch, amc)
    assert losses.amc.item() == pytest.approx(0.3 * 0.2 + 0.6 * 0.7)
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("extra", [1, 5])
def test_more_padding_scales_the_raw_map_and_nothing_else(extra):
    model, short = tiny_model(), tiny_batch(3)
    long = padded(short, extra)
    length = short.input_ids.shape[1]
    raw, raw_long = raw_heatmap(model, short), raw_heatmap(model, long)
    torch.testing.assert_close(raw_long, raw * length / (length + extra), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(watched_pass(model, long)[1], watched_pass(model, short)[1], rtol=1e-9, atol=1e-12)
    effect_of_eps = 2 * gradcam.NORMALISE_EPS / (raw_long.amax((1, 2)) - raw_long.amin((1, 2))).min().item()
    assert effect_of_eps < 1e-3
    maps, maps_long = gradcam.normalise(raw), gradcam.normalise(raw_long)
    torch.testing.assert_close(maps_long, maps, rtol=0, atol=effect_of_eps)
    points, points_long = (
        gradcam.upsample(m, (97, 131), "bicubic").flatten(1).argmax(1) for m in (raw, raw_long)
    )  # fmt: skip
    assert points.equal(points_long)


def test_words_behind_the_mask_do_not_matter():
    model, batch = tiny_model(), tiny_batch(3)
    other = dataclasses.replace(batch, input_ids=torch.where(batch.attention_mask == 0, 17, batch.input_ids))
    assert not other.input_ids.equal(batch.input_ids)
    torch.testing.assert_close(raw_heatmap(model, other), raw_heatmap(model, batch))


def test_heatmaps_of_a_batch_do_not_mix():
    model, batch = tiny_model(), tiny_batch(3)
    second = {name: tensor[1:2] for name, tensor in vars(batch).items() if tensor.ndim}
    alone = Batch(**second | {"image_rows": torch.zeros(1).long(), "unreadable": batch.unreadable})
    torch.testing.assert_close(raw_heatmap(model, alone)[0], raw_heatmap(model, batch)[1])


# ------------------------------------------------------------------------------------------------ attach and let go


@pytest.mark.parametrize("twice", [True, False])
def test_nothing_stays_attached(twice):
    model = tiny_model()
    with gradcam.watch_attention(model.text_encoder, TINY_LAYER, twice=twice):
        inside = watching(model)
    above = [f"text_encoder.bert.encoder.layer.4.{kind}.self" for kind in ("attention", "crossattention")]
    expected = [f"text_encoder.bert.encoder.layer.{TINY_LAYER}.crossattention.self"] + (above if twice else [])
    assert inside == expected
    assert watching(model) == []


@pytest.mark.parametrize("twice", [True, False])
def test_nothing_stays_attached_after_an_exception(twice):
    model = tiny_model()
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        gradcam.watch_attention(model.text_encoder, TINY_LAYER, twice=twice),
    ):
        raise RuntimeError("in the middle")
    assert watching(model) == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("create_graph", [True, False])
def test_modes_and_gradients_are_left_as_they_were(training, create_graph):
    model, batch = tiny_model().train(training), tiny_batch(2)
    model.text_encoder.bert.encoder.layer[1].train(not training)  # a mixture, which must survive too
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: torch.randn_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.grad = before[name].clone() if name in before else None
    raw_heatmap(model, batch, create_graph=create_graph)
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, parameter in model.named_parameters():
        assert parameter.grad is None if name not in before else parameter.grad.equal(before[name])


@pytest.mark.parametrize("layer", [-1, 0, 1, 5, 12])
def test_layer_without_cross_attention_is_refused(layer):
    model = tiny_model()
    message = f"layer {layer} has no cross-attention; fusion layers are 2-4"
    with (
        pytest.raises(ValueError, match=message),
        gradcam.watch_attention(model.text_encoder, layer, twice=True),
    ):
        pass
    assert watching(model) == []
