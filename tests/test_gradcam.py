"""GradCAM heatmaps: against the plain form, and that they can be differentiated, padded and let go."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from plain_step import fusion_layers
from reference_cases import TINY_AMC, TINY_LAYER, TINY_OBJECTIVE, tiny_batch, tiny_model
from torch import Tensor

from amc_lib import gradcam
from amc_lib.config import AmcSettings
from amc_lib.model import ALBEF
from amc_lib.model.attention import Attention
from amc_lib.step import Batch, Losses, training_losses

LAYERS = pytest.mark.parametrize("layer", [2, 3, 4])
TWICE = pytest.mark.parametrize("twice", [True, False])
OPEN = AmcSettings(delta1=1, delta2=1, layer=TINY_LAYER)  # margins at which every hinge is open
OFF = AmcSettings(lambda1=0, lambda2=0, layer=TINY_LAYER)


def watched_pass(model: ALBEF, batch: Batch, layer: int = TINY_LAYER, *, twice: bool = True, explanation="gradcam"):
    """The watch and the itm_logits of the matching pairs."""
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    memory = model.text_encoder.remember(model.encode_image(batch.image))
    with gradcam.watch_attention(model.text_encoder, layer, twice=twice, explanation=explanation) as watch:
        logits = model.match(model.text_encoder.fuse(text_embeds, batch.attention_mask, memory))
    return watch, logits


def raw_heatmap(model: ALBEF, batch: Batch, layer: int = TINY_LAYER, *, create_graph: bool = True) -> Tensor:
    watch, logits = watched_pass(model, batch, layer, twice=create_graph)
    return gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=create_graph)


def losses_of(model: ALBEF, batch: Batch, amc: AmcSettings = TINY_AMC) -> Losses:
    return training_losses(model, batch, TINY_OBJECTIVE, amc, alpha=0.4, generator=torch.Generator().manual_seed(0))


def watched_modules(model: ALBEF) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Attention) and module.watch]


def plain_pass(model: ALBEF, batch: Batch, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Match logits [B, 2], attention [B, h, L, N] of a layer and its gradient, with softmax written out everywhere."""
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    image_embeds = model.encode_image(batch.image)
    fused, attention = fusion_layers(model.text_encoder, text_embeds, batch.attention_mask, image_embeds)
    logits = model.itm_head(fused[:, 0])
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention[layer])
    return logits, attention[layer], gradient


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


@LAYERS
@TWICE
def test_heatmap_is_the_naive_one(layer, twice):
    model, batch = tiny_model(), tiny_batch(3)
    expected_logits, attention, gradient = plain_pass(model, batch, layer)
    watch, logits = watched_pass(model, batch, layer, twice=twice)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(watch.probabilities, attention)
    raw = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=twice)
    assert raw.requires_grad is twice and raw.max() > 1e-3
    for row, expected in enumerate(map(naive_heatmap, attention, gradient, batch.attention_mask)):
        torch.testing.assert_close(raw[row], expected)


@pytest.mark.parametrize("create_graph", [True, False])
def test_plain_attention_is_the_heatmap_without_its_gradient(create_graph):
    model, batch = tiny_model(), tiny_batch(3)
    watch, logits = watched_pass(model, batch, twice=False)
    raw = gradcam.heatmap(watch, logits, batch.attention_mask, create_graph=create_graph, explanation="attention")
    assert raw.requires_grad == create_graph
    ones = torch.ones_like(watch.probabilities)
    for row, expected in enumerate(map(naive_heatmap, watch.probabilities, ones, batch.attention_mask)):
        torch.testing.assert_close(raw[row].detach(), expected)


@LAYERS
@TWICE
def test_a_map_of_layers_is_the_sum_of_the_maps_of_this_layer_and_of_those_above(layer, twice):
    model, batch = tiny_model(), tiny_batch(3)
    mask = batch.attention_mask
    watch, logits = watched_pass(model, batch, layer, twice=twice, explanation="layers")
    raw = gradcam.heatmap(watch, logits, mask, create_graph=twice, explanation="layers")
    each = [plain_pass(model, batch, one)[1:] for one in range(layer, len(model.text_encoder.layers))]
    assert len(watch.above) == len(each) - 1
    for row in range(len(raw)):
        torch.testing.assert_close(raw[row], sum(naive_heatmap(a[row], g[row], mask[row]) for a, g in each))


@pytest.mark.parametrize("explanation", ["gradcam", "attention"])
def test_tokens_share_the_heatmap_and_masked_ones_add_nothing(explanation):
    model, batch = tiny_model(), tiny_batch(3)
    whole, shares = gradcam.token_heatmaps(*watched_pass(model, batch), batch.attention_mask, explanation)
    torch.testing.assert_close(shares.mean(1), whole)
    assert (shares.amax((2, 3)) > 0).equal(batch.attention_mask > 0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_upsample_keeps_a_constant_and_is_that_of_torch(mode):
    constant = torch.tensor([0.25, 3.0])[:, None, None].expand(2, 4, 4)
    torch.testing.assert_close(gradcam.upsample(constant, (7, 11), mode), constant[:, :1, :1].expand(2, 7, 11))
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[:, None], (17, 40), mode=mode, align_corners=False)[:, 0]
    torch.testing.assert_close(gradcam.upsample(maps, (17, 40), mode), expected)


