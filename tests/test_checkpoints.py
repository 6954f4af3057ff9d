"""Checkpoints: what is written comes back; what is missing, damaged or does not fit is named in one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_cases import TINY_AMC, TINY_LAYER, tiny_model, tiny_settings
from refusal import refused
from safetensors.torch import load_file, save

from amc_lib import checkpoints, files
from amc_lib.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
)
from amc_lib.config import ObjectiveSettings, Settings, TrainingSettings
from amc_lib.evaluate import ground_phrases
from amc_lib.official import read_official
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.finetune import main as finetune_main

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(35))]
SETTINGS = Settings(
    tier="scenes",
    model=tiny_settings(),
    objective=ObjectiveSettings(alpha=0.25),
    amc=TINY_AMC,
    pretraining=TrainingSettings(batch_size=8),
    finetuning=TrainingSettings(batch_size=4, learning_rate=1 / 3),
)
TEMP = "text_encoder.bert.encoder.layer.2.crossattention.self.query.weight"


def write(folder: Path, seed: int = 0, **about: object) -> Path:
    return save_checkpoint(folder, tiny_model(torch.float32, seed), Tokenizer(VOCABULARY, 12), SETTINGS, about)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "checkpoint", note="λ")


def redescribe(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    change(content)
    (folder / DESCRIPTION).write_text(json.dumps(content), encoding="utf-8")


def reweigh(folder: Path, data: bytes) -> None:
    """Put other weights in place, with a hash that agrees."""
    (folder / WEIGHTS).write_bytes(data)
    redescribe(folder, lambda content: content.update(sha256=hashlib.sha256(data).hexdigest()))


def test_outputs_come_back_equal(folder):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    question = (images, ["w1 w2", "w30", "w4 w5 w6"], [0, 1, 1], TINY_LAYER)
    written = ground_phrases(tiny_model(torch.float32), Tokenizer(VOCABULARY, 12), *question)
    checkpoint = load_checkpoint(folder)
    for before, after in zip(written, ground_phrases(checkpoint.model, checkpoint.tokenizer, *question), strict=True):
        assert before.std() > 1e-4 and before.equal(after)


def test_settings_words_and_origin_come_back(folder):
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.settings == SETTINGS and checkpoint.about == {"note": "λ"}
    assert checkpoint.tokenizer.vocabulary == tuple(VOCABULARY) and checkpoint.tokenizer.max_tokens == 12
    assert checkpoint.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == weights_hash(folder)
    state = checkpoint.model.state_dict()
    assert state[TEMP.replace("text_encoder", "text_encoder_m")].equal(state[TEMP])


def test_only_the_online_model_above_the_trunk_is_stored(tmp_path):
    model = tiny_model(torch.float32, trunk="lite0")
    names = set(load_file(save_checkpoint(tmp_path, model, Tokenizer(VOCABULARY, 12), SETTINGS, {}) / WEIGHTS))
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} <= names
    assert not [name for name in names if "_m." in name or "queue" in name or name.startswith("trunk.")]


def test_same_weights_same_hash(tmp_path):
    hashes = [weights_hash(write(tmp_path / str(i), seed)) for i, seed in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_missing_checkpoint_lists_those_that_are_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    with refused(f"no checkpoint at 'nowhere' in {tmp_path}; shipped ones: none", CheckpointError):
        load_checkpoint("nowhere")
    write(tmp_path / "shipped" / "amc-tiny")
    write(tmp_path / "shipped" / "albef-tiny")
    with refused("shipped ones: albef-tiny, amc-tiny", CheckpointError):
        weights_hash("nowhere")
    assert load_checkpoint("amc-tiny").settings == SETTINGS
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (f"{tmp_path}/nowhere", "~/nowhere"):
        with refused(f"no checkpoint at '{tmp_path}/nowhere'; shipped ones:", CheckpointError):
            load_checkpoint(path)
    (tmp_path / "amc-tiny").mkdir()
    write(tmp_path / "mine")
    (tmp_path / "mine" / WEIGHTS).unlink()
    with refused(f"{tmp_path}/mine/{WEIGHTS}: cannot be read: No such file", CheckpointError):
        load_checkpoint("mine")


def zipped(data: bytes) -> bytes:
    """An archive that holds a file of these bytes."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(WEIGHTS, data)
    return file.getvalue()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_file_of_older_torch_that_is_cut_off_is_said_to_be(tmp_path, share):
    path = tmp_path / "old.pth"
    torch.save(tiny_model(torch.float32).state_dict(), path, _use_new_zipfile_serialization=False)
    assert TEMP in read_official(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refused(f"{path}: cannot be read as a checkpoint: it is cut off", CheckpointError):
        read_official(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1] + b"?", "is damaged (its hash is not the one in checkpoint.json)"),
        (lambda data: data[:-100], "is a safetensors file that is cut off or damaged"),
        (lambda data: data[:100], "is a safetensors file that is cut off or damaged"),
        (lambda data: zipped(data), "is a zip archive that torch.save did not write"),
        (lambda data: b"some text", "is neither safetensors nor what torch.save writes"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (lambda data: b"\n<!DOCTYPE html><html>", "is a web page, not the file itself"),
        (lambda data: b"", "is an empty file"),
        (lambda data: None, "cannot be read: No such file"),
    ],
    ids=["byte", "cut", "header", "zip", "text", "lfs", "page", "empty", "absent"],
)
def test_damaged_weights_are_named_for_what_they_are(folder, damage, message):
    path = folder / WEIGHTS
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    with refused(f"{path}: {message}", CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ['{"settings": ', "[1]"])
def test_broken_description_is_named(folder, text):
    (folder / DESCRIPTION).write_text(text)
    with refused(f"{folder / DESCRIPTION}: ", CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("sha256"), "damaged"),
        (lambda c: c.pop("settings"), "settings must be a mapping, got None"),
        (lambda c: c.pop("vocabulary"), "the vocabulary lacks [PAD]"),
        (lambda c: c["settings"].pop("amc"), "settings lacks amc"),
        (lambda c: c["settings"]["model"].update(embed_dim="8"), "settings.model.embed_dim must be a whole number"),
        (lambda c: c["settings"]["model"].update(box_head=True), "unknown parameter 'box_head'"),
        (lambda c: c["settings"]["model"]["vision"].update(depth=2), "does not fit the model: missing visual_encoder."),
        (lambda c: c["settings"]["model"].update(embed_dim=9), "size mismatch for vision_proj.weight"),
    ],
    ids=range(8),
)
def test_what_is_wrong_in_the_description_is_said(folder, change, message):
    redescribe(folder, change)
    with refused(message, CheckpointError) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 1000


