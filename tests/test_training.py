"""The training loop on made-up pictures: losses fall, schedules reach the optimizer, what diverges is stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from test_runs import LOSSES, TINY, refused, with_training

from amc_lib.config import TrainingSettings
from amc_lib.data import Collator, FixedPairs, Phrase
from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_lib.train import DivergedError, alpha_at, learning_rate, parameter_groups, train


def made_up(images: int = 32, value: float = 0.0) -> tuple[FixedPairs, Collator]:
    """Coloured squares with the name of their colour and a box."""
    words = ["red", "green", "blue"]
    squares = torch.full((images, 3, 64, 64), value)
    for i in range(images):
        squares[i, i % 3, :32] = 1
    phrases = [[Phrase(words[i % 3], ((0.0, 0.0, 1.0, 0.5),))] for i in range(images)]
    return FixedPairs(squares, phrases, 0), Collator(Tokenizer(word_vocabulary(words), 8), 0.4, 16)


def test_losses_fall_on_a_fixed_set():
    settings = with_training(epochs=16, learning_rate=1e-3, max_grad_norm=1.0)
    torch.manual_seed(0)
    history = pd.DataFrame(train(ALBEF(TINY.model), *made_up(), settings, "finetuning", log_every=1))
    assert len(history) == 32 and history[LOSSES].notna().all(axis=None)
    start, end = history[:4].mean(), history[-4:].mean()
    assert end.amc < 0.2 * start.amc
    assert end.mlm < start.mlm and end.total < 0.92 * start.total


def test_schedule_reaches_the_optimizer():
    model = ALBEF(TINY.model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    settings = with_training(warmup_learning_rate=0.0, warmup_steps=10**12)
    train(model, *made_up(), settings, "finetuning")
    for name, parameter in model.named_parameters():
        if name in before:
            torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("hard_from", [1, 0])
def test_value_that_is_not_finite_stops_the_run(hard_from):
    settings = with_training(hard_negatives_from=hard_from)
    with pytest.raises(DivergedError, match=r"no longer a finite number.*nan"):
        train(ALBEF(TINY.model), *made_up(value=math.nan), settings, "finetuning")


def test_too_few_images_are_refused():
    with refused("10 images do not fill one batch of 16"):
        train(ALBEF(TINY.model), *made_up(10), TINY, "finetuning")


@pytest.mark.parametrize(
    ("by", "step", "expected"),
    [
        *[("step", 0, 0.2), ("step", 5, 0.6), ("step", 9, 0.92), ("step", 10, 0.1 + 0.9 * (2 + 2**0.5) / 4)],
        *[("step", 20, 0.55), ("step", 40, 0.1), ("step", 99, 0.1)],
        *[("epoch", 5, 0.6), ("epoch", 19, 0.1 + 0.9 * (2 + 2**0.5) / 4), ("epoch", 20, 0.55), ("epoch", 29, 0.55)],
    ],
)
def test_learning_rate_at_known_steps(by, step, expected):
    plan = TrainingSettings(
        epochs=4, learning_rate=1, min_learning_rate=0.1, warmup_learning_rate=0.2, warmup_steps=10, cosine_by=by
    )
    assert learning_rate(plan, step, steps_per_epoch=10) == pytest.approx(expected)


def test_alpha_grows_over_its_epochs():
    twice = replace(TINY, objective=replace(TINY.objective, alpha=0.4, alpha_ramp_epochs=2))
    assert [alpha_at(twice, step, 10) for step in (0, 5, 10, 20, 99)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    at_once = replace(twice, objective=replace(twice.objective, alpha_ramp_epochs=0))
    assert alpha_at(at_once, 0, 10) == 0.4


def test_decay_is_for_matrices_alone():
    model = ALBEF(TINY.model)
    decayed, spared = parameter_groups(model, 0.02)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert {id(p) for group in (decayed, spared) for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in spared["params"])
    assert any(p is model.temp for p in spared["params"])
