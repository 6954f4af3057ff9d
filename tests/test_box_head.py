"""The box head: boxes around masks, its loss by hand, and that it trains beside ALBEF's objectives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_cases import TINY_OBJECTIVE, tiny_batch, tiny_model

from amc_lib.config import AmcSettings
from amc_lib.model import build
from amc_lib.model.box_head import GIOU_WEIGHT, L1_WEIGHT, BoxHead, box_loss, enclosing_boxes
from amc_lib.step import training_losses

WITHOUT = AmcSettings(lambda1=0, lambda2=0, layer=2)


@given(st.integers(1, 7).flatmap(lambda side: st.lists(st.booleans(), min_size=side**2, max_size=side**2)))
def test_enclosing_box_is_the_naive_one(cells):
    side = round(len(cells) ** 0.5)
    mask = np.array(cells).reshape(side, side)
    if not mask.any():
        return
    ys, xs = np.nonzero(mask)
    naive = [xs.min() / side, ys.min() / side, (xs.max() + 1) / side, (ys.max() + 1) / side]
    found = enclosing_boxes(torch.from_numpy(mask).float()[None])[0]
    assert found.tolist() == pytest.approx(naive)


def test_loss_by_hand():
    mask = torch.zeros(1, 4, 4)
    mask[0, :2, :2] = 1  # the box 0, 0, 0.5, 0.5
    predicted = torch.tensor([[0.25, 0.0, 0.75, 0.5]])
    overlap, union, hull = 0.25 * 0.5, 0.5 * 0.75, 0.75 * 0.5
    giou = overlap / union - (hull - union) / hull
    expected = L1_WEIGHT * (0.25 + 0.25) / 4 + GIOU_WEIGHT * (1 - giou)
    assert box_loss(predicted, mask).item() == pytest.approx(expected, rel=1e-5)
    assert box_loss(torch.zeros(0, 4), torch.zeros(0, 4, 4)).item() == 0


def test_boxes_have_their_corners_in_order():
    boxes = BoxHead(8)(torch.randn(5, 3, 8))
    assert boxes.shape == (5, 4) and (boxes[:, 0] < boxes[:, 2]).all() and (boxes[:, 1] < boxes[:, 3]).all()


def test_weight_adds_the_loss_of_phrases_with_boxes_alone():
    model, batch = tiny_model(), tiny_batch()
    model.add_box_head()
    model.box_head.double()
    batch = dataclasses.replace(batch, has_box=torch.tensor([True] + [False] * (len(batch.has_box) - 1)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, learnt = {}, {}
    weight_of_fusion = model.text_encoder.layers[-1].output.dense.weight
    for weight in (0.0, 1.0, 3.0):
        model.load_state_dict(state)
        objective = dataclasses.replace(TINY_OBJECTIVE, box_weight=weight)
        generator = torch.Generator().manual_seed(0)
        found = training_losses(model, batch, objective, WITHOUT, alpha=0.0, generator=generator)
        losses[weight] = found
        if weight:
            (learnt[weight],) = torch.autograd.grad(found.box, [weight_of_fusion])
    assert losses[0.0].box.item() == 0 and losses[1.0].box.item() > 0
    torch.testing.assert_close(losses[3.0].box, 3 * losses[1.0].box)
    torch.testing.assert_close(losses[1.0].total, losses[0.0].total + losses[1.0].box)
    assert learnt[1.0].abs().sum() > 0  # the fused embeddings learn from the boxes
    torch.testing.assert_close(learnt[3.0], 3 * learnt[1.0])


def test_head_is_of_the_settings_and_added_once():
    model = tiny_model()
    assert not hasattr(model, "box_head")
    model.add_box_head()
    head = model.box_head
    model.add_box_head()
    assert model.box_head is head and model.settings.box_head
    assert "box_head.layers.0.weight" in build(model.settings).state_dict()