def test_retired_fields_of_older_checkpoints_are_dropped(folder):
    redescribe(folder, lambda content: content["settings"]["model"].update(box_head=False))
    redescribe(folder, lambda content: content["settings"]["objective"].update(box_weight=0.0))
    assert load_checkpoint(folder).settings == SETTINGS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"query": t.pop(TEMP)}, f"does not fit the model: missing {TEMP}; unexpected query"),
        (lambda t: t | {"itm_head.weight": torch.zeros(2, 23)}, "size mismatch for itm_head.weight"),
        (lambda t: t | {TEMP: t[TEMP] / 0}, f"{TEMP} is not finite"),
    ],
    ids=["names", "shape", "values"],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    reweigh(folder, save(change(load_file(folder / WEIGHTS))))
    with refused(message, CheckpointError):
        load_checkpoint(folder)


def test_write_that_fails_leaves_the_old_checkpoint(folder, monkeypatch):
    before = load_checkpoint(folder).sha256

    def full(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write(folder, seed=1)
    monkeypatch.undo()
    assert load_checkpoint(folder).sha256 == before
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, WEIGHTS]


def test_new_weights_beside_an_old_description_are_named(folder, monkeypatch):
    """What a kill between the two renames leaves."""

    class Killed(BaseException): ...

    def killed_before_the_description(source, target):
        if target.name == DESCRIPTION:
            raise Killed
        rename(source, target)

    rename = files.os.replace
    monkeypatch.setattr(files.os, "replace", killed_before_the_description)
    with pytest.raises(Killed):
        write(folder, seed=1)
    with refused(f"{folder / WEIGHTS}: is damaged", CheckpointError):
        load_checkpoint(folder)


def test_pickle_in_place_of_the_weights_is_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    reweigh(folder, pickle.dumps(Trap()))
    with refused(str(folder), CheckpointError):
        load_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


def test_command_lines_name_the_weights_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=re.escape(f"no checkpoint at '{tmp_path / 'checkpoints' / 'ALBEF.pth'}'")):
        finetune_main(["--tier", "paper"])
