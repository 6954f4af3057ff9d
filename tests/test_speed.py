"""The fast step is the plain one: losses, gradients and updates; and its attention is softmax attention."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from plain_step import PlainStepper
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_batch, tiny_model, tiny_settings
from torch import Tensor

from amc_lib.config import AmcSettings, ObjectiveSettings, Settings, TrainingSettings
from amc_lib.model.text import take_rows
from amc_lib.step import Batch, training_losses
from amc_lib.train import parameter_groups

NEGATIVES = (torch.tensor([2, 2, 0]), torch.tensor([2, 2, 1]))  # of the batch below, whose first two share an image
RATE, DECAY, UPDATES = 1e-3, 0.02, 3


def settings(objective: ObjectiveSettings = TINY_OBJECTIVE, amc: AmcSettings = TINY_AMC) -> Settings:
    training = TrainingSettings(batch_size=3)
    return Settings("paper", tiny_settings(), objective, amc, pretraining=training, finetuning=training)


def batch(seed: int = 0) -> Batch:
    """Three phrases of two images; one phrase has no box."""
    three = tiny_batch(seed=seed)
    return replace(
        three, image=three.image[:2], image_rows=torch.tensor([0, 0, 1]), has_box=torch.tensor([True, False, True])
    )


@pytest.mark.parametrize(
    "chosen",
    [
        settings(),
        settings(ObjectiveSettings(mlm_distillation="official")),
        settings(amc=replace(TINY_AMC, lambda1=0.0, lambda2=0.0)),
    ],
    ids=["vocabulary", "official", "without AMC"],
)
def test_updates_are_those_of_the_plain_step(chosen):
    model = tiny_model()
    plain = PlainStepper(chosen, copy.deepcopy(model), RATE, DECAY)
    optimizer = torch.optim.AdamW(parameter_groups(model, DECAY), lr=RATE, fused=True)
    for seed in range(UPDATES):
        optimizer.zero_grad()
        losses = training_losses(model, batch(seed), chosen.objective, chosen.amc, alpha=0.4, negatives=NEGATIVES)
        losses.total.backward()
        expected = plain.step(batch(seed), negatives=NEGATIVES)
        torch.testing.assert_close(vars(losses), vars(expected), rtol=1e-9, atol=1e-9)
        assert bool(expected.amc > 0) is chosen.amc.active
        torch.testing.assert_close(gradients(model), gradients(plain.model), rtol=1e-9, atol=1e-10)
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.model.state_dict(), rtol=1e-8, atol=1e-8)
    assert (model.itm_head.weight - tiny_model().itm_head.weight).abs().max() > RATE


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_plain_step_draws_what_the_fast_step_draws():
    chosen, model = settings(), tiny_model()
    plain = PlainStepper(chosen, copy.deepcopy(model))
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    found = training_losses(model, batch(), chosen.objective, chosen.amc, alpha=0.4, generator=generators[0])
    torch.testing.assert_close(vars(found), vars(plain.losses(batch(), generator=generators[1])))


def test_batch_of_one_image_has_no_negatives_in_either_form():
    chosen, model, one = settings(), tiny_model(), tiny_batch(1)
    plain = PlainStepper(chosen, copy.deepcopy(model))
    found = training_losses(model, one, chosen.objective, chosen.amc, alpha=0.4)
    torch.testing.assert_close(vars(found), vars(plain.losses(one)))


@pytest.mark.parametrize("distillation", ["vocabulary", "official"])
def test_teacher_without_weight_is_not_asked_and_not_missed(distillation, monkeypatch):
    chosen, model, found = settings(ObjectiveSettings(mlm_distillation=distillation)), tiny_model(), {}
    encoder, asked = model.text_encoder_m, []
    fuse = encoder.fuse
    monkeypatch.setattr(encoder, "fuse", lambda *args: asked.append(len(args[0])) or fuse(*args))
    state = copy.deepcopy(model.state_dict())
    for alpha in (0.0, 1e-300):
        model.load_state_dict(state)
        model.zero_grad()
        losses = training_losses(model, batch(), chosen.objective, chosen.amc, alpha=alpha, negatives=NEGATIVES)
        losses.total.backward()
        found[alpha] = vars(losses), gradients(model)
    torch.testing.assert_close(found[0.0], found[1e-300], rtol=1e-12, atol=1e-15)
    assert asked == [3]  # with weight alone


def test_gradients_of_shared_rows_do_not_depend_on_threads():
    """Added up in one order; plain indexing of this size is added up by whichever thread comes first."""
    generator, before, found = torch.Generator().manual_seed(0), torch.get_num_threads(), []
    keys = torch.randn(2, 4, 64, 32, generator=generator)
    weights = torch.randn(64, 4, 64, 32, generator=generator)
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            leaf = keys.clone().requires_grad_()
            (take_rows(leaf, torch.arange(64) % 2) * weights).sum().backward()
            found.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert all(gradient.equal(found[0]) for gradient in found)
