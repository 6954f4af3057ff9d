"""Equations 1-3: against plain-Python loops written from the paper, and the properties that they must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from amc_lib.losses import amc_loss, max_loss, mean_loss, pooled_mean_loss

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
MARGINS = st.floats(0, 2)
PROPERTY = settings(deadline=None, max_examples=40)  # no deadline: other work may share the cores
FORMS = pytest.mark.parametrize("form", ["paper", "official"])


@st.composite
def heatmaps_and_masks(draw) -> tuple[Tensor, Tensor]:
    """A heatmap in [0, 1] and a mask of 0 and 1, any of which may be empty, full, or constant."""
    shape = draw(SHAPES)
    heatmap = draw(arrays.arrays(np.float64, shape, elements=st.floats(0, 1)))
    mask = draw(arrays.arrays(np.bool_, shape))
    return torch.from_numpy(heatmap), torch.from_numpy(mask).double()


def pixels(heatmap: Tensor, mask: Tensor) -> tuple[list[float], list[float]]:
    """Values inside and outside the boxes of one sample [H, W]."""
    inside, outside = [], []
    for row, mask_row in zip(heatmap.tolist(), mask.tolist(), strict=True):
        for value, is_inside in zip(row, mask_row, strict=True):
            (inside if is_inside else outside).append(value)
    return inside, outside


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def peak(values: list[float]) -> float:
    return max(values, default=0.0)


def naive_mean_loss(inside: list[float], outside: list[float], margin: float) -> float:
    return max(0.0, mean(outside) - mean(inside) + margin)  # equation 1


def naive_max_loss(inside: list[float], outside: list[float], margin: float) -> float:
    return max(0.0, peak(outside) - peak(inside) + margin)  # equation 2


def naive_pooled_mean_loss(samples: list[tuple[list[float], list[float]]], margin: float) -> float:
    inside = [value for sample in samples for value in sample[0]]
    outside = [value for sample in samples for value in sample[1]]
    return naive_mean_loss(inside, outside, margin)


def naive_amc_loss(heatmap: Tensor, mask: Tensor, lambda1, lambda2, delta1, delta2, form: str) -> float:
    samples = [pixels(a, m) for a, m in zip(heatmap, mask, strict=True)]
    l_max = mean([naive_max_loss(*sample, delta2) for sample in samples])
    if form == "official":
        return lambda1 * naive_pooled_mean_loss(samples, delta1) + lambda2 * l_max
    return mean([lambda1 * naive_mean_loss(*s, delta1) + lambda2 * naive_max_loss(*s, delta2) for s in samples])


@PROPERTY
@given(heatmaps_and_masks(), MARGINS)
def test_per_sample_losses_are_the_naive_ones(sample, margin):
    heatmap, mask = sample
    split = [pixels(a, m) for a, m in zip(heatmap, mask, strict=True)]
    assert mean_loss(heatmap, mask, margin).tolist() == pytest.approx([naive_mean_loss(*s, margin) for s in split])
    assert max_loss(heatmap, mask, margin).tolist() == pytest.approx([naive_max_loss(*s, margin) for s in split])


@PROPERTY
@given(heatmaps_and_masks(), MARGINS)
def test_pooled_form_is_the_naive_one(sample, margin):
    heatmap, mask = sample
    split = [pixels(a, m) for a, m in zip(heatmap, mask, strict=True)]
    assert pooled_mean_loss(heatmap, mask, margin).item() == pytest.approx(naive_pooled_mean_loss(split, margin))


@FORMS
@PROPERTY
@given(heatmaps_and_masks(), st.tuples(MARGINS, MARGINS, MARGINS, MARGINS))
def test_equation_3_is_the_naive_one(form, sample, constants):
    value = amc_loss(*sample, *constants, mean_form=form)
    assert value.shape == ()
    assert value.item() == pytest.approx(naive_amc_loss(*sample, *constants, form))


def test_defaults_are_the_authors_constants():
    torch.manual_seed(0)
    heatmap, mask = torch.rand(3, 4, 4), torch.rand(3, 4, 4) > 0.5
    assert amc_loss(heatmap, mask).item() == pytest.approx(naive_amc_loss(heatmap, mask, 0.2, 0.8, 0.1, 0.5, "paper"))
    assert mean_loss(heatmap, mask).equal(mean_loss(heatmap, mask, 0.1))
    assert max_loss(heatmap, mask).equal(max_loss(heatmap, mask, 0.5))


@pytest.mark.parametrize("loss", [mean_loss, max_loss])
@PROPERTY
@given(sample=heatmaps_and_masks(), margin=MARGINS)
def test_range(loss, sample, margin):
    values = loss(*sample, margin)
    assert values.shape == sample[0].shape[:1]
    assert (values >= 0).all()
    assert (values <= 1 + margin + 1e-12).all()


@PROPERTY
@given(heatmaps_and_masks(), st.floats(0, 1))
def test_hinges_are_zero_when_inside_and_outside_are_apart(sample, margin):
    """Inside everywhere at least `margin` above outside: nothing is left to ask for."""
    heatmap, mask = sample
    mask[:, 0, 0] = 1  # a box somewhere
    apart = (1 - margin) * heatmap * (1 - mask) + mask
    assert mean_loss(apart, mask, margin).abs().max() < 1e-12
    assert max_loss(apart, mask, margin).abs().max() < 1e-12
    assert amc_loss(apart, mask, 1, 1, margin, margin) < 1e-12


@pytest.mark.parametrize("loss", [mean_loss, max_loss])
def test_a_point_in_the_wrong_place_costs_more_than_none(loss):
    mask = torch.zeros(1, 4, 4)
    mask[:, :2, :2] = 1
    right, wrong = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    right[0, 1, 1], wrong[0, 3, 3] = 1, 1
    assert loss(right, mask) < loss(torch.zeros(1, 4, 4), mask) < loss(wrong, mask)


@FORMS
@PROPERTY
@given(heatmaps_and_masks(), st.randoms(use_true_random=False))
def test_order_of_the_batch_does_not_matter(form, sample, random):
    heatmap, mask = sample
    order = random.sample(range(len(heatmap)), len(heatmap))
    torch.testing.assert_close(amc_loss(heatmap[order], mask[order], mean_form=form), amc_loss(*sample, mean_form=form))
    torch.testing.assert_close(mean_loss(heatmap[order], mask[order]), mean_loss(*sample)[order])
    torch.testing.assert_close(max_loss(heatmap[order], mask[order]), max_loss(*sample)[order])


@PROPERTY
@given(heatmaps_and_masks(), MARGINS)
def test_pooled_form_equals_the_paper_for_one_sample(sample, margin):
    heatmap, mask = sample[0][:1], sample[1][:1]
    torch.testing.assert_close(pooled_mean_loss(heatmap, mask, margin), mean_loss(heatmap, mask, margin)[0])
    official, paper = (amc_loss(heatmap, mask, mean_form=form) for form in ("official", "paper"))
    torch.testing.assert_close(official, paper)


def test_pooled_form_differs_from_the_paper_for_unequal_boxes():
    heatmap = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.5, 0.5, 0.0, 1.0]]])
    mask = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 0, 0]]])
    assert pooled_mean_loss(heatmap, mask).item() == 0  # outside 1/5, inside 2/3
    assert mean_loss(heatmap, mask).tolist() == pytest.approx([0, 0.1])


@FORMS
@PROPERTY
@given(heatmaps_and_masks(), MARGINS, MARGINS, MARGINS)
def test_lambdas_scale_their_terms(form, sample, lambda1, lambda2, factor):
    value = amc_loss(*sample, lambda1, lambda2, mean_form=form)
    torch.testing.assert_close(amc_loss(*sample, factor * lambda1, factor * lambda2, mean_form=form), factor * value)
    parts = amc_loss(*sample, lambda1, 0, mean_form=form) + amc_loss(*sample, 0, lambda2, mean_form=form)
    torch.testing.assert_close(value, parts)


@FORMS
@pytest.mark.parametrize("fill", [0, 1], ids=["empty mask", "full mask"])
@pytest.mark.parametrize("heat", [0.0, 0.6, 1.0])
def test_degenerate_masks_stay_finite(form, fill, heat):
    heatmap = torch.full((2, 3, 3), heat, requires_grad=True)
    mask = torch.full((2, 3, 3), fill)
    value = amc_loss(heatmap, mask, mean_form=form)
    inside, outside = (heat, 0) if fill else (0, heat)
    expected = 0.2 * max(0, outside - inside + 0.1) + 0.8 * max(0, outside - inside + 0.5)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert heatmap.grad.isfinite().all()


@FORMS
def test_no_samples_cost_nothing_and_keep_a_graph(form):
    heatmap = torch.zeros(0, 3, 3, requires_grad=True)
    value = amc_loss(heatmap, torch.zeros(0, 3, 3), mean_form=form)
    assert value.item() == 0
    value.backward()
    assert heatmap.grad.shape == (0, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_kind_of_mask_does_not_matter(dtype):
    torch.manual_seed(1)
    heatmap, mask = torch.rand(2, 4, 4, dtype=torch.float64), torch.rand(2, 4, 4) > 0.5
    torch.testing.assert_close(amc_loss(heatmap, mask.to(dtype)), amc_loss(heatmap, mask.double()))


@FORMS
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_slope(form, seed):
    """Random heatmaps have no ties, so the loss is smooth around them; both hinges are open."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4, 5, generator=generator) > 0.5
    assert torch.autograd.gradcheck(lambda a: amc_loss(a, mask, delta1=2, delta2=2, mean_form=form), heatmap, eps=1e-8)
