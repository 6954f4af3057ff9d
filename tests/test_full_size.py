"""The base-size model on this machine: slow, and outside `make test`. 08_benchmarks measures the same with care."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_pointing import one_by_one

from amc_lib.evaluate import ground_phrases
from amc_study.benchmarks import benchmark_plan
from amc_study.benchmarks.pointing import PHRASES, Pointer
from amc_study.benchmarks.timing import ratio, side_by_side, use_all_cores
from amc_study.footprint import Stepper, full_size_batch

LEAST_POINTING_SPEEDUP = 20
PLAN = replace(benchmark_plan(quick=False), repetitions=3)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pointer() -> Pointer:
    use_all_cores()
    return Pointer(PLAN.model)


def test_all_phrases_of_an_image_at_once_point_where_each_alone_does(pointer):
    together, _ = ground_phrases(
        pointer.model, pointer.tokens, pointer.image, PHRASES, [0] * len(PHRASES), pointer.layer
    )
    alone = torch.stack([one_by_one(pointer.model, pointer.tokens, pointer.image, p, pointer.layer) for p in PHRASES])
    scaled = [maps / maps.flatten(1).max(1).values[:, None, None] for maps in (together, alone)]  # padding scales both
    torch.testing.assert_close(*scaled, rtol=0, atol=1e-5)
    assert (pointer.at_once(PHRASES) == pointer.one_by_one(PHRASES)).all()


def test_all_phrases_of_an_image_at_once_are_faster(pointer):
    forms = {"plain": lambda: pointer.one_by_one(PHRASES), "fast": lambda: pointer.at_once(PHRASES)}
    seconds = side_by_side(forms, PLAN.repetitions)
    assert ratio(seconds, "plain", "fast").value >= LEAST_POINTING_SPEEDUP, seconds


def test_full_size_step_reaches_every_parameter():
    stepper = Stepper(PLAN.model, "cpu", "float32", checkpointing=False)
    losses = stepper.losses(full_size_batch(2))
    losses.total.backward()
    values = {name: value.item() for name, value in vars(losses).items()}
    assert all(value > 0 for name, value in values.items() if name != "box"), values
    assert values["itc"] == pytest.approx(torch.tensor(2.0 + PLAN.model.model.queue_size).log().item(), rel=0.2)
    trainable = {name: p for name, p in stepper.model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
    assert sum(p.numel() for p in trainable.values()) == pytest.approx(210e6, rel=0.02)
    assert stepper.model.queue_ptr_img.item() == 2