def test_normalise_is_min_max_of_each_sample():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[0.0, -4.0], [4.0, 0.0]]])
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.5, 0.0], [1.0, 0.5]]])
    torch.testing.assert_close(gradcam.normalise(maps), expected, rtol=1e-6, atol=0)


def slope(model: ALBEF, batch: Batch, amc: AmcSettings, parameters: list, direction: list[Tensor], step: float):
    """Central difference of L_amc along a direction in parameters."""
    ends = []
    for distance in (step, -2 * step):
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=distance)
        ends.append(losses_of(model, batch, amc).amc.item())
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(
    ("names", "explanation"),
    [
        (["visual_encoder.", "text_encoder.", "itm_head."], "gradcam"),
        (["visual_encoder."], "gradcam"),
        (["embeddings.", "layer.0.", "layer.1.", "layer.2."], "gradcam"),
        ([f"layer.{TINY_LAYER}.crossattention.self.query", f"layer.{TINY_LAYER}.crossattention.self.key"], "gradcam"),
        ([f"layer.{TINY_LAYER}.crossattention.self.value"], "gradcam"),
        (["layer.4.attention", "layer.4.crossattention"], "gradcam"),
        (["itm_head.weight"], "gradcam"),
        ([f"layer.{TINY_LAYER}.crossattention.self.key"], "attention"),
        (["visual_encoder.", "text_encoder.", "itm_head."], "layers"),
    ],
    ids=str,
)
def test_gradient_of_amc_is_its_slope(names, explanation):
    """Through the gradient of a gradient, for parameters on every side of the watched layer."""
    model, batch, amc = tiny_model(), tiny_batch(3), dataclasses.replace(OPEN, explanation=explanation)
    generator = torch.Generator().manual_seed(0)
    parameters = [p for n, p in model.named_parameters() if any(part in n for part in names) and p.requires_grad]
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    loss = losses_of(model, batch, amc).amc
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    derivative = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    assert abs(derivative) > 1e-2
    assert slope(model, batch, amc, parameters, direction, step=1e-6) == pytest.approx(derivative, rel=1e-5)


def test_amc_is_zero_without_boxes_or_lambdas_and_leaves_the_other_losses_as_they_are():
    with_amc, batch = losses_of(tiny_model(), tiny_batch(3)), tiny_batch(3)
    batch.has_box[:] = False
    for without in (losses_of(tiny_model(), batch), losses_of(tiny_model(), tiny_batch(3), OFF)):
        assert without.amc.item() == 0 < with_amc.amc.item()
        for name in ("mlm", "itc", "itm"):
            torch.testing.assert_close(getattr(with_amc, name), getattr(without, name))
        torch.testing.assert_close(without.total, without.mlm + without.itc + without.itm)


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


def test_more_padding_scales_the_raw_map_and_nothing_else():
    model, short = tiny_model(), tiny_batch(3)
    extra, length = 5, short.input_ids.shape[1]
    longer = {name: F.pad(getattr(short, name), (0, extra)) for name in ("input_ids", "attention_mask")}
    raw, raw_longer = (raw_heatmap(model, batch) for batch in (short, dataclasses.replace(short, **longer)))
    torch.testing.assert_close(raw_longer, raw * length / (length + extra), rtol=1e-9, atol=1e-15)
    points = [gradcam.upsample(maps, (97, 131), "bicubic").flatten(1).argmax(1) for maps in (raw, raw_longer)]
    assert points[0].equal(points[1])


def test_words_behind_the_mask_and_other_samples_do_not_matter():
    model, batch = tiny_model(), tiny_batch(3)
    other = dataclasses.replace(batch, input_ids=torch.where(batch.attention_mask == 0, 17, batch.input_ids))
    assert not other.input_ids.equal(batch.input_ids)
    torch.testing.assert_close(raw_heatmap(model, other), raw_heatmap(model, batch))
    second = {name: tensor[1:2] for name, tensor in vars(batch).items() if tensor.ndim}
    alone = Batch(**second | {"image_rows": torch.zeros(1).long(), "unreadable": batch.unreadable})
    torch.testing.assert_close(raw_heatmap(model, alone)[0], raw_heatmap(model, batch)[1])


@TWICE
def test_nothing_stays_attached_whatever_happens_inside(twice):
    model = tiny_model()
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        gradcam.watch_attention(model.text_encoder, TINY_LAYER, twice=twice),
    ):
        assert len(watched_modules(model)) == (3 if twice else 1)
        with (
            pytest.raises(RuntimeError, match="already being watched"),
            gradcam.watch_attention(model.text_encoder, 4, twice=twice),
        ):
            pass
        raise RuntimeError("in the middle")
    assert watched_modules(model) == []


@pytest.mark.parametrize("layer", [-1, 1, 5])
def test_layer_without_cross_attention_is_refused(layer):
    model, message = tiny_model(), f"layer {layer} has no cross-attention; fusion layers are 2-4"
    with pytest.raises(ValueError, match=message), gradcam.watch_attention(model.text_encoder, layer, twice=True):
        pass
    assert watched_modules(model) == []
