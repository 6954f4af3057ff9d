"""Options of training: accumulated batches, bf16, and the command line."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_model, tiny_settings
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amc_lib.config import Settings, TrainingSettings
from amc_lib.data import Collator, EpochBatches, FixedPairs, Pairs, Phrase
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.step import Batch, training_losses
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_lib.train import parameter_groups, train
from amc_study import finetune as command

TOKENIZER = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], max_tokens=12)
BATCHES, SIZE = 3, 4


def with_training(**values: object) -> Settings:
    training = TrainingSettings(epochs=1, batch_size=SIZE, learning_rate=1e-3, warmup_steps=0, **values)
    objective = replace(TINY_OBJECTIVE, alpha_ramp_epochs=0)
    amc = replace(TINY_AMC, map_size=16)
    return Settings("paper", tiny_settings(), objective, amc, pretraining=training, finetuning=training)


def pairs() -> FixedPairs:
    images = torch.randn(BATCHES * SIZE, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    box = (0.25, 0.0, 0.75, 0.5)
    return FixedPairs(images, [[Phrase(f"w{i} w{i + 1} w{2 * i}", (box,))] for i in range(len(images))], seed=0)


def collate(images: list[Pairs]) -> Batch:
    return Collator(TOKENIZER, 0.4, 16)(images)


def collate_double(images: list[Pairs]) -> Batch:
    batch = collate(images)
    return replace(batch, image=batch.image.double(), box_mask=batch.box_mask.double())


def mean_gradients(model: ALBEF, settings: Settings) -> dict[str, Tensor]:
    """Batch by batch, each differentiated on its own."""
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    data, generator, of_batches = pairs(), torch.Generator().manual_seed(0), []
    for number, rows in enumerate(EpochBatches(len(data), SIZE, seed=0)):
        batch = collate_double([data[row] for row in rows])
        losses = training_losses(
            model, batch, settings.objective, settings.amc, alpha=0.4, move_momentum=number == 0, generator=generator
        )
        of_batches.append(torch.autograd.grad(losses.total, parameters))
    return {name: torch.stack(parts).mean(0) for name, *parts in zip(names, *of_batches, strict=True)}


def with_lagging_momentum() -> ALBEF:
    """A tiny model whose momentum model is not its copy, so that moving it shows."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if not p.requires_grad):
            parameter.mul_(0.5)
    return model


def test_accumulated_batches_make_one_update_on_their_mean_gradient():
    settings, model, by_hand = with_training(accumulation=BATCHES), with_lagging_momentum(), with_lagging_momentum()
    expected, updates = mean_gradients(by_hand, settings), []

    def keep(optimizer: torch.optim.Optimizer, *_) -> None:
        updates.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    hook = register_optimizer_step_pre_hook(keep)
    try:
        history = train(model, pairs(), collate_double, settings, "finetuning")
    finally:
        hook.remove()
    (found,) = updates
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert [row["step"] for row in history] == [1]

    for name, parameter in by_hand.named_parameters():
        parameter.grad = expected.get(name)
    torch.optim.AdamW(parameter_groups(by_hand, 0.02), lr=1e-3).step()
    torch.testing.assert_close(dict(model.state_dict()), dict(by_hand.state_dict()), rtol=1e-7, atol=1e-9)
    assert not model.itm_head.weight.equal(tiny_model().itm_head.weight)


def test_bf16_trains_finite_losses_and_leaves_weights_in_float32():
    """In one process after a training in float32, and before another."""
    histories = []
    for precision, recompute in (("float32", False), ("bf16", False), ("bf16", True), ("float32", False)):
        model, settings = tiny_model(torch.float32), with_training(precision=precision, checkpointing=recompute)
        rows = train(model, pairs(), collate, settings, "finetuning", log_every=1)
        histories.append(pd.DataFrame(rows)[["mlm", "itc", "itm", "amc"]])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(p.isfinite().all() for p in model.parameters())
    exact, rounded, recomputed, again = histories
    assert len(exact) == BATCHES and again.equals(exact) and recomputed.equals(rounded)
    difference = (rounded - exact).abs().to_numpy()
    assert 1e-4 < difference[0].max() < 0.3  # before any update; a bf16 number has 8 bits
    assert rounded.notna().all(axis=None) and (rounded > 0).all(axis=None)


@pytest.fixture
def finetuned(monkeypatch) -> list[tuple]:
    """What the command asks to be finetuned; nothing is."""
    calls: list[tuple] = []
    monkeypatch.setattr(command, "finetune", lambda *call: calls.append(call) or SimpleNamespace(folder="runs/x"))
    return calls


def test_options_reach_the_settings(finetuned, capsys):
    numbers = ["--lambda1", "0", "--learning_rate", "2e-5", "--accumulation", "4", "--epochs", "None"]
    command.main(["--tier", "paper", *numbers, "--precision", "bf16", "--checkpointing", "True", "--seed", "3"])
    command.main(["--output", "2024", "--init", "7"])
    (settings, *start), (plain, *named) = finetuned
    paper = preset("paper")
    changed = {"learning_rate": 2e-5, "accumulation": 4, "precision": "bf16", "checkpointing": True, "seed": 3}
    assert settings == replace(
        paper, amc=replace(paper.amc, lambda1=0.0), finetuning=replace(paper.finetuning, **changed)
    )
    assert (start, plain, named) == ([None, None], preset("scenes"), ["7", "2024"])
    assert capsys.readouterr().out == "The run is in runs/x\n" * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lambda1", "abc"], "lambda1 must be a number, got 'abc'"),
        (["--tier", "photo"], "unknown tier 'photo'; known: scenes, photos, paper"),
    ],
    ids=str,
)
def test_wrong_value_is_refused_with_one_sentence(finetuned, options, sentence):
    with pytest.raises(SystemExit) as left:
        command.main(options)
    assert left.value.code == sentence and not finetuned
