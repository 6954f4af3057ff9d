"""The training step: its updates are those of the plain step, also with recomputed layers and awkward batches."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from plain_step import PlainStepper
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_batch, tiny_model, tiny_settings
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from amc_lib.config import AmcSettings, ObjectiveSettings, Settings, TrainingSettings
from amc_lib.model import ALBEF
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.tokens import IGNORED
from amc_lib.train import parameter_groups

NEGATIVES = (torch.tensor([2, 2, 0]), torch.tensor([2, 2, 1]))  # of the batch below, whose first two share an image
RATE, DECAY, UPDATES = 1e-3, 0.02, 3


def settings(objective: ObjectiveSettings = TINY_OBJECTIVE, amc: AmcSettings = TINY_AMC) -> Settings:
    training = TrainingSettings(batch_size=3)
    return Settings("paper", tiny_settings(), objective, amc, pretraining=training, finetuning=training)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def batch(seed: int = 0) -> Batch:
    """Three phrases of two images; one phrase has no box."""
    three = tiny_batch(seed=seed)
    return replace(
        three, image=three.image[:2], image_rows=torch.tensor([0, 0, 1]), has_box=torch.tensor([True, False, True])
    )


def test_amc_may_be_a_mean_over_all_samples_instead_of_those_with_boxes():
    def losses(**changes: str) -> Losses:
        amc = replace(TINY_AMC, lambda_other=1.0, **changes)
        return training_losses(tiny_model(), batch(), TINY_OBJECTIVE, amc, alpha=0.4, negatives=NEGATIVES)

    boxed, all_three = losses(), losses(mean_over="batch")  # two of three have a box
    assert boxed.mean > 0 and boxed.max > 0
    for name in ("amc", "mean", "max"):
        torch.testing.assert_close(getattr(all_three, name), 2 / 3 * getattr(boxed, name))
    torch.testing.assert_close(all_three.itm, boxed.itm)


def test_other_loss_is_taken_of_boxed_phrases_and_enters_with_its_weight():
    model, three = tiny_model(), tiny_batch()
    masks = torch.zeros_like(three.box_mask)
    masks[0, :8], masks[1, 8:], masks[2, :8] = 1, 1, 1
    boxed = replace(three, image=three.image[:2], image_rows=torch.tensor([0, 0, 1]), box_mask=masks)

    def losses(weight: float) -> Losses:
        amc = replace(TINY_AMC, lambda_other=weight, delta_other=1.0)
        return training_losses(copy.deepcopy(model), boxed, TINY_OBJECTIVE, amc, alpha=0.4, negatives=NEGATIVES)

    off, one, two = losses(0.0), losses(1.0), losses(2.0)
    assert off.other == 0 < one.other == two.other  # margin 1: no heatmap can be so far apart
    torch.testing.assert_close(one.amc - off.amc, one.other)
    torch.testing.assert_close(two.amc - off.amc, 2 * one.other)
    alone = replace(boxed, has_box=torch.tensor([True, False, True]))
    assert (
        training_losses(
            model, alone, TINY_OBJECTIVE, replace(TINY_AMC, lambda_other=1.0), alpha=0.4, negatives=NEGATIVES
        ).other
        == 0
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


@pytest.mark.parametrize("drawn", [batch(), tiny_batch(1)], ids=["hard negatives", "one image, no negatives"])
def test_draws_are_those_of_the_plain_step(drawn):
    chosen, model = settings(), tiny_model()
    plain = PlainStepper(chosen, copy.deepcopy(model))
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    losses = training_losses(model, drawn, chosen.objective, chosen.amc, alpha=0.4, generator=generators[0])
    torch.testing.assert_close(vars(losses), vars(plain.losses(drawn, generator=generators[1])))


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


def losses_of(model: ALBEF, batch: Batch, **changes) -> Losses:
    options = {"objective": TINY_OBJECTIVE, "amc": TINY_AMC, "alpha": 0.4}
    return training_losses(model, batch, **(options | changes))


def test_alignment_leaves_the_fusion_layers_alone():
    model, batch = tiny_model(), tiny_batch(3)
    losses = losses_of(model, batch, fuse=False)
    torch.testing.assert_close(losses.itc, losses_of(tiny_model(), batch).itc)
    assert losses.mlm == losses.itm == losses.amc == 0
    losses.total.backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    first = model.settings.text.fusion_from
    assert not any(f"encoder.layer.{i}." in name for name in touched for i in range(first, model.settings.text.layers))
    assert any(name.startswith("visual_encoder.") for name in touched) and "text_proj.weight" in touched


@pytest.mark.parametrize("form", ["vocabulary", "official"])
def test_step_without_labelled_positions_is_finite(form):
    model, batch = tiny_model(), tiny_batch(2)
    batch.mlm_labels[:] = IGNORED
    losses = losses_of(model, batch, objective=ObjectiveSettings(mlm_distillation=form))
    assert losses.mlm.item() == 0
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_step_moves_nothing_but_momentum_queues_and_gradients():
    model, batch = tiny_model(), tiny_batch(3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    losses_of(model, batch, amc=AmcSettings(layer=2)).total.backward()
    with torch.no_grad():
        model.visual_encoder.cls_token.add_(1)  # the online model moves, so that the momentum model can follow
    losses_of(model, batch)
    changed = {name.split(".")[0] for name, t in model.state_dict().items() if not t.equal(before[name])}
    queues = {"image_queue", "text_queue", "queue_ptr_img", "queue_ptr_txt"}
    assert changed == queues | {"visual_encoder", "visual_encoder_m"}


def recomputed_step(recompute: bool, dropout: float) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Losses and gradients of a step with AMC, and the bytes that its forward pass kept for the backward pass."""
    model, kept = tiny_model(), {}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model.checkpoint_layers(recompute)

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    negatives = (torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1]))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = training_losses(model, tiny_batch(), TINY_OBJECTIVE, TINY_AMC, alpha=0.4, negatives=negatives)
    losses.total.backward()
    return {name: loss.detach() for name, loss in vars(losses).items()}, gradients(model), sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_layers_changes_no_number_and_keeps_less(dropout):
    losses, slopes, bytes_kept = recomputed_step(False, dropout)
    found, found_slopes, fewer = recomputed_step(True, dropout)
    assert losses.pop("other") == found.pop("other") == 0  # its weight is
    assert all(loss > 0 for loss in losses.values()) and len(slopes) > 50
    torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_slopes, slopes, rtol=1e-9, atol=1e-12)
    assert fewer < 0.8 * bytes_kept
    if dropout:
        assert losses["itm"] != recomputed_step(False, 0.0)[0]["itm"]
