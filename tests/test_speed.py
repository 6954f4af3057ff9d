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
from amc_lib.model.attention import Shared, attend
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


# ---------------------------------------------------------------------------------------------------------- attention

SCALING = 0.5


def tokens(dtype: torch.dtype = torch.float64, rows: int = 5, images: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [R, h, L, d], keys and values [I, h, N, d]."""
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, 2, 3, 4), (images, 2, 7, 4), (images, 2, 7, 4)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes)


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_attention_with_dropout(shared):
    """Rows 0, 2 and 4 look at the last image, none at the first."""
    query, key, value = tokens(rows=5 if shared else 3)
    index = torch.tensor([2, 1, 2, 1, 2])
    padding = None if shared else torch.randn(3, 1, 1, 7, dtype=torch.float64)

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(0)  # the same weights are dropped each time
        if shared:
            key, value = Shared(key, index), Shared(value, index)
        return attend(query, key, value, padding, 0.5, SCALING)

    assert torch.autograd.gradcheck(attended, (query, key, value))


def test_attention_with_dropout_is_softmax_with_some_weights_left_out():
    generator, share = torch.Generator().manual_seed(0), 0.3
    query = torch.randn(6, 2, 4, 7, generator=generator, dtype=torch.float64)
    key = torch.randn(3, 2, 7, 7, generator=generator, dtype=torch.float64)
    value = torch.eye(7, dtype=torch.float64).expand(3, 2, 7, 7)  # the output then is the weights
    index = torch.tensor([2, 0, 2, 1, 2, 1])
    probabilities = (query @ key[index].transpose(-1, -2) * SCALING).softmax(-1)
    torch.manual_seed(0)
    weights = torch.stack(
        [attend(query, Shared(key, index), Shared(value, index), None, share, SCALING) for _ in range(50)]
    )
    kept = weights != 0
    torch.testing.assert_close(weights[kept], (probabilities / (1 - share)).expand_as(weights)[kept])
    assert kept.float().mean() == pytest.approx(1 - share, abs=0.01)
    torch.testing.assert_close(weights.mean(0), probabilities, atol=0.2, rtol=0)


@pytest.mark.parametrize("padded", [True, False])
def test_attention_in_bf16_rounds_and_no_more(padded):
    found, expected = [], []
    padding = torch.tensor([0.0, 0, 0, 0, 0, -1e4, -1e4])[None, None, None].expand(3, 1, 1, 7) if padded else None
    for dtype, results in ((torch.bfloat16, found), (torch.float64, expected)):
        query, key, value = tokens(dtype, rows=3)
        own_padding = None if padding is None else padding.to(dtype)
        scores = query @ key.transpose(-1, -2) * SCALING + (0 if own_padding is None else own_padding)
        output = (
            attend(query, key, value, own_padding, 0.0, SCALING)
            if dtype is torch.bfloat16
            else scores.softmax(-1) @ value
        )
        (output * output.detach()).sum().backward()
        results += [x.double() for x in (output, query.grad, key.grad, value.grad)]
    for name, rounded, exact in zip(("output", "query", "key", "value"), found, expected, strict=True):
        assert (rounded - exact).abs().max() < 0.05 * exact.abs().max(), name


def test_second_derivative_of_attention_is_refused():
    query, key, value = tokens(rows=3)
    above = torch.ones(4, dtype=torch.float64, requires_grad=True)  # what stands above has parameters
    output = (attend(query, key, value, None, 0.5, SCALING) * above).sum()
    (gradient,) = torch.autograd.grad(output, query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_gradients_of_shared_keys_do_not_depend_on_threads():
    """Added up in one order; plain indexing of this size is added up by whichever thread comes first."""
    generator, before, found = torch.Generator().manual_seed(0), torch.get_num_threads(), []
    keys = torch.randn(2, 4, 64, 32, generator=generator)
    weights = torch.randn(64, 4, 64, 32, generator=generator)
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            leaf = keys.clone().requires_grad_()
            (Shared(leaf, torch.arange(64) % 2).gather() * weights).sum().backward()
            found.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert all(gradient.equal(found[0]) for gradient in found)
