"""Snapshots in one process: what they hold is all that a run needs; damaged and foreign ones are not used."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from refusal import refused
from resumable import SETTINGS, brightness, changed, collator, squares

from amc_lib.config import Settings
from amc_lib.model import ALBEF
from amc_lib.train import Snapshots, snapshots, train
from amc_lib.train.log import Log

IDENTITY = {"stage": "finetuning", "settings_hash": "0" * 12}
STEPS = 8  # of 32 images in batches of 8, twice


class Stopped(Exception):
    """In place of a kill."""


def tiny(**training: Any) -> Settings:
    values = {"epochs": 2, "snapshot_every": 1, "hard_negatives_from": 1, "short_captions_until": 0, "fuse_from": 0}
    return changed(SETTINGS, **(values | training))


def run(folder: Path, stop_after: int | None = None, images: int = 32, identity: dict = IDENTITY, **training: Any):
    """Model and history of a training that leaves snapshots in `folder`, or Stopped after an update was counted."""
    add = Log.add

    def add_and_stop(log: Log, *arguments: Any) -> None:
        add(log, *arguments)
        if log.step == stop_after and log.accelerator.sync_gradients:
            raise Stopped

    torch.manual_seed(0)
    settings = tiny(**training)
    model = ALBEF(settings.model)
    kept = Snapshots(folder / "snapshots", identity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "add", add_and_stop)
        pairs = squares(images, per_image=settings.finetuning.phrases_per_image)
        history = train(model, pairs, collator(), settings, "finetuning", brightness, log_every=5, snapshots=kept)
    return model, history, kept


def stopped(folder: Path, step: int, **training: Any) -> None:
    with pytest.raises(Stopped):
        run(folder, step, **training)


def same(left: tuple[ALBEF, list, Any], right: tuple[ALBEF, list, Any]) -> bool:
    """Equal in every tensor, momentum and queues included, and in every number of the history but seconds."""
    histories = [[{name: v for name, v in row.items() if name != "seconds"} for row in of[1]] for of in (left, right)]
    states = [of[0].state_dict() for of in (left, right)]
    return histories[0] == histories[1] and all(t.equal(states[1][name]) for name, t in states[0].items())


@pytest.fixture(scope="module")
def stopped_at_7(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    stopped(folder, 7)
    return folder


@pytest.fixture
def left(stopped_at_7, tmp_path) -> Path:
    """What a run leaves that was stopped at update 7, before its snapshot: those of updates 5 and 6."""
    return Path(shutil.copytree(stopped_at_7, tmp_path / "left"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    ("training", "step", "resumed"),
    [
        ({}, 2, 1),  # counted, but the snapshot not yet written
        ({"snapshot_every": 3}, 4, 3),  # at an epoch's end, before validation
        ({"snapshot_every": 1000}, 7, 4),  # losses of a row that are lost are taken again
        ({"accumulation": 2}, 3, 2),  # of 4 updates
        ({"phrases_per_image": 1, "workers": 1}, 7, 6),  # a worker that had read ahead
    ],
)
def test_stopped_run_goes_on_with_the_same_bits(tmp_path, capsys, undisturbed, training, step, resumed):
    stopped(tmp_path / "stopped", step, **training)
    continued = run(tmp_path / "stopped", **training)
    updates = STEPS // training.get("accumulation", 1)
    assert f"finetuning: continues at update {resumed} of {updates} from {tmp_path}" in capsys.readouterr().out
    assert continued[2].continued_at == [resumed]
    changes_numbers = set(training) - {"snapshot_every"}
    assert same(continued, run(tmp_path / "undisturbed", **training) if changes_numbers else undisturbed)


def test_number_of_snapshots_is_no_part_of_the_result_and_a_finished_run_may_go_on(tmp_path, undisturbed):
    assert same(run(tmp_path, snapshot_every=0), undisturbed)
    assert not (tmp_path / "snapshots").exists()
    assert same(run(tmp_path, snapshot_every=3), undisturbed)
    again = run(tmp_path)
    assert again[2].continued_at == [STEPS] and same(again, undisturbed)


HELD = ["text_encoder.", "visual_encoder_m.", "image_queue", "queue_ptr_txt", "0.exp_avg", "0.step"]
HELD += ["random", "generator", "recent_losses", "unreadable"]


@pytest.mark.parametrize("name", HELD)
def test_everything_that_is_kept_is_taken_up_again(left, undisturbed, monkeypatch, name):
    """With any of it changed, the run ends elsewhere."""
    part = snapshots.Snapshot.part

    def changed(snapshot: snapshots.Snapshot, of: str) -> dict[str, torch.Tensor]:
        tensors = part(snapshot, of)
        for key in [key for key in tensors if key.startswith(name)]:
            of_another_seed = torch.Generator().manual_seed(99).get_state()
            tensors[key] = of_another_seed if name in ("random", "generator") else tensors[key] + 1
            found.add(key)
        return tensors

    found: set[str] = set()
    monkeypatch.setattr(snapshots.Snapshot, "part", changed)
    assert not same(run(left), undisturbed) and found


def flipped(data: bytes) -> bytes:
    """With the lowest bit of a digit turned in the middle: JSON stays JSON."""
    middle = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit())
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", flipped),
        ("optimizer.safetensors", lambda data: data[: len(data) // 2]),
        ("process-0.safetensors", lambda data: None),
        ("run.json", flipped),
        ("manifest.json", lambda data: data[: len(data) // 2]),
    ],
)
def test_damaged_snapshot_is_named_and_the_one_before_used(left, undisturbed, capsys, file, damage):
    path = left / "snapshots" / "step-0000006" / file
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    continued = run(left)
    printed = capsys.readouterr().out
    assert re.search(rf"{path.parent}.*: is damaged \(.*; the snapshot before it is used", printed)
    assert continued[2].continued_at == [5] and same(continued, undisturbed)


def test_the_last_two_are_kept_and_nothing_in_them_is_pickled(left):
    older, newest = sorted((left / "snapshots").iterdir())
    assert (older.name, newest.name) == ("step-0000005", "step-0000006")
    parts = [f"{name}.safetensors" for name in ("model", "optimizer", "process-0")]
    assert {path.name for path in newest.iterdir()} == {"manifest.json", "run.json", *parts}
    for data in ((newest / part).read_bytes() for part in parts):
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"identity": IDENTITY | {"settings_hash": "1" * 12}}, "settings_hash"),
        ({"images": 40}, "images"),
    ],
)
def test_snapshots_of_another_run_are_refused_and_stay(left, undisturbed, changed, named):
    with refused(f"step-0000006: is of an unfinished run with other settings ({named}); name another output or delete"):
        run(left, **changed)
    assert same(run(left), undisturbed)


def test_model_that_is_built_otherwise_is_refused(left, monkeypatch):
    part = snapshots.Snapshot.part
    monkeypatch.setattr(snapshots.Snapshot, "part", lambda *of: {k: t for k, t in part(*of).items() if k != "temp"})
    with refused("step-0000006: does not fit the model as it is built now; delete it to start over"):
        run(left)


@pytest.mark.parametrize("file", ["optimizer.safetensors", "manifest.json"])
def test_snapshot_that_cannot_be_written_is_reported(tmp_path, undisturbed, capsys, monkeypatch, file):
    """On a disk that is full from the sixth update on, the run ends as ever, and the snapshot before it stays whole."""
    write = snapshots.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == file and int(path.parent.name.removeprefix("step-")) > 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(snapshots, "write_bytes", full)
    ended = run(tmp_path)
    assert same(ended, undisturbed)
    printed = capsys.readouterr().out
    for step in (6, 7, 8):
        sentence = "the snapshot was not written ([Errno 28] No space left on device"
        assert printed.count(f"step-000000{step}: {sentence}") == 1
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["step-0000004", "step-0000005"]
    assert run(tmp_path)[2].continued_at == [5]
