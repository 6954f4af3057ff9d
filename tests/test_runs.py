"""Runs on a tiny set of scenes: they learn, leave what they say they leave, repeat nothing, and repeat exactly."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout
from refusal import refused
from tiny_scenes import LOSSES, SCENES, TINY, TRAINING, keep_in, with_training

from amc_lib.checkpoints import SHIPPED, CheckpointError
from amc_lib.presets import preset
from amc_lib.train import learning_rate
from amc_study import identity, runs
from amc_study.identity import holds
from amc_study.run_folder import Run, RunError, alone_in, open_run
from amc_study.runs import finetune, long_history, pretrain


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Scenes are drawn once for this file; runs go to a folder that goes away."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        keep_in(folder, patch.setattr)
        yield folder


@pytest.fixture(scope="module")
def pretrained() -> Run:
    return pretrain(TINY)


@pytest.fixture(scope="module")
def amc(pretrained) -> Run:
    return finetune(TINY, pretrained.folder)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(runs, "train", None)  # whoever trains now fails


@pytest.fixture
def copied(pretrained, tmp_path) -> Path:
    """The pretrained run in a folder named run, to be changed."""
    return Path(shutil.copytree(pretrained.folder, tmp_path / "run"))


def sha(run: Run) -> str:
    return run.checkpoint().sha256


def test_folder_holds_checkpoint_history_and_metrics(pretrained, home):
    assert pretrained.folder.parent == home / "runs" and pretrained.folder.name.startswith("pretraining-seed0-")
    names = {"checkpoint.json", "weights.safetensors", "history.csv", "metrics.json"}
    assert {path.name for path in pretrained.folder.iterdir()} == names


def test_history_has_losses_and_pointing(amc):
    last = pd.read_csv(amc.folder / "history.csv").iloc[-1]
    assert (last.step, last.epoch) == (4, 1)  # 64 scenes in batches of 16
    assert all(math.isfinite(last[name]) and last[name] > 0 for name in LOSSES)
    assert last.total == pytest.approx(last.mlm + last.itc + last.itm + last.amc, rel=1e-5)
    assert last.learning_rate == pytest.approx(learning_rate(TRAINING, 3, 4))
    assert 0 <= last.pointing <= 100 and last.seconds > 0


def test_metrics_say_what_was_run_and_from_what(pretrained, amc):
    metrics = json.loads((amc.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == amc.metrics
    assert (metrics["stage"], metrics["init_sha256"]) == ("finetuning", sha(pretrained))
    assert pretrained.metrics["init_sha256"] is None
    assert metrics["final"]["total"] == pytest.approx(amc.history["total"].iloc[-1])
    assert metrics["provenance"]["settings"]["amc"]["lambda1"] == 0.2
    assert metrics["provenance"]["seed"] == 0 and metrics["provenance"]["seconds"] > 0


def test_checkpoint_carries_its_settings_and_words(amc):
    checkpoint = amc.checkpoint()
    assert checkpoint.settings == TINY
    assert checkpoint.about["init_sha256"] == amc.metrics["init_sha256"]
    assert {"[CLS]", "helicopter", "red"} <= set(checkpoint.tokenizer.vocabulary)


def test_histories_become_one_long_table_without_losses_that_were_not_taken(pretrained, amc):
    table = long_history({"ALBEF": pretrained, "AMC": amc})
    assert set(table.columns) == {"run", "step", "name", "value"}
    row = table.query("run == 'AMC' and name == 'max'").iloc[-1]
    assert (row.step, row.value) == (4, pytest.approx(amc.metrics["final"]["max"]))
    assert set(table.query("run == 'ALBEF'")["name"]) - {"pointing"} == {"itc", "itm", "mlm"}


def test_second_call_opens_what_is_there(pretrained, amc, no_training):
    again = pretrain(TINY)
    assert (again.folder, sha(again), again.metrics) == (pretrained.folder, sha(pretrained), pretrained.metrics)
    assert sha(finetune(TINY, pretrained.folder)) == sha(amc)
    assert sha(finetune(TINY, str(pretrained.folder), amc.folder)) == sha(amc)


@pytest.mark.parametrize("neutral", [{"workers": 2}, {"checkpointing": True}, {"snapshot_every": 7}])
def test_settings_that_change_no_number_make_no_other_run(pretrained, no_training, neutral):
    assert pretrain(with_training(**neutral)).folder == pretrained.folder


def test_other_settings_or_another_start_are_no_repetition(pretrained, amc, no_training):
    others = [with_training(epochs=2), with_training(seed=1), replace(TINY, amc=replace(TINY.amc, lambda1=0.3))]
    for settings in others:
        with refused(f"{amc.folder}: holds a run with other settings; name another output or delete it"):
            finetune(settings, pretrained.folder, amc.folder)
        with pytest.raises(TypeError):  # trains, into a folder of its own
            finetune(settings, pretrained.folder)
    with refused("holds a run with other settings"):
        finetune(TINY, amc.folder, amc.folder)
    with refused("holds a run with other settings"):
        pretrain(TINY, amc.folder)


def test_run_that_was_cut_off_is_trained_again_to_the_same_weights(copied, pretrained):
    (copied / "metrics.json").unlink()
    with refused("no finished run"):
        open_run(copied)
    assert sha(pretrain(TINY, copied)) == sha(pretrained)


def test_weights_depend_on_the_seed_and_not_on_what_was_drawn_before(pretrained, amc, tmp_path):
    assert sha(pretrain(with_training(seed=1), tmp_path / "other")) != sha(pretrained)
    torch.manual_seed(5)
    assert sha(finetune(TINY, pretrained.folder, tmp_path / "same")) == sha(amc)


def test_without_lambdas_the_boxes_are_not_used(pretrained, amc, tmp_path):
    off = replace(TINY, amc=replace(TINY.amc, lambda1=0, lambda2=0))
    control = finetune(off, pretrained.folder, tmp_path / "control")
    assert (control.history["amc"] == 0).all() and sha(control) != sha(amc)
    moved = replace(off, amc=replace(off.amc, delta1=0.7, map_size=8))
    assert sha(finetune(moved, pretrained.folder, tmp_path / "moved")) == sha(control)


def test_run_of_other_code_is_set_aside_and_trained_again(copied, pretrained, monkeypatch, capsys):
    """Editing what training depends on must not open old weights; nothing is lost."""
    first = pretrained.metrics
    monkeypatch.setattr(identity, "CODE", identity.CODE[1:])
    assert pretrain(TINY, copied).metrics["code"] != first["code"]
    assert open_run(copied.with_name(f"run-{first['code']}")).metrics == first
    assert "the code that trains has changed since" in capsys.readouterr().out


def test_path_of_code_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(identity, "CODE", (*identity.CODE, "amc_lib/gone.py"))
    with refused("no file matches 'amc_lib/gone.py'"):
        pretrain(TINY)


def test_setting_that_an_old_run_does_not_know_is_not_taken_for_todays(pretrained):
    """Of a shipped run only those that OLDER names have a value."""
    metrics = json.loads(json.dumps(pretrained.metrics))
    shipped = replace(pretrained, folder=SHIPPED / "albef-scenes", metrics=metrics)
    settings = metrics["provenance"]["settings"]
    assert holds(shipped, "pretraining", TINY, None)
    del settings["model"]["vision"]["region_width"]
    assert holds(shipped, "pretraining", TINY, None)
    del settings["model"]["momentum"]
    assert not holds(shipped, "pretraining", TINY, None)


def test_shipped_runs_are_those_of_the_preset(capsys):
    assert pretrain(SCENES).folder == SHIPPED / "albef-scenes"
    assert "trained by commit 9e5282f" in capsys.readouterr().out


def test_shipped_base_of_a_further_seed_is_opened_for_that_seed(pretrained, no_training, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(pretrained.folder, tmp_path / "albef-scenes-1"))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["provenance"]["settings"]["pretraining"]["seed"] = 1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for module in (runs, identity):
        monkeypatch.setattr(module, "SHIPPED", tmp_path)
    monkeypatch.setattr(runs, "shipped", lambda: [folder.name])
    asked = replace(TINY, pretraining=replace(TINY.pretraining, seed=1))
    assert pretrain(asked).folder == folder


def test_start_that_is_not_there_or_does_not_fit_is_refused(pretrained, no_training, tmp_path, monkeypatch):
    with refused("no checkpoint at 'nowhere'", CheckpointError):
        finetune(TINY, "nowhere")
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    with refused(f"no checkpoint at '{tmp_path / 'checkpoints' / 'ALBEF.pth'}'"):
        pretrain(preset("paper"))
    with refused("layer 3 has no cross-attention; fusion layers are 1-2"):
        finetune(SCENES, pretrained.folder)


def test_one_process_at_a_time_is_in_a_folder(tmp_path, capsys):
    folder, order = tmp_path / "run", []

    def hold(entered: threading.Event) -> None:
        with alone_in(folder):
            entered.set()
            time.sleep(0.3)
            order.append("first")

    first = threading.Thread(target=hold, args=[entered := threading.Event()])
    first.start()
    entered.wait()
    with alone_in(folder):
        order.append("second")
    first.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().out == f"{folder}: another process is at work in it; waiting until that has ended\n"
    with alone_in(folder):
        pass
    assert capsys.readouterr().out == ""


def test_folder_is_tried_out_by_one_process_at_a_time(tmp_path, monkeypatch):
    """Another that ends there meanwhile would clear away the file that is tried."""
    folder, tried = tmp_path / "run", []

    def try_out(at):
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".run.lock").acquire(timeout=0)
        tried.append(at)

    monkeypatch.setattr(runs, "require_writable", try_out)
    monkeypatch.setattr(runs, "_train", lambda *_: None)
    pretrain(TINY, folder)
    assert tried == [folder]


def test_folder_that_can_have_no_lock_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with refused(f"{folder}: cannot be written (", RunError), alone_in(folder):
        raise AssertionError


def test_pretraining_goes_on_from_a_checkpoint(pretrained):
    """With a rate of nearly nothing it ends where it began; it is another run than one from random weights.

    Queue and momentum are those of the settings, not of the checkpoint.
    """
    still = replace(TRAINING, learning_rate=1e-9, warmup_learning_rate=1e-9, min_learning_rate=1e-9)
    queue = {"queue_size": TINY.model.queue_size + 64, "momentum": 0.5}
    run = pretrain(replace(TINY, pretraining=still, model=replace(TINY.model, **queue)), init=pretrained.folder)
    assert run.checkpoint().settings.model == replace(pretrained.checkpoint().settings.model, **queue)
    assert run.checkpoint().model.image_queue.shape[1] == queue["queue_size"]
    assert run.folder != pretrained.folder and run.metrics["init_sha256"] == pretrained.checkpoint().sha256
    before, after = pretrained.checkpoint().model.state_dict(), run.checkpoint().model.state_dict()
    for name, tensor in after.items():
        if "queue" not in name:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-3)  # the temperature is clamped
