"""Training in less memory and from the command line: recomputed layers, accumulated batches, bf16, options."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from reference_cases import TINY_AMC, TINY_LAYER, TINY_OBJECTIVE, tiny_batch, tiny_model, tiny_settings
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amc_lib.config import Settings, TrainingSettings
from amc_lib.data import Collator, EpochBatches, FixedPairs, Pairs, Phrase
from amc_lib.evaluate import ground_phrases
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.step import Batch, training_losses
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_lib.train import parameter_groups, train
from amc_study import finetune as command

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], max_tokens=12)
BATCHES, SIZE = 3, 4

# ------------------------------------------------------------------------------------------------- recomputed layers


def step(recompute: bool, dropout: float) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Losses and gradients of a step with AMC, and the bytes that its forward pass kept for the backward pass."""
    model, kept = tiny_model(), {}
    for module in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
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
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in vars(losses).items()}, gradients, sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_layers_changes_no_number_and_keeps_less(dropout):
    losses, gradients, bytes_kept = step(False, dropout)
    found, found_gradients, fewer = step(True, dropout)
    assert all(loss > 0 for name, loss in losses.items() if name != "box") and len(gradients) > 50
    torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_gradients, gradients, rtol=1e-9, atol=1e-12)
    assert fewer < 0.8 * bytes_kept
    if dropout:
        assert losses["itm"] != step(False, 0.0)[0]["itm"]


def test_heatmaps_are_those_of_a_model_that_recomputes_nothing():
    model, images = tiny_model(torch.float32), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    question = (TOKENIZER, images, ["w1 w2", "w3"], [0, 1], TINY_LAYER)
    expected = ground_phrases(model, *question)
    model.checkpoint_layers(True)
    torch.testing.assert_close(ground_phrases(model, *question), expected)
    assert expected[0].amax((1, 2)).min() > 0


# ------------------------------------------------------------------------------------------------ accumulated batches


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


# ---------------------------------------------------------------------------------------------------------- precision


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


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def finetuned(monkeypatch) -> list[tuple]:
    """What the command asks to be finetuned; nothing is."""
    calls: list[tuple] = []
    monkeypatch.setattr(command, "finetune", lambda *call: calls.append(call) or SimpleNamespace(folder="runs/x"))
    return calls


def test_options_are_the_parameters_of_the_notebook(capsys):
    cells = json.loads((ROOT / "notebooks" / "03_train.ipynb").read_text(encoding="utf-8"))["cells"]
    (parameters,) = (cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    names = [statement.targets[0].id for statement in ast.parse("".join(parameters)).body]
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    assert re.findall(r"^ +--(\w+) ", capsys.readouterr().out, flags=re.MULTILINE) == names


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
        (["--lambda1", "-1"], "lambda1 must not be negative, got -1.0"),
        (["--tier", "photos"], "unknown tier 'photos'; known: scenes, paper"),
        (["--precision", "fp16"], "precision must be one of 'float32', 'bf16', got 'fp16'"),
        (["--checkpointing", "yes"], "checkpointing must be a truth value, got 'yes'"),
        (["--epochs", "1.5"], "epochs must be a whole number, got 1.5"),
    ],
    ids=str,
)
def test_wrong_value_is_refused_with_one_sentence(finetuned, options, sentence):
    with pytest.raises(SystemExit) as left:
        command.main(options)
    assert left.value.code == sentence and not finetuned


def test_wrong_value_and_wrong_name_have_exit_codes_of_their_own(finetuned):
    with pytest.raises(SystemExit) as left:
        command.main(["--lamda1", "1"])
    assert left.value.code == 2 and not finetuned
    module = [sys.executable, "-m", "amc_study.finetune", "--init", "nowhere"]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"no checkpoint at 'nowhere'; shipped ones: .*\n", done.stderr)
