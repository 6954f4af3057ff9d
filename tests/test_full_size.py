"""The model of base size on this machine: slow, and outside `make test`. tests/bench measures the same with care."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import pytest
import torch
from plain_step import PlainStepper

from amc_lib.presets import preset
from tests.bench.pointing import Pointer, pointing_rows
from tests.bench.stepper import Stepper, kept_bytes, random_batch

LEAST_POINTING_SPEEDUP = 20
LEAST_SPEEDUP = 1.25
MOST_MEMORY = 0.9  # that autograd keeps for a sample
NEGATIVES = (torch.tensor([1, 0]), torch.tensor([1, 0]))

pytestmark = pytest.mark.slow


def test_all_phrases_of_an_image_at_once_point_where_each_alone_does():
    pointer = Pointer(preset("paper"))
    scaled = [maps / maps.amax((1, 2), keepdim=True) for maps in (pointer.together(), pointer.alone())]
    torch.testing.assert_close(*scaled, rtol=0, atol=1e-5)  # padding scales both


def test_all_phrases_of_an_image_at_once_are_faster():
    rows = {row.name: row.value for row in pointing_rows(preset("paper"), rounds=3)}
    assert rows["evaluation_points_equal"] == 100
    assert rows["evaluation_speedup"] >= LEAST_POINTING_SPEEDUP


def test_step_reaches_every_parameter():
    stepper = Stepper(preset("paper"))
    losses = stepper.losses(random_batch(2))
    losses.total.backward()
    trainable = {name: p for name, p in stepper.model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
    assert sum(p.numel() for p in trainable.values()) == pytest.approx(210e6, rel=0.02)


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-5), ("bf16", 0.01)])
def test_losses_are_those_of_the_plain_step(precision, relative):
    paper, batch = preset("paper"), random_batch(2)
    settings = replace(paper, model=replace(paper.model, text=replace(paper.model.text, dropout=0.0)))
    fast = vars(Stepper(settings, "cpu", precision).losses(batch, negatives=NEGATIVES))
    plain = vars(PlainStepper(settings).losses(batch, negatives=NEGATIVES))
    for name, loss in plain.items():
        assert fast[name].item() == pytest.approx(loss.item(), rel=relative) and loss > 0, name


def test_step_is_faster_than_the_plain_one_and_keeps_less():
    settings, batch = preset("paper"), random_batch(2)
    fast, plain = Stepper(settings), PlainStepper(settings)

    def seconds(stepper: Stepper | PlainStepper) -> float:
        begin = time.perf_counter()
        stepper.step(batch)
        return time.perf_counter() - begin

    pairs = [(seconds(plain), seconds(fast)) for _ in range(4)][1:]
    each = [kept_bytes(stepper, random_batch(3)) - kept_bytes(stepper, batch) for stepper in (plain, fast)]
    assert statistics.median(slow / quick for slow, quick in pairs) >= LEAST_SPEEDUP, pairs
    assert each[1] <= MOST_MEMORY * each[0], each
