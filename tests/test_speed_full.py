"""The fast step at base size against the plain one: equal losses, less time, less memory. Outside `make test`."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import pytest
import torch
from plain_step import PlainStepper

from amc_lib.config import Settings
from amc_lib.presets import preset
from tests.bench.stepper import Stepper, kept_bytes, random_batch

REPETITIONS = 3
LEAST_SPEEDUP = {"float32": 1.5, "bf16": 3.0}
MOST_MEMORY = {"float32": 0.8, "bf16": 0.55}  # that autograd keeps for a sample
NEGATIVES = (torch.tensor([1, 0]), torch.tensor([1, 0]))

pytestmark = pytest.mark.slow


def without_dropout() -> Settings:
    paper = preset("paper")
    return replace(paper, model=replace(paper.model, text=replace(paper.model.text, dropout=0.0)))


def seconds(stepper: Stepper | PlainStepper) -> float:
    batch, begin = random_batch(2), time.perf_counter()
    stepper.step(batch)
    return time.perf_counter() - begin


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-5), ("bf16", 0.01)])
def test_losses_are_those_of_the_plain_step(precision, relative):
    settings, batch = without_dropout(), random_batch(2)
    fast = Stepper(settings, "cpu", precision, checkpointing=False)
    found = {name: loss.item() for name, loss in vars(fast.losses(batch, negatives=NEGATIVES)).items()}
    del fast
    plain = PlainStepper(settings)
    expected = {name: loss.item() for name, loss in vars(plain.losses(batch, negatives=NEGATIVES)).items()}
    assert found == pytest.approx(expected, rel=relative)
    assert all(loss > 0 for name, loss in expected.items() if name != "box")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_step_is_faster_and_keeps_less(precision):
    settings = preset("paper")
    fast, plain = Stepper(settings, "cpu", precision, checkpointing=False), PlainStepper(settings)
    pairs = [(seconds(plain), seconds(fast)) for _ in range(1 + REPETITIONS)][1:]
    speedup = statistics.median(of_plain / of_fast for of_plain, of_fast in pairs)
    each = [kept_bytes(stepper, random_batch(3)) - kept_bytes(stepper, random_batch(2)) for stepper in (plain, fast)]
    assert speedup >= LEAST_SPEEDUP[precision], pairs
    assert each[1] <= MOST_MEMORY[precision] * each[0], each
