"""Numbers watched: what is not finite stops the run, names its batch, and leaves the snapshots before it whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resumable import brightness, collator, squares
from test_snapshots import IDENTITY, STEPS, run, same, tiny

from amc_lib.data import EpochBatches, FixedPairs
from amc_lib.model import ALBEF
from amc_lib.step import training_losses
from amc_lib.train import DivergedError, Snapshots, train, watch

BAD = 13  # the image that spoils its batch


def spoiled_loss(pairs: FixedPairs) -> Callable:
    """Not a number where the image takes part: its pixels are none."""
    pairs.images[BAD].fill_(torch.nan)
    return training_losses


def spoiled_gradient(pairs: FixedPairs) -> Callable:
    """The loss as ever; where the image takes part, the root of zero in it has a slope without bounds."""

    def losses(model: ALBEF, batch, *arguments, **options):
        found = training_losses(model, batch, *arguments, **options)
        if any(image.equal(pairs.images[BAD]) for image in batch.image):
            found.itc = found.itc + (model.temp - model.temp.detach()).sqrt()
        return found

    return losses


def stop(folder: Path, spoil: Callable, accumulation: int = 1) -> tuple[str, list[list[int]], int]:
    """The sentence, the batches of the update that is to blame, and the number of updates before it."""
    pairs, settings = squares(), tiny(accumulation=accumulation)
    losses = spoil(pairs)
    batches = list(EpochBatches(len(pairs), 8, settings.finetuning.seed))
    number = next(i for i, indices in enumerate(batches) if BAD in indices)
    first = number - number % accumulation
    last = first + accumulation - 1 if spoil is spoiled_gradient else number
    torch.manual_seed(0)
    with pytest.raises(DivergedError) as caught:
        kept = Snapshots(folder / "snapshots", IDENTITY)
        model = ALBEF(settings.model)
        train(model, pairs, collator(), settings, "finetuning", brightness, step_losses=losses, snapshots=kept)
    return str(caught.value), batches[first : last + 1], first // accumulation


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("what", "spoil"), [("loss", spoiled_loss), ("gradient", spoiled_gradient)])
def test_batch_is_named(tmp_path, what, spoil, accumulation):
    sentence, batches, done = stop(tmp_path, spoil, accumulation)
    path = tmp_path / "diverged-0.json"
    assert sentence.startswith(f"update {done + 1}: the {what} is no longer a finite number, at losses {{'mlm': ")
    assert sentence.endswith(f"; {path} names the images and phrases of this update")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["update"], content["epoch"], content["what"]) == (done + 1, 0, what)
    assert [[image["index"] for image in batch["images"]] for batch in content["batches"]] == batches
    (bad,) = (image for batch in content["batches"] for image in batch["images"] if image["index"] == BAD)
    assert (bad["row"], bad["image"]) == (BAD, f"image {BAD}") and len(bad["phrases"]) == 2
    assert {phrase["text"] for phrase in bad["phrases"]} <= {phrase.text for phrase in squares().phrases[BAD]}
    assert set(content["losses"]) == {"mlm", "itc", "itm", "amc", "box", "total"}


@pytest.mark.parametrize("spoil", [spoiled_loss, spoiled_gradient])
def test_last_good_snapshot_is_intact(tmp_path, capsys, spoil):
    """What the run left before the spoiled update is what a run with good numbers goes on from."""
    _, _, done = stop(tmp_path / "stopped", spoil)
    assert done >= 1
    continued = run(tmp_path / "stopped")
    assert f"continues at update {done} of {STEPS}" in capsys.readouterr().out
    assert same(continued, run(tmp_path / "undisturbed"))
    continued[2].remove()
    assert not list((tmp_path / "stopped").iterdir())  # nor does the note about the batch outlive the finished run


def test_note_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "write_json", full)
    sentence, *_ = stop(tmp_path, spoiled_loss)
    assert re.search(r"no longer a finite number.*diverged-0.json cannot be written \(.*No space left", sentence)
