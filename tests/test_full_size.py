"""The base-size model on this machine: slow, and outside `make test`. tests/bench measures the same with care."""

from __future__ import annotations

import pytest
import torch

from amc_lib.presets import preset
from tests.bench.pointing import Pointer, pointing_rows
from tests.bench.stepper import Stepper, random_batch

LEAST_POINTING_SPEEDUP = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pointer() -> Pointer:
    return Pointer(preset("paper"))


def test_all_phrases_of_an_image_at_once_point_where_each_alone_does(pointer):
    scaled = [maps / maps.amax((1, 2), keepdim=True) for maps in (pointer.together(), pointer.alone())]
    torch.testing.assert_close(*scaled, rtol=0, atol=1e-5)  # padding scales both


def test_all_phrases_of_an_image_at_once_are_faster():
    rows = {row.name: row.value for row in pointing_rows(preset("paper"), rounds=3)}
    assert rows["evaluation_points_equal"] == 100
    assert rows["evaluation_speedup"] >= LEAST_POINTING_SPEEDUP


def test_full_size_step_reaches_every_parameter():
    stepper = Stepper(preset("paper"))
    losses = stepper.losses(random_batch(2))
    losses.total.backward()
    values = {name: value.item() for name, value in vars(losses).items()}
    assert all(value > 0 for name, value in values.items() if name != "box"), values
    assert values["itc"] == pytest.approx(torch.tensor(2.0 + preset("paper").model.queue_size).log().item(), rel=0.2)
    trainable = {name: p for name, p in stepper.model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
    assert sum(p.numel() for p in trainable.values()) == pytest.approx(210e6, rel=0.02)
    assert stepper.model.queue_ptr_img.item() == 2
