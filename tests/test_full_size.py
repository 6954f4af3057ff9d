"""The base-size model on this machine: slow, and outside `make test`."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from full_size import PHRASES, base_model, one_by_one, tokenizer

from amc_lib.evaluation import ground_phrases, peak
from amc_lib.footprint import full_size_batch
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.step import training_losses

LAYER = 8
REPETITIONS = 3
LEAST_SPEEDUP = 15

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> ALBEF:
    return base_model()


def seconds(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def test_all_phrases_of_an_image_at_once_are_faster_and_equal(model):
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    tokens, rows = tokenizer(), [0] * len(PHRASES)
    raw, _ = ground_phrases(model, tokens, image, PHRASES, rows, LAYER)
    alone = torch.stack([one_by_one(model, tokens, image, phrase, LAYER) for phrase in PHRASES])
    scaled = [maps / maps.flatten(1).max(1).values[:, None, None] for maps in (raw, alone)]  # padding scales the mean
    torch.testing.assert_close(*scaled, rtol=0, atol=1e-5)
    assert (peak(raw, (333, 500)) == peak(alone, (333, 500))).all()
    together = statistics.median(
        seconds(lambda: ground_phrases(model, tokens, image, PHRASES, rows, LAYER)) for _ in range(REPETITIONS)
    )
    each = statistics.median(
        sum(seconds(lambda p=phrase: one_by_one(model, tokens, image, p, LAYER)) for phrase in PHRASES)
        for _ in range(REPETITIONS)
    )
    assert each / together >= LEAST_SPEEDUP, f"{each:.2f} s against {together:.2f} s"


def test_full_size_step_reaches_every_parameter(model):
    settings = preset("paper")
    losses = training_losses(model.train(), full_size_batch(2), settings.objective, settings.amc, alpha=0.4)
    model.zero_grad(set_to_none=True)
    losses.total.backward()
    values = {name: value.item() for name, value in vars(losses).items()}
    assert all(value > 0 for value in values.values()), values
    assert values["itc"] == pytest.approx(torch.tensor(2.0 + settings.model.queue_size).log().item(), rel=0.2)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in trainable.items() if p.grad is None or not p.grad.isfinite().all()]
    assert sum(p.numel() for p in trainable.values()) == pytest.approx(210e6, rel=0.02)
    assert model.queue_ptr_img.item() == 2
