"""The training loop on made-up pictures: losses fall, progress is printed, what diverges stops and is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from refusal import refused
from resumable import SETTINGS, brightness, changed, collator, squares
from tiny_scenes import LOSSES, TINY, with_training

from amc_lib.config import TrainingSettings
from amc_lib.data import Collator, EpochBatches, FixedPairs, Phrase
from amc_lib.model import ALBEF
from amc_lib.step import training_losses
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_lib.train import DivergedError, Snapshots, learning_rate, log, loop, loss_options, parameter_groups, train


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


def test_too_few_images_are_refused():
    with refused("10 images do not fill one batch of 16"):
        train(ALBEF(TINY.model), *made_up(10), TINY, "finetuning")


def test_each_epoch_ends_with_a_line_and_a_long_one_has_more(capsys, monkeypatch):
    monkeypatch.setattr(log, "FIRST_LINE", 0)
    monkeypatch.setattr(log, "LINES_EVERY", 0)
    train(ALBEF(TINY.model), *made_up(), with_training(epochs=2), "finetuning", lambda model: 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" s left: ")[0].rpartition(",")[0] for line in lines if "left" in line] == [
        f"finetuning: epoch {1 + step // 3} of 2, step {step} of 4" for step in (1, 2, 3, 4)
    ]
    assert re.search(
        r"left: mlm [\d.]+, itc [\d.]+, itm [\d.]+, amc [\d.]+, L_mean [\d.]+, L_max [\d.]+, total", lines[0]
    )
    assert lines[2] == "finetuning: epoch 1 of 2: pointing on the validation split 50.0 %"
    monkeypatch.setattr(log, "LINES_EVERY", 60)
    train(ALBEF(TINY.model), *made_up(), with_training(epochs=2), "finetuning")
    assert "step 1 of 4" in (printed := capsys.readouterr().out) and "step 3 of 4" not in printed


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


def test_losses_are_told_what_the_schedule_says():
    settings = replace(TINY, objective=replace(TINY.objective, alpha=0.4, alpha_ramp_epochs=2))
    training = TrainingSettings(fuse_from=1, hard_negatives_from=2)
    options = [loss_options(settings, training, step, 10) for step in (0, 5, 10, 20, 99)]
    assert [of["alpha"] for of in options] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert [of["fuse"] for of in options] == [False, False, True, True, True]
    assert [of["hard_negatives"] for of in options] == [False, False, False, True, True]
    at_once = replace(settings, objective=replace(settings.objective, alpha_ramp_epochs=0))
    assert loss_options(at_once, training, 0, 10)["alpha"] == 0.4


def test_decay_is_for_matrices_alone():
    model = ALBEF(TINY.model)
    decayed, spared = parameter_groups(model, 0.02)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert {id(p) for group in (decayed, spared) for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in spared["params"])
    assert any(p is model.temp for p in spared["params"])


BAD = 13  # the image that spoils its batch


def spoil_the_loss(pairs: FixedPairs):
    pairs.images[BAD].fill_(torch.nan)
    return training_losses


def spoil_the_gradient(pairs: FixedPairs):
    """Losses as ever; where the image takes part, the root of zero in them has a slope without bounds."""

    def losses(model: ALBEF, batch, *arguments, **options):
        usual = training_losses(model, batch, *arguments, **options)
        if any(image.equal(pairs.images[BAD]) for image in batch.image):
            usual.itc = usual.itc + (model.temp - model.temp.detach()).sqrt()
        return usual

    return losses


def diverge(folder, spoil, accumulation: int = 1) -> tuple[str, list[list[int]], int]:
    """The sentence, the batches of the update that is to blame, and the number of updates before it."""
    pairs = squares()
    settings = changed(SETTINGS, accumulation=accumulation, fuse_from=0, short_captions_until=0)
    batches = list(EpochBatches(len(pairs), 8, settings.finetuning.seed))
    number = next(i for i, indices in enumerate(batches) if BAD in indices)
    first = number - number % accumulation
    last = first + accumulation - 1 if spoil is spoil_the_gradient else number
    options = {"step_losses": spoil(pairs), "snapshots": Snapshots(folder / "snapshots", {})}
    torch.manual_seed(0)
    with pytest.raises(DivergedError) as caught:
        train(ALBEF(settings.model), pairs, collator(), settings, "finetuning", brightness, **options)
    return str(caught.value), batches[first : last + 1], first // accumulation


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("what", "spoil"), [("loss", spoil_the_loss), ("gradient", spoil_the_gradient)])
def test_batch_of_a_value_that_is_not_finite_is_named(tmp_path, what, spoil, accumulation):
    sentence, batches, done = diverge(tmp_path, spoil, accumulation)
    path = tmp_path / "diverged-0.json"
    problem = f"update {done + 1}: the {what} is no longer a finite number (mlm "
    assert sentence.startswith(problem) and sentence.endswith(f"; {path} names the images and phrases of this update")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["problem"].startswith(problem)
    assert [image["image"] for image in content["images"]] == [f"image {i}" for batch in batches for i in batch]
    (bad,) = (image for image in content["images"] if image["image"] == f"image {BAD}")
    assert len(bad["phrases"]) == 2
    assert {phrase["text"] for phrase in bad["phrases"]} <= {phrase.text for phrase in squares().phrases[BAD]}


def test_note_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "write_json", full)
    sentence, *_ = diverge(tmp_path, spoil_the_loss)
    assert re.search(r"no longer a finite number.*diverged-0.json cannot be written \(.*No space left", sentence)
