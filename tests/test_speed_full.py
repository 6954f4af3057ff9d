"""The fast step at base size against the plain one: equal losses, less time, less memory. Outside `make test`."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import pytest
import torch
from plain_step import PlainStepper

from amc_lib.config import Settings
from amc_lib.footprint import Stepper, full_size_batch, kept_bytes
from amc_lib.presets import preset

REPETITIONS = 3
LEAST_SPEEDUP = {"float32": 1.5, "bf16": 3.0}
MOST_MEMORY = {"float32": 0.8, "bf16": 0.55}  # that autograd keeps for a sample
NEGATIVES = (torch.tensor([1, 0]), torch.tensor([1, 0]))

pytestmark = pytest.mark.slow


def without_dropout() -> Settings:
    paper = preset("paper")
    return replace(paper, model=replace(paper.model, text=replace(paper.model.text, dropout=0.0)))


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-5), ("bf16", 0.01)])
def test_losses_are_those_of_the_plain_step(precision, relative):
    settings, batch = without_dropout(), full_size_batch(2)
    fast = Stepper(settings, "cpu", precision, checkpointing=False)
    found = {name: loss.item() for name, loss in vars(fast.losses(batch, negatives=NEGATIVES)).items()}
    del fast
    plain = PlainStepper(settings)
    expected = {name: loss.item() for name, loss in vars(plain.losses(batch, negatives=NEGATIVES)).items()}
    assert found == pytest.approx(expected, rel=relative)
    assert all(loss > 0 for loss in expected.values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_step_is_faster_and_keeps_less(precision):
    settings = preset("paper")
    fast, plain = Stepper(settings, "cpu", precision, checkpointing=False), PlainStepper(settings)
    batches = {size: full_size_batch(size) for size in (2, 3)}
    times: dict[str, list[float]] = {"fast": [], "plain": []}
    for _ in range(REPETITIONS + 1):
        for name, stepper in (("fast", fast), ("plain", plain)):
            begin = time.perf_counter()
            stepper.step(batches[2])
            times[name].append(time.perf_counter() - begin)
    of_fast, of_plain = (statistics.median(times[name][1:]) for name in ("fast", "plain"))
    assert of_plain / of_fast >= LEAST_SPEEDUP[precision], f"{of_fast:.2f} s against {of_plain:.2f} s"

    def each(stepper: Stepper | PlainStepper) -> int:
        two, three = (kept_bytes(stepper.model, lambda b=b: stepper.losses(b).total) for b in batches.values())
        return three - two

    assert each(fast) <= MOST_MEMORY[precision] * each(plain)
